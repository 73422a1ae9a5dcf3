# SPDX-License-Identifier: Apache-2.0
"""A cluster's CA is replaced: stage by stage, with machines that are off, cut off, join, or are lied to."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from firstboot.cluster import rotation
from firstboot.cluster.rotation import PATH, Rotation, Stage
from firstboot.cluster.rotator import Brought, Standing, prepared
from firstboot.failure import BasaltError, DocumentError, Refused
from firstboot.pki import ca, keys, overlap
from firstboot.plan import OBJECTS, wanted
from firstboot.report import status
from firstboot.steps.rotation import PATIENCE, Behind, FollowRotation

from .support_pki import Company
from .support_rotation import Client, Cluster, Member, clusters


@pytest.fixture(scope="module", autouse=True)
def unhurried() -> Iterator[None]:
    """Do without waiting for the disk, thousands of times: no power is cut here that files would not survive anyhow."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    with clusters(tmp_path_factory.mktemp("cluster")) as made:
        made.found()
        made.join("cp-2", "control-plane")
        made.join("w-1")
    return made


@pytest.fixture
def cluster(template: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    with clusters(tmp_path, template) as made:
        yield made


def begin(cluster: Cluster, at: str = "cp-1", brought: Brought | None = None) -> Rotation:
    return asyncio.run(cluster.rotator(at).begin("alice", brought, dry=False)).rotation


def finish(cluster: Cluster, *without: str, at: str = "cp-2") -> Standing:
    return asyncio.run(cluster.rotator(at).finish(without))


def until_signing(cluster: Cluster) -> None:
    """Go on until the next CA is to sign, and does not yet."""
    while cluster.api.stage() is Stage.TRUST:
        cluster.go()


def subject(pem: str) -> str:
    return overlap.first(pem).subject.rfc4514_string()


def refused(call: Any) -> list[tuple[str, str]]:
    with pytest.raises(DocumentError) as raised:
        asyncio.run(call)
    assert all(failure.found and failure.remedy for failure in raised.value.failures)
    return [(failure.code, failure.path) for failure in raised.value.failures]


def files_of(member: Member) -> dict[str, bytes]:
    pki = member.root / "kubernetes/pki"
    return {path.name: path.read_bytes() for path in sorted(pki.iterdir()) if path.stem.startswith("ca")}


def test_all_stages_and_everybody_believes_everybody_all_the_time(cluster: Cluster, tmp_path: Path) -> None:
    """Also who has read the old CA before and never again, until it is forgotten on purpose."""
    outside = Client.of(cluster.members["cp-1"], tmp_path / "outside")
    keys_before = {name: files_of(member)["ca.key"] for name, member in members(cluster, "cp").items()}
    made = begin(cluster)
    stages = []
    for name in cycle(cluster.members):
        stages.append(cluster.api.stage())
        cluster.go(name)
        assert all(outside.reaches(server) for server in cluster.control_planes)
        if len(stages) > 2 * len(cluster.members) and not cluster.go():
            break
    assert stages[0] is Stage.TRUST and stages[-1] is Stage.SIGN
    for member in cluster.members.values():
        assert member.believed(signing=subject(made.new)), member.node.name
    after = {name: files_of(member)["ca.key"] for name, member in members(cluster, "cp").items()}
    assert set(after.values()) != set(keys_before.values()) and len(set(after.values())) == 1
    assert not list(tmp_path.rglob(f"ca-{made.id}.key")), "the key has found its place"
    assert not list((tmp_path / "w-1").rglob("ca*.key"))
    finish(cluster)
    cluster.settle()
    assert cluster.api.stage() is Stage.DONE
    for member in cluster.members.values():
        found = files_of(member)
        assert found["ca.crt"] == found["ca-trusted.crt"] == made.new.encode()
        assert "ca-beside.crt" not in found
        assert member.go() == [], "all is as it should be"
    for server in cluster.control_planes:
        assert not outside.reaches(server), "the old CA is refused"
        assert outside.believes(server), "certificates come with the voucher until they are made anew"
    wait_for_another_name(made)
    assert begin(cluster, "cp-2").id != made.id, "and it may begin again"
    cluster.settle()
    assert cluster.api.stage() is Stage.SIGN


def wait_for_another_name(made: Rotation) -> None:
    """Wait for the next second: authorities are named after theirs, and here a rotation takes less than one."""
    while ca.era(datetime.now(UTC)) == made.begun:
        time.sleep(0.01)


def members(cluster: Cluster, prefix: str) -> dict[str, Member]:
    return {name: each for name, each in cluster.members.items() if name.startswith(prefix)}


def test_a_machine_that_is_off_is_waited_for(cluster: Cluster) -> None:
    begin(cluster)
    cluster.settle("cp-1", "cp-2")
    assert cluster.api.stage() is Stage.TRUST
    standing = asyncio.run(cluster.rotator("cp-2").standing())
    assert standing is not None and standing.behind == ("w-1",)
    assert refused(cluster.rotator().finish([])) == [("rotation-refused", "ca")]
    cluster.settle()
    assert cluster.api.stage() is Stage.SIGN


def test_a_machine_that_was_off_while_all_others_got_new_certificates(cluster: Cluster) -> None:
    made = begin(cluster)
    until_signing(cluster)
    cluster.settle("cp-1", "cp-2")
    assert refused(cluster.rotator().finish([])) == [("rotation-behind", "w-1")]
    assert refused(cluster.rotator().finish(["w-1", "w-9"])) == [("node-unknown", "w-9")]
    cluster.settle("w-1")
    assert cluster.members["w-1"].believed(signing=subject(made.new))
    assert finish(cluster).behind == ("cp-1", "cp-2", "w-1"), "nobody has forgotten the old one yet"


def test_a_machine_that_is_lost_may_be_left_behind(cluster: Cluster) -> None:
    begin(cluster)
    until_signing(cluster)
    cluster.settle("cp-1", "cp-2")
    finish(cluster, "w-1")
    for name in ("cp-1", "cp-2"):
        cluster.members[name].go(2)
    assert cluster.strangers() == ["w-1 -> cp-1", "w-1 -> cp-2"]


def test_programs_are_given_the_time_to_read_their_certificates(cluster: Cluster) -> None:
    begin(cluster)
    cluster.settle()
    cluster.api.objects["/api/v1/nodes/w-1"]["metadata"].pop("annotations")
    worker = cluster.members["w-1"]
    worker.later, worker.told.when = 0.0, {}
    worker.go()
    assert refused(cluster.rotator().finish([])) == [("rotation-behind", "w-1")]
    worker.later = 361.0
    worker.go()
    finish(cluster)


def test_it_is_cancelled_as_long_as_nothing_is_signed(cluster: Cluster) -> None:
    before = {name: files_of(member) for name, member in cluster.members.items()}
    made = begin(cluster)
    cluster.settle("cp-1", "cp-2")
    assert files_of(cluster.members["cp-2"])["ca-beside.crt"] == made.new.encode()
    asyncio.run(cluster.rotator().cancel())
    cluster.settle()
    assert {name: files_of(member) for name, member in cluster.members.items()} == before
    assert refused(cluster.rotator().cancel()) == [("rotation-refused", "ca")]
    begin(cluster)
    cluster.settle()
    assert refused(cluster.rotator().cancel()) == [("rotation-refused", "ca")], "it signs"


def test_the_key_of_one_that_was_cancelled_while_a_machine_was_off_goes(cluster: Cluster) -> None:
    made = begin(cluster)
    cluster.go("cp-1", "cp-2")
    left = cluster.members["cp-2"].certificates.authority("ca").key_to_come(made.id)
    assert left.exists()
    asyncio.run(cluster.rotator().cancel())
    cluster.settle("cp-1")
    other = begin(cluster)
    cluster.settle()
    assert cluster.members["cp-2"].believed(signing=subject(other.new)) and not left.exists()


def test_one_at_a_time(cluster: Cluster) -> None:
    dry = asyncio.run(cluster.rotator().begin("alice", dry=True))
    assert (cluster.api.stage(), dry.behind) == (None, ("cp-1", "cp-2", "w-1"))
    assert not [
        name for name in files_of(cluster.members["cp-1"]) if name.startswith("ca-") and "key" in name
    ]
    quicker = asyncio.run(cluster.rotator("cp-2").begin("bob", dry=True)).rotation
    cluster.api.between.append(
        lambda: cluster.api.objects.update({PATH: dict(rotation._object(quicker, "7"))})
    )
    assert refused(cluster.rotator().begin("alice", dry=False)) == [("rotation-refused", "ca")]
    assert not list(cluster.folder.rglob("ca-*.key"))
    assert refused(cluster.rotator("cp-2").begin("bob", dry=False)) == [("rotation-refused", "ca")]


def test_the_key_of_a_control_plane_that_is_gone_is_not_to_be_had(cluster: Cluster) -> None:
    begin(cluster)
    cluster.shut("cp-1")
    with pytest.raises(
        BasaltError, match="nobody gives this node the key of the cluster's next CA"
    ) as raised:
        cluster.members["cp-2"].go()
    assert "rotate-ca --cancel" in raised.value.hint
    cluster.members["w-1"].go(3)
    assert cluster.api.stage() is Stage.TRUST, "it does not trust what it could not sign with"


EVIL = Company.make("kubernetes")


def by_a_stranger(made: Rotation, worker: Member) -> Rotation:
    return replace(made, new=EVIL.pem, voucher=overlap.voucher(_issuer(EVIL), EVIL.path[0]).decode())


def by_the_holder_of_a_nodes_key(made: Rotation, worker: Member) -> Rotation:
    agent = worker.certificates.certificate("agent")
    own = Company.make("basalt:node:w-1", key=keys.read_key(agent.key.read_bytes()))
    return replace(made, new=own.pem, voucher=agent.certificate.read_text())


def of_another_origin(made: Rotation, worker: Member) -> Rotation:
    return replace(made, old=EVIL.pem)


def with_one_more_behind_the_new(made: Rotation, worker: Member) -> Rotation:
    return replace(made, new=made.new + EVIL.pem)


def with_one_more_behind_the_old(made: Rotation, worker: Member) -> Rotation:
    return replace(made, old=made.old + EVIL.pem)


def with_one_more_behind_the_voucher(made: Rotation, worker: Member) -> Rotation:
    return replace(made, voucher=made.voucher + EVIL.pem)


FORGERIES = (
    by_a_stranger,
    by_the_holder_of_a_nodes_key,
    of_another_origin,
    with_one_more_behind_the_new,
    with_one_more_behind_the_old,
    with_one_more_behind_the_voucher,
)


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("stage", list(Stage))
def test_nobody_trusts_whom_their_own_authority_has_not_vouched_for(
    template: Cluster, prospect: Rotation, forge: Callable[[Rotation, Member], Rotation], stage: Stage
) -> None:
    """Who may write this object is not for that the cluster's administrator."""
    forged = replace(forge(prospect, template.members["w-1"]), stage=stage)
    for name in ("w-1", "cp-2"):
        member = template.members[name]
        before = files_of(member)
        with pytest.raises(BasaltError):
            follower(member)._follow(forged)
        assert files_of(member) == before and not member.record.exists()


@pytest.fixture(scope="module")
def prospect(template: Cluster) -> Rotation:
    """What a rotation of the cluster would be."""
    return prepared(template.members["cp-1"].certificates.authority("ca"), "alice", None)[1]


def follower(member: Member) -> FollowRotation:
    return FollowRotation(member.node, member.certificates, member.record)


def test_who_has_the_new_authority_takes_no_stranger_for_the_old_one(
    signing: Cluster, tmp_path: Path
) -> None:
    with clusters(tmp_path, signing) as cluster:
        cluster.settle()
        found = asyncio.run(rotation.read(cluster.api))
        assert found is not None
        worker = cluster.members["w-1"]
        follower(worker)._follow(found.rotation)
        for forge in FORGERIES:
            with pytest.raises(BasaltError):
                follower(worker)._follow(forge(found.rotation, worker))
        finish(cluster)
        cluster.settle()
        with pytest.raises(BasaltError, match="were not vouched for"):
            follower(worker)._follow(found.rotation)


def _issuer(company: Company) -> Any:
    from firstboot.pki.ca import Issuer

    return Issuer(company.path, company.key)


@pytest.fixture(scope="module")
def signing(template: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The same when the next CA is to sign, and no machine has seen that yet."""
    with clusters(tmp_path_factory.mktemp("signing"), template) as made:
        begin(made)
        until_signing(made)
    return made


@pytest.mark.parametrize("cut", range(8))
def test_the_power_may_be_cut_between_any_two_files(
    signing: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    with clusters(tmp_path, signing) as cluster:
        cut_off(cluster.members["cp-1"], monkeypatch, cut)
        cluster.settle("cp-1")
        made = asyncio.run(rotation.read(cluster.api))
        assert made is not None and cluster.members["cp-1"].believed(signing=subject(made.rotation.new))
        cluster.settle("w-1")


def cut_off(member: Member, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """Have the agent end when so many files have found their places."""
    left, original = [cut], os.replace

    def replaced(*arguments: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        original(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", replaced)
        member.go(3)


def token(cluster: Cluster) -> str:
    made: str = cluster.run(cluster._admission(cluster.members["cp-1"]).new_token(None, 60)).token.text
    return made


def test_machines_that_join_before_all_trust_the_new_one_are_waited_for(cluster: Cluster) -> None:
    old = token(cluster)
    made = begin(cluster)
    cluster.settle("cp-1", "cp-2")
    cluster.join("w-2", token=old)
    cluster.join("cp-3", "control-plane")
    cluster.settle("cp-1", "cp-2", "w-1")
    assert cluster.api.stage() is Stage.TRUST, "who has just joined counts"
    cluster.settle()
    for member in cluster.members.values():
        assert member.believed(signing=subject(made.new)), member.node.name


def test_machines_join_while_the_new_one_signs_and_afterwards(signing: Cluster, tmp_path: Path) -> None:
    with clusters(tmp_path, signing) as cluster:
        late = token(cluster)
        cluster.settle()
        with pytest.raises(DocumentError, match="from before the cluster's CA was replaced"):
            cluster.join("w-2", token=late)
        cluster.join("cp-3", "control-plane", token(cluster))
        cluster.settle()
        assert files_of(cluster.members["cp-3"]) == files_of(cluster.members["cp-1"])
        finish(cluster)
        cluster.settle()
        cluster.join("w-2")
        cluster.settle()
        assert not cluster.members["w-2"].record.exists(), "there is nothing that it would have to forget"
        standing = asyncio.run(cluster.rotator().standing())
        assert standing is not None and (standing.rotation.stage, standing.behind) == (Stage.DONE, ())


ROOT = Company.make("Company Root")
ISSUING = Company.make("Company Kubernetes CA", ROOT, depth=0)
NEXT = Company.make("Company Kubernetes CA", ROOT, depth=0, days=300)
ELSEWHERE = Company.make("Company Kubernetes CA 2", Company.make("Another Root"))


def given(company: Company) -> Brought:
    return Brought(company.pem.encode(), company.key_pem.encode())


def test_a_companys_authority_is_replaced_by_another_of_the_company(tmp_path: Path) -> None:
    """It may not vouch for one in a chain, so programs have to have read the new one before it signs."""
    with clusters(tmp_path) as cluster:
        cluster.found(certificates=ISSUING.document)
        cluster.join("w-1")
        cluster.go()
        pod = Client.of(cluster.members["cp-1"], tmp_path / "pod")
        pod.authorities = ROOT.pem
        made = begin(cluster, brought=given(NEXT))
        assert not made.chainable
        cluster.members["w-1"].later = 0.0
        cluster.settle()
        assert cluster.api.stage() is Stage.TRUST, "it says so when its programs have read it"
        cluster.members["w-1"].later = 361.0
        cluster.settle()
        assert cluster.api.stage() is Stage.SIGN
        assert pod.believes(cluster.members["cp-1"])
        finish(cluster, at="cp-1")
        cluster.settle()
        assert files_of(cluster.members["w-1"])["ca.crt"].decode() == NEXT.pem
        assert pod.believes(cluster.members["cp-1"]) and not pod.reaches(cluster.members["cp-1"])


@pytest.mark.parametrize(
    ("brought", "failures"),
    [
        (None, [("rotation-refused", "ca")]),
        (given(ELSEWHERE), [("rotation-refused", "ca")]),
        (given(ISSUING), [("bad-key", "key")]),
        (replace(given(NEXT), key=ISSUING.key_pem.encode()), [("bad-key", "key")]),
        (Brought(b"x", b"y"), [("bad-certificate", "certificate"), ("bad-key", "key")]),
    ],
)
def test_what_cannot_take_the_place_of_a_companys_authority(
    tmp_path: Path, brought: Brought | None, failures: list[tuple[str, str]]
) -> None:
    with clusters(tmp_path) as cluster:
        cluster.found(certificates=ISSUING.document)
        assert refused(cluster.rotator().begin("alice", brought, dry=False)) == failures
        assert cluster.api.stage() is None and not list(tmp_path.rglob("ca-*.key"))


def test_an_own_authority_gives_way_to_a_companys(cluster: Cluster) -> None:
    made = begin(cluster, brought=given(ELSEWHERE))
    assert made.chainable
    cluster.settle()
    assert cluster.api.stage() is Stage.SIGN
    finish(cluster)
    cluster.settle()
    assert files_of(cluster.members["cp-2"])["ca.crt"].decode() == ELSEWHERE.pem
    assert files_of(cluster.members["cp-2"])["ca-trusted.crt"] == keys.certificate_pem(ELSEWHERE.path[0])


def test_an_own_authority_gives_way_to_one_that_was_requested(cluster: Cluster) -> None:
    asked = asyncio.run(cluster.rotator().request())
    place = cluster.members["cp-1"].certificates.authority("ca").requested
    held = place.read_bytes()
    assert asyncio.run(cluster.rotator().request()) != "" and place.read_bytes() == held
    signed = Brought(Company.signed(asked, ROOT).encode(), None)
    assert refused(cluster.rotator("cp-2").begin("bob", signed, dry=False)) == [("bad-key", "key")]
    asyncio.run(cluster.rotator().begin("alice", signed, dry=True))
    assert place.exists() and cluster.api.stage() is None
    made = begin(cluster, brought=signed)
    assert made.chainable and not place.exists()
    assert str(held.splitlines()[1], "ascii") not in repr(cluster.api.objects)
    cluster.settle()
    finish(cluster)
    cluster.settle()
    for name in ("cp-1", "cp-2"):
        own = files_of(cluster.members[name])
        assert (own["ca.crt"], own["ca.key"]) == (signed.certificate, held)
    assert begin(cluster, brought=given(NEXT)).chainable, "the request allows authorities below it"


def test_a_certificate_for_another_request_is_refused(cluster: Cluster) -> None:
    wanted = [("bad-key", "key")]
    for brought in (Brought(NEXT.pem.encode(), None), Brought(b"x", None)):
        found = refused(cluster.rotator().begin("alice", brought, dry=True))
        assert found[-1:] == wanted, "nothing was requested"
    asked = asyncio.run(cluster.rotator().request())
    place = cluster.members["cp-1"].certificates.authority("ca").requested
    assert refused(cluster.rotator().begin("alice", Brought(NEXT.pem.encode(), None), dry=True)) == wanted
    place.write_text("damaged")
    with pytest.raises(BasaltError, match="no readable private key"):
        asyncio.run(cluster.rotator().request())
    place.unlink()
    asyncio.run(cluster.rotator().request())
    late = Brought(Company.signed(asked, ROOT).encode(), None)
    assert refused(cluster.rotator().begin("alice", late, dry=True)) == wanted


def test_an_object_that_is_gone_is_written_again_by_who_has_begun_to_sign(cluster: Cluster) -> None:
    begin(cluster)
    cluster.settle()
    before = cluster.api.objects.pop(PATH)["data"]
    assert cluster.members["w-1"].go() == []
    assert "ca-rotation" in cluster.members["cp-2"].go()
    assert cluster.api.objects[PATH]["data"] == before
    cluster.settle()


@pytest.mark.parametrize("change", [{"id": "../../ca"}, {"stage": "soon"}, {"old": None}])
def test_a_damaged_object_is_told_and_not_followed(cluster: Cluster, change: dict[str, Any]) -> None:
    begin(cluster)
    data = {**cluster.api.objects[PATH]["data"], **change}
    cluster.api.objects[PATH]["data"] = {key: value for key, value in data.items() if value is not None}
    with pytest.raises(BasaltError, match="basalt-ca-rotation in kube-system is damaged"):
        cluster.members["w-1"].go()
    assert not cluster.members["w-1"].record.exists()


def test_a_cluster_that_does_not_answer_is_no_reason_to_say_nothing(cluster: Cluster) -> None:
    begin(cluster)
    cluster.go()
    cluster.api.objects[PATH]["data"] = {}
    standing = asyncio.run(cluster.rotator().standing())
    assert standing is not None and (standing.rotation.stage, standing.nodes) == (Stage.TRUST, ())


def test_who_keeps_others_waiting_is_a_failure_after_some_time(prospect: Rotation) -> None:
    behind, since = Behind(prospect, ("w-1",)), datetime.fromisoformat(prospect.since)
    assert list(behind.failures(prospect, since + PATIENCE - timedelta(seconds=1))) == []
    [failure] = behind.failures(prospect, since + PATIENCE)
    assert (failure.code, "w-1" in failure.found) == ("rotation-behind", True)
    done, signs = prospect.at(Stage.DONE), prospect.at(Stage.SIGN)
    for known in (None, done, signs):
        assert list(behind.failures(known, since + 2 * PATIENCE)) == []
    assert list(Behind(prospect, ()).failures(prospect, since + 2 * PATIENCE)) == []
    assert behind.shown(prospect) == status.Rotation("trust", prospect.since, ("w-1",))
    assert behind.shown(signs) == status.Rotation("sign", signs.since, None), "nobody has looked yet"
    assert behind.shown(done) is None


def test_services_that_read_the_ca_when_they_start_start_anew(template: Cluster, prospect: Rotation) -> None:
    def marks(member: Member, stage: Stage | None) -> dict[str, Any]:
        node = replace(member.node, rotation=prospect.at(stage) if stage else None)
        return {each.unit: each.revision for each in wanted(node).all_services}

    for member, units in (
        (template.members["cp-1"], {"kube-controller-manager", "flanneld"}),
        (template.members["w-1"], {"api-balancer", "flanneld"}),
    ):
        before, trusting, signing = (marks(member, each) for each in (None, Stage.TRUST, Stage.SIGN))
        assert {unit for unit in before if before[unit] != trusting[unit]} == units
        assert {unit for unit in before if trusting[unit] != signing[unit]} == units - {"api-balancer"}


def test_agents_of_workers_may_read_the_rotation(cluster: Cluster) -> None:
    role, binding = rotation.ACCESS
    assert role["rules"][0]["resourceNames"] == ["basalt-ca-rotation"] and role["rules"][0]["verbs"] == [
        "get"
    ]
    assert role in OBJECTS and binding in OBJECTS
    assert "PRIVATE" not in str(cluster.api.objects)
    begin(cluster)
    assert "PRIVATE" not in str(cluster.api.objects), "no key is in the cluster's objects"


def test_an_authority_that_has_ended_cannot_vouch_any_more(template: Cluster) -> None:
    authority = template.members["cp-1"].certificates.authority("ca")
    late = x509.load_pem_x509_certificate(authority.certificate.read_bytes()).not_valid_after_utc
    with pytest.raises(BasaltError, match="the clock says"):
        prepared(authority, "alice", None, late.astimezone(UTC) + timedelta(days=1))


def test_a_record_comes_through_a_restart(cluster: Cluster) -> None:
    made = begin(cluster)
    cluster.go("cp-1")
    member = cluster.members["cp-1"]
    assert member.present.rotation == made
    shutil.copy(member.record, member.root / "copy.json")
    assert Rotation.load(member.root / "copy.json") == made
    with pytest.raises(Refused):
        asyncio.run(cluster.rotator().begin("alice", dry=True))
