# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstboot import log


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(path: Path, *, to_journal: bool, verbose: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    with path.open("w+") as stream:
        stat = os.fstat(stream.fileno())
        inode = stat.st_ino if to_journal else stat.st_ino + 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{inode}")
        log.setup(verbose=verbose, stream=stream)
        logger = logging.getLogger("firstboot.test")
        logger.debug("detail")
        logger.info("two\nlines")
        logger.warning("odd")
        try:
            raise ValueError("bad")
        except ValueError:
            logger.exception("failed")
    return path.read_text()


def test_every_line_for_the_journal_has_its_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(tmp_path / "log", to_journal=True, verbose=False, monkeypatch=monkeypatch).splitlines()
    assert lines[:4] == [
        "<6>firstboot.test: two",
        "<6>lines",
        "<4>firstboot.test: odd",
        "<3>firstboot.test: failed",
    ]
    assert all(line.startswith("<3>") for line in lines[3:])
    assert lines[-1] == "<3>ValueError: bad"


def test_a_person_sees_no_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(tmp_path / "log", to_journal=False, verbose=True, monkeypatch=monkeypatch)
    assert text.startswith("D firstboot.test: detail\nI firstboot.test: two\nlines\n")


@pytest.mark.parametrize(
    ("level", "priority"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7), (5, 7), (35, 4)]
)
def test_priority(level: int, priority: int) -> None:
    assert log.priority(level) == priority
