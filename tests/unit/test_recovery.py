# SPDX-License-Identifier: Apache-2.0
"""A datastore that has lost its majority: what is told before, what is refused, and what a node is afterwards."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot import files, pki
from firstboot.backup import archive
from firstboot.backup.places import Decided
from firstboot.backup.recovering import Other, Survey, answering
from firstboot.cluster import settings
from firstboot.cluster.fence import LeftBehind
from firstboot.cluster.membership import Membership
from firstboot.failure import BasaltError, Refused
from firstboot.pki import ca
from firstboot.pki.verdict import Ledger

from .support_datastore import AS_OF, DATA, REVISION, ControlPlane, answer
from .support_disk import PowerCut, power_cut
from .test_backup_restore import finish

OTHERS = ("192.0.2.8", "192.0.2.9")
CA = "dqlite/ca"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    plane = ControlPlane.make(tmp_path_factory.mktemp("made") / "node")
    common = settings.of(plane.node.config)
    Membership(common, ("192.0.2.7", *OTHERS), ("192.0.2.8:9000",)).save(plane.places.membership)
    return plane


@pytest.fixture
def survivor(made: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """A control plane of three whose datastore has no leader; the others are off."""
    plane = made.copied(tmp_path / "node")
    plane.joined_by(*OTHERS)
    plane.store.down = True
    answer(monkeypatch)
    return plane


def refused(node: ControlPlane) -> tuple[str, str]:
    """Ask for both, and return the code and what was found; the node is as it was."""
    before = node.files()
    failures = []
    for ask in (node.custodian.survey, node.custodian.recover):
        with pytest.raises(Refused) as raised:
            asyncio.run(ask())
        failures.append(raised.value.failures)
    assert node.files() == before and "decided" not in node.woken
    assert failures[0] == failures[1]
    return failures[0][0].code, failures[0][0].found


def test_what_a_recovery_would_be_is_told_and_nothing_done(survivor: ControlPlane) -> None:
    before = survivor.files()
    found = asyncio.run(survivor.custodian.survey())
    lost = tuple(Other(host, "voter", answers=False) for host in OTHERS)
    assert found == Survey("192.0.2.7", "voter", 7, 98123, REVISION, AS_OF, lost)
    assert survivor.files() == before
    assert survivor.woken == ["rests", "runs"]


def test_a_recovered_node_goes_on_alone_with_its_data_under_another_authority(survivor: ControlPlane) -> None:
    kept = [survivor.catalogue.authority(name) for name in ("ca", "front-proxy-ca", "admin-client-ca")]
    before = [path.read_bytes() for each in kept for path in each.paths]
    old = survivor.catalogue.authority(CA).certificate.read_bytes()
    LeftBehind("192.0.2.9", "2026-11-23T09:00:00Z").save(survivor.places.left_behind)
    asyncio.run(survivor.custodian.recover())
    # The record is there before the datastore could run again.
    assert survivor.woken == ["rests", "runs", "decided"]
    decided = Decided.load(survivor.places.decided)
    assert decided and (decided.alone, decided.revision) == ("192.0.2.7", REVISION)
    assert "PRIVATE" not in repr(decided)
    survivor.places.rotation.write_text("{}")
    finish(survivor)
    assert (survivor.store.folder / "data").read_bytes() == DATA
    membership = Membership.load(survivor.places.membership)
    assert membership and (membership.control_planes, membership.peers) == (("192.0.2.7",), ())
    left = sorted(path.name for path in survivor.places.state.iterdir())
    assert left == ["ca-rotation.json", "membership.json"], "the cluster goes on replacing its CA"
    after = [path.read_bytes() for each in kept for path in each.paths]
    assert after == before, "workers and people trust what they trusted"
    new = survivor.catalogue.authority(CA).certificate.read_bytes()
    assert ca.succeeded(old, new) and not ca.succeeded(new, old)
    pki.apply(survivor.catalogue, Ledger())
    issuer = ca.load(survivor.catalogue.authority(CA))
    assert issuer.certificate.subject.rfc4514_string() == "OU=recovered,CN=dqlite-ca"


def test_the_power_may_be_cut_at_any_point_of_the_end(survivor: ControlPlane, tmp_path: Path) -> None:
    asyncio.run(survivor.custodian.recover())
    decided, cuts = survivor, 0
    while True:
        survivor = decided.copied(tmp_path / f"node-{cuts}")
        try:
            with power_cut(after=cuts):
                finish(survivor)
            break
        except PowerCut:
            cuts += 1
        survivor.places.sweep()
        finish(survivor)
        membership = Membership.load(survivor.places.membership)
        assert membership and membership.control_planes == ("192.0.2.7",), f"cut off after {cuts - 1}"
        assert (survivor.store.folder / "data").read_bytes() == DATA
        assert not survivor.places.decided.exists()
    assert cuts > 10


def test_the_power_may_be_cut_at_any_point_of_the_beginning(survivor: ControlPlane, tmp_path: Path) -> None:
    whole, cuts = survivor, 0
    while True:
        survivor = whole.copied(tmp_path / f"node-{cuts}")
        survivor.joined_by(*OTHERS)
        survivor.store.down = True
        before = survivor.files()
        try:
            with power_cut(after=cuts):
                asyncio.run(survivor.custodian.recover())
            break
        except PowerCut:
            cuts += 1
        survivor.places.sweep()
        if not survivor.places.decided.exists():
            left = {name: data for name, data in survivor.files().items() if not name.endswith(".new")}
            assert left == before, f"cut off after {cuts - 1}"
    assert cuts > 3


def test_a_datastore_that_works_is_not_recovered(survivor: ControlPlane) -> None:
    survivor.store.down = False
    code, found = refused(survivor)
    assert code == "has-quorum" and "works" in found
    assert survivor.woken == [], "it was not stopped to find that out"


def test_a_datastore_that_answers_without_a_leader_is_recovered(survivor: ControlPlane) -> None:
    """As etcd does."""
    survivor.store.down = False
    survivor.store.members = [replace(member, leader=False) for member in survivor.store.members]
    assert asyncio.run(survivor.custodian.survey()).others


def test_an_election_is_waited_for(survivor: ControlPlane) -> None:
    async def go() -> None:
        keeper = replace(survivor.custodian, patience=30.0)
        asked = asyncio.create_task(keeper.survey())
        await asyncio.sleep(0.1)
        survivor.store.down = False
        with pytest.raises(Refused, match="the datastore works"):
            await asked

    asyncio.run(go())


def test_members_that_could_still_be_a_majority_are_not_given_up(
    survivor: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "192.0.2.9")
    code, found = refused(survivor)
    assert (code, found) == (
        "has-quorum",
        "192.0.2.9 can be reached: 2 of 3 voters are there, which is a majority",
    )
    survivor.store.roles["192.0.2.9"] = "spare"
    survivor.store.roles["192.0.2.7"] = "stand-by"
    found_now = asyncio.run(survivor.custodian.survey())
    assert found_now.others[1] == Other("192.0.2.9", "spare", answers=True), "it cannot vote"


def test_of_five_members_two_that_are_left_are_no_majority(
    survivor: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    survivor.joined_by(*OTHERS, "192.0.2.10", "192.0.2.11")
    answer(monkeypatch, "192.0.2.11")
    found = asyncio.run(survivor.custodian.recover())
    assert [each.host for each in found.others if each.answers] == ["192.0.2.11"]
    assert found.others[-1].role == "voter", "one that this member did not know counts as one"


def test_a_spare_has_nothing_to_go_on_with(survivor: ControlPlane) -> None:
    survivor.store.roles["192.0.2.7"] = "spare"
    code, found = refused(survivor)
    assert code == "not-possible" and "spare" in found


def test_a_node_without_partners_has_lost_nobody(survivor: ControlPlane) -> None:
    survivor.joined_by()
    code, found = refused(survivor)
    assert code == "not-possible" and "no partners" in found


def test_what_cannot_be_built_leaves_the_node_as_it_was(survivor: ControlPlane) -> None:
    survivor.store.builds = False
    before = survivor.files()
    with pytest.raises(BasaltError, match="exit code 1"):
        asyncio.run(survivor.custodian.recover())
    assert survivor.files() == before and survivor.woken == ["rests", "runs"]


def test_a_snapshot_of_something_else_is_not_built(
    survivor: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = survivor.files()

    async def revision(snapshot: Path) -> int:
        return REVISION + 1

    monkeypatch.setattr(survivor.store, "revision", revision)
    with pytest.raises(BasaltError, match="more than there was"):
        asyncio.run(survivor.custodian.recover())
    assert survivor.files() == before


def test_a_disk_without_room_is_not_filled(survivor: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    before = survivor.files()
    monkeypatch.setattr(archive, "RESERVE", 2**60)
    with pytest.raises(BasaltError, match="MiB are free"):
        asyncio.run(survivor.custodian.recover())
    assert survivor.files() == before


def test_one_at_a_time(survivor: ControlPlane) -> None:
    asyncio.run(survivor.custodian.recover())
    code, found = refused_once(survivor)
    assert code == "busy" and "recovered" in found


def refused_once(node: ControlPlane) -> tuple[str, str]:
    with pytest.raises(Refused) as raised:
        asyncio.run(node.custodian.recover())
    return raised.value.failures[0].code, raised.value.failures[0].found


def test_who_goes_away_does_not_end_what_has_begun(survivor: ControlPlane) -> None:
    async def go() -> None:
        asked = asyncio.create_task(survivor.custodian.recover())
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        others = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        await asyncio.gather(*others)

    asyncio.run(go())
    assert survivor.places.decided.exists()


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_who_listens_answers(listener: int) -> None:
    assert asyncio.run(answering(("127.0.0.1", "127.0.0.2"), listener)) == {"127.0.0.1"}


def test_an_older_record_is_one_of_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "restore.json"
    files.write(path, json.dumps({"created": "", "cluster": "", "revision": 1, "pki": {}}))
    decided = Decided.load(path)
    assert decided is not None and decided.alone == ""
