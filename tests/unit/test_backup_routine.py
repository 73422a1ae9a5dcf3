# SPDX-License-Identifier: Apache-2.0
"""Backups on a timer, and those that are kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from firstboot.backup import kept
from firstboot.backup.kept import listed
from firstboot.backup.routine import AGAIN, Routine
from firstboot.cluster import settings
from firstboot.config import Backup, Config
from firstboot.datastores.store import DatastoreStatus
from firstboot.validate import check_document

from .support_datastore import ControlPlane
from .test_backup_format import PRIVATE, PUBLIC

NOW = 1_795_424_400.0
HOUR = 3600.0
DAILY = Backup(PUBLIC, "24h", 3)


@dataclass
class Day:
    """A control plane whose clocks a test turns."""

    plane: ControlPlane
    routine: Routine
    now: float = NOW

    def rounds(self, wanted: Backup = DAILY, count: int = 3) -> list[str]:
        """Let the agent make some rounds; return which backups are there, the oldest first."""

        async def go() -> None:
            for _ in range(count):
                self.routine.follow(wanted)
                tasks = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*tasks)

        asyncio.run(go())
        return sorted(each.created for each in listed(self.plane.places.kept))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane.make(tmp_path_factory.mktemp("made") / "node")


@pytest.fixture
def day(made: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Day:
    plane = made.copied(tmp_path / "node")
    found = Day(plane, Routine(plane.custodian))
    found.routine.clock = found.routine.wall = lambda: found.now
    monkeypatch.setattr("firstboot.backup.making.now", lambda: _text(found.now))
    return found


def _text(when: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%M:%SZ}"


def test_one_is_taken_when_the_newest_is_old_enough(day: Day) -> None:
    assert day.rounds() == [_text(NOW)]
    assert day.routine.last == _text(NOW) and day.routine.failure is None
    day.now += 23 * HOUR
    assert len(day.rounds()) == 1
    day.now += HOUR
    assert day.rounds() == [_text(NOW), _text(NOW + 24 * HOUR)]
    again = Routine(day.plane.custodian, clock=lambda: day.now, wall=lambda: day.now)
    day.routine = again
    assert len(day.rounds()) == 2, "a new process knows what is there"


def test_the_newest_are_kept(day: Day) -> None:
    for number in range(5):
        day.now = NOW + number * 24 * HOUR
        day.rounds()
    assert day.rounds() == [_text(NOW + number * 24 * HOUR) for number in (2, 3, 4)]
    day.now += 24 * HOUR
    assert len(day.rounds(replace(DAILY, keep=1))) == 1


def test_files_are_for_root_and_complete(day: Day) -> None:
    day.rounds()
    folder = day.plane.places.kept
    (path,) = folder.iterdir()
    assert path.name == f"basalt-basalt-{_text(NOW).replace('-', '').replace(':', '')}.backup"
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_without_a_recipient_nothing_is_taken(day: Day) -> None:
    assert day.rounds(Backup()) == [] and not day.plane.places.kept.exists()


def test_only_the_leader_takes_one(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = day.plane.store.status
    asked: list[float] = []

    async def follower() -> DatastoreStatus:
        asked.append(day.now)
        return replace(await genuine(), leads=False)

    monkeypatch.setattr(day.plane.store, "status", follower)
    assert day.rounds() == [] and len(asked) == 1, "it does not ask all the time"
    day.now += AGAIN
    assert day.rounds() == [] and len(asked) == 2
    assert day.routine.failure is None


def test_a_failure_is_told_and_tried_again_later(day: Day) -> None:
    day.plane.store.down = True
    assert day.rounds() == []
    failure = day.routine.failure
    assert failure and (failure.code, failure.path) == ("backup-failed", "basalt.datastore.backup")
    assert failure.found == "the datastore does not answer" and failure.remedy
    day.plane.store.down = False
    assert day.rounds() == []
    day.now += AGAIN
    assert len(day.rounds()) == 1 and day.routine.failure is None


def test_a_clock_that_was_set_back_does_not_stop_backups(day: Day) -> None:
    day.now = NOW + 1000 * 24 * HOUR
    day.rounds()
    day.now = NOW
    day.routine = Routine(day.plane.custodian, clock=lambda: day.now, wall=lambda: day.now)
    assert len(day.rounds()) == 2
    day.now += HOUR
    assert len(day.rounds()) == 2


def test_what_else_is_in_the_folder_is_none_of_ours(tmp_path: Path) -> None:
    for name in ("x", "basalt-a-20261123T090000Z.backup.old", "basalt-a-2026.backup", "new"):
        (tmp_path / name).touch()
    (tmp_path / "basalt-a-20261123T090000Z.backup").symlink_to("/etc/passwd")
    (tmp_path / "basalt-b-20261123T090000Z.backup").mkdir()
    assert listed(tmp_path) == () and listed(tmp_path / "none") == ()


def test_a_backup_that_breaks_off_leaves_the_others(tmp_path: Path) -> None:
    async def pieces(broken: bool) -> Any:
        yield b"a piece"
        if broken:
            raise OSError(28, "No space left on device")

    def keep(created: str, broken: bool) -> None:
        name = kept.name_of("a", created)
        asyncio.run(kept.keep(pieces(broken), tmp_path / "backups", name, 1))

    keep("2026-11-23T09:00:00Z", False)
    with pytest.raises(OSError):
        keep("2026-11-24T09:00:00Z", True)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == ["basalt-a-20261123T090000Z.backup"]


@pytest.mark.parametrize(
    ("backup", "codes"),
    [
        ({"recipient": PUBLIC}, []),
        ({"recipient": PUBLIC, "interval": "6h", "keep": 100}, []),
        ({"interval": "6h"}, ["missing-key"]),
        ({"recipient": "no key"}, ["bad-value"]),
        ({"recipient": PRIVATE}, ["private-key"]),
        ({"recipient": PUBLIC.replace("MCowBQYDK2Vu", "MCowBQYDK2Vx")}, ["bad-value"]),
        ({"recipient": PUBLIC, "interval": "90"}, ["bad-value"]),
        ({"recipient": PUBLIC, "interval": "0h"}, ["bad-value"]),
        ({"recipient": PUBLIC, "keep": 0}, ["bad-value"]),
        ({"recipient": PUBLIC, "keep": 101}, ["bad-value"]),
        ({"recipient": PUBLIC, "keep": "7"}, ["wrong-type"]),
    ],
)
def test_the_document_says_how_often(backup: dict[str, Any], codes: list[str]) -> None:
    document = {"version": 1, "role": "control-plane", "datastore": {"backup": backup}}
    assert [failure.code for failure in check_document(document)] == codes


@pytest.mark.parametrize(("interval", "seconds"), [("24h", 86400), ("1h", 3600), ("7d", 604800)])
def test_the_interval_in_seconds(interval: str, seconds: int) -> None:
    assert Backup(interval=interval).seconds == seconds


def test_backups_are_a_control_planes_own_affair() -> None:
    """One that joins may say otherwise than the cluster's first, and what it says stays."""
    common = settings.of(Config.from_dict({"role": "control-plane"}))
    document = {"role": "control-plane", "datastore": {"backup": {"recipient": PUBLIC}}}
    assert settings.conflicts(settings.stated(document), common) == ()
    merged = settings.merged(document, common)
    assert merged["datastore"] == {"type": "dqlite", "backup": {"recipient": PUBLIC}}
    assert "backup" not in common["datastore"]
    assert settings.conflicts({"datastore.type": "etcd"}, common)[0].path == "basalt.datastore.type"
