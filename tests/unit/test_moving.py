# SPDX-License-Identifier: Apache-2.0
"""A datastore that is moved: all of the cluster has the old one or the new one, whatever comes in between."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.cluster import records, versions
from firstboot.cluster.membership import Membership
from firstboot.cluster.quorum import Member
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError, Refused
from firstboot.kube import Client
from firstboot.moving import mover, partaker
from firstboot.moving.course import USERS
from firstboot.moving.messages import Question, Rest, Resting
from firstboot.moving.mover import Forecast, outage
from firstboot.moving.records import Moved, Moving, failures
from firstboot.pki import ca
from firstboot.steps.model import Machine
from firstboot.steps.moving import TRIAL_SECONDS, GoBack
from firstboot.steps.restore import Restore
from firstboot.systemd import Systemd

from .support_datastore import answer
from .support_disk import power_of
from .support_moving import DQLITE, ETCD, HOSTS, KEYS, REVISION, TICK, Fleet, etcdutl


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("one") / "fleet", HOSTS[:1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("two") / "fleet", HOSTS[:2])


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("three") / "fleet")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mover, "AGAIN", 0.001)
    monkeypatch.setattr(partaker, "SOON", 0.0)
    with etcdutl(tmp_path, monkeypatch):
        yield


def keys(data: bytes) -> dict[str, str]:
    """Return what a file of keys has."""
    lines = [json.loads(line) for line in data.decode().splitlines()]
    return {line["key"]: line["value"] for line in lines if "end" not in line}


def test_a_lone_control_plane_has_all_of_it_in_the_other_datastore(one: Fleet, tmp_path: Path) -> None:
    fleet = one.copied(tmp_path / "fleet")
    plane, before = fleet.first, fleet.first.data

    async def go() -> None:
        async with fleet.running():
            told = await plane.mover.move(ETCD)
            assert (told.keys, told.revision, told.others) == (len(KEYS), REVISION, ())
            await fleet.until(lambda: fleet.settled and plane.kind is ETCD)

    asyncio.run(go())
    assert len(keys(plane.data)) == len(KEYS)
    assert (plane.root / ".k8s-dqlite.moved/data").read_bytes() == before, "the old data is kept"
    assert not (plane.root / "k8s-dqlite").exists()
    moved = Moved.load(plane.places.moved)
    assert moved is not None and (moved.type, moved.kept, moved.awaited) == (ETCD, "dqlite", ())
    newest = asyncio.run(versions.read(fleet.objects))
    assert newest is not None and newest.newest.settings["datastore"] == {"type": "etcd"}
    assert ca.load(plane.describe(ETCD).authority("etcd/ca")).certificate


def test_three_control_planes_move_together(three: Fleet, tmp_path: Path) -> None:
    fleet = three.copied(tmp_path / "fleet")

    async def go() -> None:
        async with fleet.running():
            told = await fleet.first.mover.move(ETCD)
            assert told.others == HOSTS[1:]
            await fleet.until(lambda: fleet.settled and fleet.first.kind is ETCD)

    asyncio.run(go())
    authorities = {
        plane.describe(ETCD).authority("etcd/ca").key.read_bytes() for plane in fleet.planes.values()
    }
    assert len(authorities) == 1
    for ip, plane in fleet.planes.items():
        membership, moved = Membership.load(plane.places.membership), Moved.load(plane.places.moved)
        assert membership is not None and membership.control_planes == HOSTS
        assert membership.peers == (() if ip == HOSTS[0] else (HOSTS[0],))
        assert moved is not None and moved.awaited == () and moved.kept == "dqlite"


@pytest.mark.parametrize("host", HOSTS[:2])
def test_the_power_of_one_may_be_cut_at_any_point(two: Fleet, tmp_path: Path, host: str) -> None:
    """Whoever it is of: all go on with the old one, or all with the new one, and nothing of the data is missing."""
    kinds: set[DatastoreType] = set()

    async def go(fleet: Fleet, after: int) -> bool:
        """Cut it after so many changes of the disk; False where there are not so many."""
        async with fleet.running():
            with power_of(fleet.planes[host].root, after) as cut:
                work = asyncio.create_task(fleet.first.mover.move(ETCD))
                await fleet.until(lambda: cut.happened or (work.done() and fleet.settled))
                if not cut.happened:
                    await work
                    return False
                await fleet.switch_off(host)
                await asyncio.wait([work])
                cut.lifted = True
                fleet.restart(host)
                await fleet.until(lambda: fleet.settled)
        return True

    for after in range(200):
        fleet = two.copied(tmp_path / f"fleet-{after}")
        cut = asyncio.run(go(fleet, after))
        kinds.add(fleet.first.kind)
        if fleet.first.kind is DQLITE:
            assert fleet.contents() == two.contents(), f"cut off after {after}"
        else:
            assert len(keys(fleet.first.data)) == len(KEYS)
            for plane in fleet.planes.values():
                assert (plane.root / ".k8s-dqlite.moved/data").exists(), f"cut off after {after}"
        if not cut:
            break
    assert kinds == {DQLITE, ETCD} and after > 10


def moved(fleet: Fleet, to: DatastoreType = ETCD) -> Fleet:
    """Move it, and return it when all is done."""

    async def go() -> None:
        async with fleet.running():
            await fleet.first.mover.move(to)
            await fleet.until(lambda: fleet.settled and fleet.first.kind is to)

    asyncio.run(go())
    return fleet


def refused(fleet: Fleet, to: DatastoreType = ETCD) -> str:
    """Ask for a move and for what it would be; return why not, and see that nobody has noticed."""
    before, found = fleet.contents(), []

    async def go() -> None:
        async with fleet.running():
            for ask in (fleet.first.mover.forecast, fleet.first.mover.move):
                with pytest.raises(Refused) as raised:
                    await ask(to)
                found.append(raised.value.failures[0])

    asyncio.run(go())
    assert fleet.contents() == before and found[0] == found[1]
    assert found[0].code in ("move-refused", "busy") and found[0].remedy
    return found[0].found


def test_what_a_move_would_be_is_told_after_it_was_tried_and_nothing_stops(
    three: Fleet, tmp_path: Path
) -> None:
    fleet = three.copied(tmp_path / "fleet")

    async def go() -> Forecast:
        async with fleet.running():
            before = fleet.contents()
            told = await fleet.first.mover.forecast(ETCD)
            assert fleet.settled and fleet.contents() == before
            return told

    told = asyncio.run(go())
    size = (fleet.first.stores[DQLITE].folder / "data").stat().st_size
    assert told == Forecast(DQLITE, ETCD, size, len(KEYS), REVISION, told.seconds, HOSTS[0], HOSTS[1:])
    assert told.seconds >= outage(HOSTS[1:]) > outage(()) > 0


def test_and_back_again_under_another_authority(three: Fleet, tmp_path: Path) -> None:
    fleet = moved(three.copied(tmp_path / "fleet"))
    assert "is still kept" in refused(fleet, DQLITE)
    first = fleet.first.describe(DQLITE).authority("dqlite/ca").certificate.read_bytes()
    for plane in fleet.planes.values():
        asyncio.run(plane.mover.forget())
        assert not (plane.root / ".k8s-dqlite.moved").exists()
        assert not plane.describe(DQLITE).authority("dqlite/ca").key.exists()
        with pytest.raises(Refused, match="no data of a datastore"):
            asyncio.run(plane.mover.forget())
    moved(fleet, DQLITE)
    assert fleet.objects.named is DQLITE
    with closing(sqlite3.connect(fleet.first.stores[DQLITE].folder / "data")) as database:
        found = database.execute("SELECT name, value, id FROM kine ORDER BY id").fetchall()
    assert found == [
        ("/registry/b", KEYS["/registry/b"], 4),
        ("/registry/a", KEYS["/registry/a"], 6),
        ("compact_rev_key", b"", REVISION),
    ]
    again = {
        plane.describe(DQLITE).authority("dqlite/ca").certificate.read_bytes()
        for plane in fleet.planes.values()
    }
    assert len(again) == 1 and first not in again, "no member of before can talk to one of these"


def test_old_data_is_kept_until_all_know_of_the_move(three: Fleet, tmp_path: Path) -> None:
    fleet = moved(three.copied(tmp_path / "fleet"))
    known = Moved.load(fleet.first.places.moved)
    assert known is not None
    replace(known, awaited=(HOSTS[2],)).save(fleet.first.places.moved)
    with pytest.raises(Refused, match=f"{HOSTS[2]} has not been told"):
        asyncio.run(fleet.first.mover.forget())
    [told] = failures(fleet.first.places.state)
    assert told.code == "datastore-moves" and HOSTS[2] in told.found


Change = Callable[[Fleet], object]
MACHINE = f"{records.NAMESPACE}/configmaps/basalt-machine-node-{HOSTS[2][-1]}"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda fleet: setattr(fleet.first, "ready", False), "is not ready"),
        (lambda fleet: fleet.silent.add(HOSTS[1]), "cannot be asked to take part"),
        (lambda fleet: fleet.spares.add(HOSTS[0]), "no vote"),
        (lambda fleet: fleet.objects.objects.pop(MACHINE), "joins the cluster or leaves it"),
        (lambda fleet: _left(fleet.planes[HOSTS[1]].stores[ETCD].folder), "something in it"),
        (lambda fleet: Moving("x", ETCD, HOSTS[1], "").save(fleet.first.places.moving), "is being moved"),
    ],
)
def test_what_is_not_whole_is_not_moved(three: Fleet, tmp_path: Path, change: Change, found: str) -> None:
    fleet = three.copied(tmp_path / "fleet")
    before = fleet.contents()

    async def go() -> None:
        async with fleet.running():
            for task in fleet.tasks.values():
                task.cancel()
            change(fleet)
            before.update(fleet.contents())
            for ask in (fleet.first.mover.forecast, fleet.first.mover.move):
                with pytest.raises(Refused) as raised:
                    await ask(ETCD)
                first = raised.value.failures[0]
                assert found in first.found and first.remedy and first.code in ("move-refused", "busy")

    asyncio.run(go())
    assert fleet.contents() == before


def _left(folder: Path) -> Path:
    """Have something in a folder that nobody knows."""
    folder.mkdir()
    (folder / "left").touch()
    return folder


def test_a_datastore_is_not_moved_to_what_it_is(three: Fleet, tmp_path: Path) -> None:
    assert refused(three.copied(tmp_path / "fleet"), DQLITE) == "the datastore is dqlite already"


def test_a_member_that_does_not_answer_is_not_left_out(three: Fleet, tmp_path: Path) -> None:
    fleet = three.copied(tmp_path / "fleet")

    async def go() -> None:
        async with fleet.running():
            await fleet.switch_off(HOSTS[2])
            with pytest.raises(Refused, match=f"the member on {HOSTS[2]} does not answer"):
                await fleet.first.mover.move(ETCD)

    asyncio.run(go())


def test_what_cannot_be_built_leaves_all_as_they_were(three: Fleet, tmp_path: Path) -> None:
    fleet = three.copied(tmp_path / "fleet")
    fleet.first.stores[ETCD].builds = False

    async def go() -> None:
        async with fleet.running():
            with pytest.raises(BasaltError, match="cannot be built"):
                await fleet.first.mover.move(ETCD)
            await fleet.until(lambda: fleet.settled)

    asyncio.run(go())
    assert fleet.first.kind is DQLITE and fleet.contents() == three.contents()


def test_a_new_datastore_that_does_not_start_is_taken_away_again(
    three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = three.copied(tmp_path / "fleet")
    fleet.first.trouble[ETCD] = "no room"

    async def go() -> None:
        async with fleet.running():
            await fleet.first.mover.move(ETCD)
            await fleet.until(lambda: fleet.first.kind is ETCD)
            waiting = [Moving.load(plane.places.moving) for plane in fleet.planes.values()]
            assert [each is not None and each.decided for each in waiting] == [True, False, False]
            fleet.first.age = TRIAL_SECONDS
            await fleet.until(lambda: fleet.settled)

    asyncio.run(go())
    assert fleet.first.kind is DQLITE
    [told] = failures(fleet.first.places.state)
    assert told.code == "move-failed" and "etcd does not start: no room" in told.found
    left = {name for name, data in fleet.contents().items() if three.contents().get(name) != data}
    assert left <= {f"{HOSTS[0]}/kubernetes/pki/etcd/ca.{end}" for end in ("key", "crt")} | {
        f"{HOSTS[0]}/basalt/{name}.json" for name in ("membership", "move-failed")
    }
    asyncio.run(fleet.first.mover.forget())
    assert not list(failures(fleet.first.places.state))


def test_a_new_datastore_that_has_answered_once_is_never_taken_away(three: Fleet, tmp_path: Path) -> None:
    fleet = three.copied(tmp_path / "fleet")
    plane = fleet.first
    plane.age, plane.trouble[ETCD] = TRIAL_SECONDS, "it starts"
    record = Moving("x", ETCD, plane.ip, "", founds=True, pki={"key": ""}, placed=True)
    record.save(plane.places.moving)
    step = GoBack(plane.probe, plane.places, plane.age)
    looked = Machine(cast(Systemd, None), cast(Client, None), {})
    assert asyncio.run(step.check(looked)) is not None
    Moved(ETCD, "x", "").save(plane.places.moved)
    assert asyncio.run(step.check(looked)) is None
    replace(record, founds=False).save(plane.places.moving)
    Moved(ETCD, "another", "").save(plane.places.moved)
    assert asyncio.run(step.check(looked)) is None, "who joins has none to go back to"


def test_who_moves_it_and_is_gone_for_a_while_is_waited_for(three: Fleet, tmp_path: Path) -> None:
    """Nobody of the others writes meanwhile: he may have decided."""
    fleet = three.copied(tmp_path / "fleet")

    async def go() -> None:
        async with fleet.running():
            await fleet.first.mover.move(ETCD)
            await fleet.switch_off(HOSTS[0])
            for _ in range(20):
                await asyncio.sleep(TICK)
            for ip in HOSTS[1:]:
                assert fleet.planes[ip].kind is DQLITE and not fleet.planes[ip].runs(DQLITE)
                [told] = failures(fleet.planes[ip].places.state)
                assert told.code == "datastore-moves" and "lost for good" in told.remedy
            fleet.restart(HOSTS[0])
            await fleet.until(lambda: fleet.settled)

    asyncio.run(go())
    assert fleet.first.kind is ETCD


def test_a_recovery_ends_the_move_of_one_who_is_lost(
    three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch)
    fleet = three.copied(tmp_path / "fleet")
    plane = fleet.planes[HOSTS[1]]
    Moving("x", ETCD, HOSTS[0], "").save(plane.places.moving)
    plane.stores[DQLITE].down = True

    async def go() -> None:
        found = await plane.custodian.recover()
        assert [each.host for each in found.others] == [HOSTS[0], HOSTS[2]]

    asyncio.run(go())
    end = Restore(USERS, plane.describe(DQLITE), plane.places.folder(DQLITE), plane.places)
    asyncio.run(end.apply(Machine(cast(Systemd, None), cast(Client, None), {})))
    assert not plane.places.unfinished and plane.kind is DQLITE


def test_who_asks_about_a_move_that_nobody_knows_goes_on_as_before(three: Fleet, tmp_path: Path) -> None:
    fleet = moved(three.copied(tmp_path / "fleet"))

    async def go() -> tuple[str, str]:
        known = Moved.load(fleet.first.places.moved)
        assert known is not None
        ready = await fleet.first.mover.outcome(Question("node-8", known.move))
        fleet.first.ready = False
        waits = await fleet.first.mover.outcome(Question("node-8", known.move))
        assert (ready.state, waits.state, waits.pki) == ("done", "goes-on", {})
        unknown = await fleet.first.mover.outcome(Question("node-8", "another"))
        return unknown.state, "PRIVATE" if "PRIVATE" in repr(ready) else ""

    assert asyncio.run(go()) == ("over", "")


@pytest.mark.parametrize(
    ("hosts", "spares", "order"),
    [
        (HOSTS, (), [HOSTS[1]]),
        (HOSTS[:2], (HOSTS[1],), []),
        (HOSTS[:2], (), []),
        ((*HOSTS, "192.0.2.10", "192.0.2.11"), HOSTS[1:3], [*HOSTS[1:3], "192.0.2.10"]),
        ((*HOSTS, "192.0.2.10", "192.0.2.11"), (), list(HOSTS[1:3])),
    ],
)
def test_so_many_rest_first_that_nothing_is_written_without_this_one(
    three: Fleet, tmp_path: Path, hosts: tuple[str, ...], spares: Sequence[str], order: list[str]
) -> None:
    """Those without a vote before others, since they could be given one."""
    fleet = replace(three, hosts=HOSTS[:1]).copied(tmp_path / "fleet")
    asked: list[str] = []

    async def tell(source: object, host: str, rest: object) -> Resting:
        asked.append(host)
        return Resting("rests")

    class Voting:
        async def members(self) -> tuple[Member, ...]:
            return tuple(Member(host, host, host not in spares, works=True) for host in hosts)

    made = fleet.first.mover
    made.voters = lambda kind: cast(Any, Voting())
    made._tell = tell  # type: ignore[method-assign]
    rest = Rest("x", "etcd", hosts[0], "", dry=False)
    left = asyncio.run(made._needed(fleet.first.source(), hosts[1:], rest))
    assert asked == order and left == [host for host in hosts[1:] if host not in order]
