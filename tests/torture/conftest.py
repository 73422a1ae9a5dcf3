# SPDX-License-Identifier: Apache-2.0
"""Options and fixtures of the torture tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .programs import Programs, Torture, built_programs
from .stores import STORES, Store

SECONDS = 10.0


@pytest.fixture(scope="session")
def seconds() -> float:
    """Return how long writers write in each test; TORTURE_SECONDS=600 makes a soak of it."""
    return float(os.environ.get("TORTURE_SECONDS", SECONDS))


@pytest.fixture(scope="session")
def programs() -> Programs:
    return built_programs()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder on a disk, since a tmpfs has no fsync, with a path short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="torture-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, programs: Programs, folder: Path) -> Iterator[Store]:
    """Return a running server, of each kind in turn."""
    with STORES[request.param](programs, folder) as started:
        yield started


@pytest.fixture
def torture(store: Store, programs: Programs, folder: Path) -> Torture:
    """Return writers for the store."""
    return Torture(programs.torture, store.endpoint, folder / "journal")
