# SPDX-License-Identifier: Apache-2.0
"""A cluster whose datastore somebody else runs: what its nodes run, tell each other, and do not do."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.agent.rounds import Agent
from firstboot.agent.standing import Course, Standing
from firstboot.backup.custodian import Custodian
from firstboot.backup.locks import Passphrase
from firstboot.backup.making import Source
from firstboot.backup.places import Places
from firstboot.cluster import credentials, quorum, settings
from firstboot.cluster.leaving import Leaver
from firstboot.cluster.membership import Membership
from firstboot.cluster.partners import ExternalPartners, partners
from firstboot.cluster.records import Machine as Joins
from firstboot.cluster.voters import voters
from firstboot.codes import Code
from firstboot.config import Config, DatastoreType
from firstboot.datastores.external import ExternalEtcd, Login
from firstboot.datastores.watch import Watch
from firstboot.facts import Facts
from firstboot.failure import BasaltError, Refused
from firstboot.intake import Intake, Taken
from firstboot.kube import Client
from firstboot.milestones import Milestones
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import Memory, missing_needs, plan, wanted
from firstboot.reconcile import Pass
from firstboot.report.status import Part, Phase, State, Status
from firstboot.services.model import Node
from firstboot.steps.claim import Claim
from firstboot.steps.credentials import DatastoreCredentials
from firstboot.steps.files import Files
from firstboot.steps.model import Machine, Step
from firstboot.steps.objects import Applied
from firstboot.systemd import Systemd

from .support_datastore import in_pieces

# What they hold is looked at elsewhere; nothing here reads them.
SECTION: dict[str, Any] = {
    "endpoints": ["https://192.0.2.5:2379", "https://192.0.2.6:2379"],
    "ca": "the CA",
    "client-certificate": "the certificate",
    "client-key": "s3cret",
    "prefix": "/production",
}
DATASTORE = {"type": "external", "external": SECTION}
TOKEN = "0123456789abcdef0123456789abcdef"
WAY_IN = {"token": TOKEN, "endpoints": ["192.0.2.1"]}


def founder(**document: Any) -> Node:
    config = Config.from_dict({"role": "control-plane", "datastore": DATASTORE, **document})
    return Node(config, "cp-1", "192.0.2.1")


def partner() -> Node:
    """Return a control plane that has joined, as its record and its short document make it."""
    common = settings.of(founder().config)
    document = settings.merged({"role": "control-plane", "cluster": WAY_IN}, common, SECTION)
    known = ("192.0.2.1", "192.0.2.2")
    return Node(Config.from_dict(document), "cp-2", "192.0.2.2", control_planes=known)


def steps(node: Node) -> dict[str, Step]:
    described = catalogue(node.config, node.name, [node.ip])
    made = plan(node, wanted(node), described, Memory(Ledger(), Applied(), Path("membership.json")))
    assert missing_needs(made) == set()
    return {step.name: step for step in made}


@pytest.mark.parametrize("node", [founder(), partner()], ids=["founder", "partner"])
def test_a_control_plane_runs_no_datastore_and_waits_for_somebody_elses(node: Node) -> None:
    goal = wanted(node)
    assert goal.watch is not None and goal.watch.founds == (not node.config.joins)
    found = steps(node)
    assert {"stopped:etcd", "stopped:k8s-dqlite"} <= set(found)
    assert isinstance(found["datastore"], Claim)
    assert "datastore" in found["unit:kube-apiserver"].needs
    # Nor is it given what would lead it elsewhere when it ends and systemd starts it again.
    assert found["files:kube-apiserver"].needs == ("datastore",)
    tried = {file.path for file in cast(Files, found["files:datastore"]).files}
    given = {file.path for file in cast(Files, found["files:kube-apiserver"]).files}
    assert len(tried) == 3 and not tried & given
    order = list(found)
    assert order.index("files:datastore") < order.index("datastore") < order.index("unit:kube-apiserver")


def test_the_api_server_is_given_all_endpoints_and_the_files() -> None:
    [service] = [each for each in wanted(founder()).services if each.unit == "kube-apiserver"]
    arguments = service.arguments
    assert arguments["etcd-servers"] == "https://192.0.2.5:2379,https://192.0.2.6:2379"
    assert arguments["etcd-prefix"] == "/production"
    modes = {str(file.path): (file.data, file.mode, file.owner) for file in service.files}
    owner = ("kube-apiserver", "kube-apiserver")
    assert modes[arguments["etcd-cafile"]] == (b"the CA", 0o644, None)
    assert modes[arguments["etcd-certfile"]] == (b"the certificate", 0o644, owner)
    assert modes[arguments["etcd-keyfile"]] == (b"s3cret", 0o600, owner)
    assert b"s3cret" not in service.environment_file.data
    changed = founder(datastore={**DATASTORE, "external": {**SECTION, "client-key": "another"}})
    [renewed] = [each for each in wanted(changed).services if each.unit == "kube-apiserver"]
    assert renewed.revision != service.revision, "what is renewed is taken up by a restart"


def test_the_cluster_has_no_authority_for_it() -> None:
    described = catalogue(founder().config, "cp-1", ["192.0.2.1"])
    assert {each.name for each in described.authorities} == {"ca", "front-proxy-ca", "admin-client-ca"}
    assert not [each.name for each in described.certificates if "etcd" in each.name or "dqlite" in each.name]
    assert [folder.name for folder in described.directories] == ["kubernetes", "pki"]


def test_settings_for_everybody_hold_no_secret() -> None:
    common = settings.of(founder().config)
    assert common["datastore"] == {"type": "external"}
    worker = settings.merged({"role": "worker", "cluster": WAY_IN}, common)
    assert Config.from_dict(worker).datastore.external.client_key is None


def test_a_control_plane_that_joins_is_told_and_its_own_document_goes_first() -> None:
    common = settings.of(founder().config)
    assert credentials.take(common, credentials.give(founder().config)) == SECTION
    own = Config.from_dict({"role": "control-plane"})
    assert credentials.give(own) == {} and credentials.take(settings.of(own), {}) is None
    assert partner().config.datastore == founder().config.datastore
    datastore = {"type": "external", "external": {**SECTION, "client-key": "its own"}}
    document = {"role": "control-plane", "cluster": WAY_IN, "datastore": datastore}
    assert settings.conflicts(settings.stated(document), common) == ()
    assert settings.impossible(document, common) == ()
    joined = Config.from_dict(settings.merged(document, common, SECTION))
    assert joined.datastore.external.client_key == "its own"


@pytest.mark.parametrize(
    ("datastore", "code"),
    [
        ({"type": "dqlite"}, Code.DIFFERS_FROM_CLUSTER),
        ({"backup": {"recipient": "somebody"}}, Code.NOT_POSSIBLE),
    ],
)
def test_what_a_document_cannot_have_in_such_a_cluster(datastore: dict[str, Any], code: Code) -> None:
    document = {"role": "control-plane", "cluster": WAY_IN, "datastore": datastore}
    common = settings.of(founder().config)
    found = (
        *settings.conflicts(settings.stated(document), common),
        *settings.impossible(document, common),
    )
    assert [each.code for each in found] == [code]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"endpoints": 1}', '{"endpoints": [], "ca": "a"}'])
def test_what_is_told_has_to_be_whole(text: str) -> None:
    with pytest.raises(BasaltError, match="cannot be used"):
        credentials.take(settings.of(founder().config), {credentials.GIVEN: text})


def test_the_record_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    path = tmp_path / "membership.json"
    record = Membership(settings.of(founder().config), ("192.0.2.1",), (), SECTION)
    record.save(path)
    assert Membership.load(path) == record and "s3cret" not in repr(record)
    assert path.stat().st_mode & 0o777 == 0o600
    content = json.loads(path.read_text())
    del content["external"]
    path.write_text(json.dumps(content))
    assert Membership.load(path) == replace(record, external=None)


class Kube(Client):
    """The Secret, as far as somebody has made it."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    async def get(self, path: str) -> Any:
        assert path == "/api/v1/namespaces/kube-system/secrets/basalt-datastore"
        return self.found


def machine(client: Client) -> Machine:
    return Machine(cast(Any, None), client, {})


def test_a_changed_document_reaches_the_other_control_planes(tmp_path: Path) -> None:
    path = tmp_path / "membership.json"
    Membership(settings.of(founder().config), ("192.0.2.1",), (), SECTION).save(path)
    changed = {**SECTION, "client-key": "renewed"}
    secret = credentials.secret(
        founder(datastore={**DATASTORE, "external": changed}).config.datastore.external
    )
    step = DatastoreCredentials(path)
    assert asyncio.run(step.check(machine(Kube(None)))) is None
    told = machine(Kube(secret))
    finding = asyncio.run(step.check(told))
    assert finding is not None and "renewed" not in f"{finding}"
    asyncio.run(step.apply(told))
    assert asyncio.run(step.check(told)) is None
    record = Membership.load(path)
    assert record is not None and record.external == changed
    damaged = {**secret, "data": {"external": base64.b64encode(b"{}").decode()}}
    with pytest.raises(BasaltError, match="cannot be used"):
        asyncio.run(step.check(machine(Kube(damaged))))


def test_who_tells_and_who_is_told() -> None:
    telling, told = steps(founder()), steps(partner())
    assert "objects:datastore" in telling and "datastore-credentials" not in telling
    assert "datastore-credentials" in told and "objects:datastore" not in told
    # What opens nothing here must not reach the others.
    assert set(telling["objects:datastore"].needs) == {"datastore", "apiserver"}
    own = steps(Node(Config.from_dict({"role": "control-plane"}), "cp-1", "192.0.2.1"))
    assert not {"objects:datastore", "datastore-credentials", "files:datastore"} & set(own)


def test_the_status_shows_it_as_a_component_with_failures_of_its_own(tmp_path: Path) -> None:
    node = founder()
    memory = Memory(Ledger(), Applied(), tmp_path / "membership.json")
    course = Course.of(node, memory, [node.ip])
    leaver = Leaver(cast(Systemd, None), cast(Client, None), tmp_path / "leaving.json")
    intake, milestones = cast(Intake, None), Milestones(tmp_path / "milestones.json")
    standing = Standing(cast(Client, None), memory, leaver, Places(tmp_path, (), owner=None))
    agent = Agent(cast(Systemd, None), intake, milestones, standing)
    parts = {service.unit: Part(State.HEALTHY) for service in course.wanted.all_services}
    taken = Taken(Facts("cp-1"), node=node, addresses=(node.ip,))

    def shown() -> Status:
        return agent.account.running(taken, course, Pass((), {}, ()), parts)

    assert next(iter(shown().components.items())) == ("datastore", Part(State.STARTING, "not asked yet"))
    assert shown().phase is Phase.STARTING
    assert course.wanted.watch is not None
    course.wanted.watch.login = Login.below(tmp_path)
    reason = asyncio.run(course.wanted.watch(cast(Client, None)))
    status = shown()
    assert status.components["datastore"] == Part(State.STARTING, reason or "")
    assert [failure.code for failure in status.failures] == [Code.DATASTORE_REFUSES] * 2
    agent.standing.current = status
    assert not agent.standing.serves(), "nobody is let in"


def test_its_claim_has_a_place_that_no_other_record_has() -> None:
    places = Places()
    others = {getattr(places, name) for name, kind in vars(Places).items() if isinstance(kind, property)}
    assert places.moved in others and Watch.record.parent == places.state
    assert Watch.record not in others


def test_there_is_no_member_to_add_or_to_take_out(tmp_path: Path) -> None:
    followed = replace(founder(), control_planes=("192.0.2.1",))
    assert partners(DatastoreType.EXTERNAL) is ExternalPartners
    side = ExternalPartners(cast(Client, None), tmp_path / "membership.json", lambda: followed, lambda: True)
    joins = Joins("cp-2", "control-plane", "192.0.2.2", "f" * 64)
    assert asyncio.run(side.ready_for(joins)) is None
    assert asyncio.run(side.admit(joins)) == []
    members = asyncio.run(voters(DatastoreType.EXTERNAL, cast(Client, None)).members())
    assert quorum.refusal(members, "192.0.2.2") is None
    assert quorum.member_on(members, "192.0.2.2") is None


def test_its_data_is_not_copied_and_not_replaced(tmp_path: Path) -> None:
    node = founder()
    described = catalogue(node.config, node.name, [node.ip], tmp_path / "kubernetes")
    source = Source(node, described, ExternalEtcd(node.config.datastore.external), "1.2.3", "v1.37.2")
    keeper = Custodian(lambda: source, lambda: None, nullcontext, Places(tmp_path, (), owner=None))

    async def backup() -> None:
        async with keeper.backup(Passphrase("correct horse battery")):
            raise AssertionError("nothing is taken")

    async def restore() -> None:
        await keeper.restore(Passphrase("correct horse battery"), in_pieces(b"backup"))

    async def listed() -> None:
        keeper.kept()

    for refused in (backup, restore, keeper.survey, keeper.recover, keeper.defragment, listed):
        with pytest.raises(Refused, match="somebody else runs") as raised:
            asyncio.run(refused())
        assert raised.value.failures[0].code == Code.NOT_POSSIBLE
    assert list(tmp_path.iterdir()) == []
