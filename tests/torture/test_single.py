# SPDX-License-Identifier: Apache-2.0
"""One member, eight writers: whatever happens to the server, every acknowledged write is there at the end.

The same for k8s-dqlite and for etcd, natively on the host. Durations are those of the fixture `seconds`.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from .programs import Programs, Torture, finish
from .stores import Dqlite, Store, wait_until

PROGRESS = 40
PROGRESS_SECONDS = 30


def wait_progress(
    torture: Torture, writers: subprocess.Popen[str], store: Store, more: int = PROGRESS
) -> None:
    """Wait until writers have had a number of answers more, so that what comes next hits a server at work."""
    wanted, deadline = torture.written() + more, time.monotonic() + PROGRESS_SECONDS
    while torture.written() < wanted and writers.poll() is None:
        assert time.monotonic() < deadline, f"writers do not get on: {store.tail()}"
        time.sleep(0.02)


def check(torture: Torture, writers: subprocess.Popen[str], least: int) -> dict[str, int]:
    counts = finish(writers)
    result = torture.verify()
    assert result["broken"] == {}, result["instances"]
    assert result["compared"] == result["made"] >= least
    return counts


def test_kill(store: Store, torture: Torture, seconds: float) -> None:
    writers = torture.write(seconds)
    kills = 0
    while writers.poll() is None:
        wait_progress(torture, writers, store)
        store.kill()
        store.start()
        kills += 1
    check(torture, writers, least=PROGRESS * 3)
    assert kills >= 3


def test_freeze(store: Store, torture: Torture, seconds: float) -> None:
    # Longer than the writers' keep-alive takes to notice, and than k8s-dqlite waits for its own node.
    writers = torture.write(max(seconds, 12))
    for pause in (1, 8):
        wait_progress(torture, writers, store)
        store.send(signal.SIGSTOP)
        time.sleep(pause)
        store.send(signal.SIGCONT)
    wait_progress(torture, writers, store)
    store.send(signal.SIGSTOP)
    time.sleep(0.5)
    store.kill()
    store.start()
    check(torture, writers, least=PROGRESS)


def test_orderly_restarts(store: Store, torture: Torture, seconds: float) -> None:
    writers = torture.write(seconds)
    while writers.poll() is None:
        wait_progress(torture, writers, store)
        assert store.stop() in (0, -signal.SIGTERM)
        store.start()
    check(torture, writers, least=PROGRESS)


@pytest.fixture
def dqlite(programs: Programs, folder: Path) -> Dqlite:
    return Dqlite(programs, folder)


def test_dqlite_ends_in_order(dqlite: Dqlite) -> None:
    with dqlite:
        started = time.monotonic()
        assert dqlite.stop() == 0
        assert time.monotonic() - started < 5


def test_dqlite_killed_during_its_first_start(dqlite: Dqlite, folder: Path, torture_of: Torture) -> None:
    """Nothing was acknowledged yet, so any state leads to a start; what is acknowledged then, stays."""
    dice = random.Random(1)
    for _ in range(25):
        dqlite.start(wait=False)
        time.sleep(dice.uniform(0, 0.25))
        dqlite.kill()
    dqlite.start()
    torture_of.bench(writes=80)
    revision = dqlite.status()["revision"]
    dqlite.kill()
    with dqlite:
        assert dqlite.status()["revision"] == revision > 80
    assert not (folder / "data/unfinished-first-start").exists()


@pytest.mark.parametrize("left", [(), ("info.yaml",), ("info.yaml", "cluster.yaml"), ("metadata1", "open-1")])
def test_dqlite_power_lost_during_its_first_start(
    dqlite: Dqlite, folder: Path, left: tuple[str, ...]
) -> None:
    """Files may be there and empty: their names were on the disk before their content."""
    (folder / "data").mkdir()
    for name in ("unfinished-first-start", *left):
        (folder / "data" / name).touch()
    with dqlite:
        assert dqlite.status()["healthy"]


def test_dqlite_dump_under_writes(dqlite: Dqlite, folder: Path, torture_of: Torture, seconds: float) -> None:
    with dqlite:
        writers = torture_of.write(seconds / 3)
        wait_progress(torture_of, writers, dqlite)
        before = dqlite.status()["revision"]
        dqlite.ask("dump", str(folder / "dump.sqlite"))
        check(torture_of, writers, least=PROGRESS)
    with sqlite3.connect(folder / "dump.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT MAX(id) FROM kine").fetchone()[0] >= before


def test_dqlite_compaction_under_kills(
    dqlite: Dqlite, folder: Path, torture_of: Torture, seconds: float
) -> None:
    """Old revisions go, every second here; what is newest of its key stays, whenever the server is killed."""
    dqlite.flags = ("--compact-interval=1s",)
    others = replace(torture_of, prefix="/registry/others/", journal=folder / "others")

    def compacted() -> float:
        return dqlite.counter("k8s_dqlite_compacted_revision")

    with dqlite:
        # Before there are a thousand revisions nothing is compacted.
        while dqlite.status()["revision"] < 1200:
            finish(others.write(1))
        writers = torture_of.write(seconds)
        while writers.poll() is None:
            # The gauge begins at 0 with each start.
            wait_until("a compaction", lambda: compacted() > 0 or writers.poll() is not None)
            dqlite.kill()
            dqlite.start()
        finish(writers)
        # Push all that the journal tells out of the thousand revisions that are always kept. Not by a benchmark, which
        # ends at the first error: a disk others use too may take longer for a write than a request has time.
        newest, more = dqlite.status()["revision"], 0
        while compacted() <= newest:
            more += finish(others.write(2))["made"]
            assert more < 20_000, "nothing is compacted any more"
        for result in (torture_of.verify(), others.verify()):
            assert result["broken"] == {}, result["instances"]
            assert result["survivors"] > 0


def test_dqlite_folder_is_of_one_process(dqlite: Dqlite) -> None:
    with dqlite:
        second = subprocess.run(dqlite.argv(), capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
        assert dqlite.status()["healthy"]


def test_dqlite_without_certificates_listens_nowhere(dqlite: Dqlite) -> None:
    """Also not on the loopback address, where every process of the machine could use it."""
    with dqlite:
        assert dqlite.process
        inodes = {
            link.readlink().name.removeprefix("socket:[").rstrip("]")
            for link in Path(f"/proc/{dqlite.process.pid}/fd").iterdir()
            if link.readlink().name.startswith("socket:")
        }
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                assert line.split()[9] not in inodes, line


@pytest.fixture
def torture_of(dqlite: Dqlite, programs: Programs, folder: Path) -> Torture:
    return Torture(programs.torture, dqlite.endpoint, folder / "journal")
