# SPDX-License-Identifier: Apache-2.0
"""`make soak`: the tests of durability again and again, each time in another way.

    python3 -m pytest -p tests.soak --repeat=10 --seed=7 tests/vm/test_life.py …

Nothing is tested here that is not tested elsewhere. A repetition boots Ready machines of its own instead of taking the
saved ones, and tests that cut the power at MOMENTS cut it at random ones. The seed of a failed run repeats its moments.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest

from image import host

FIXTURE = "repetition"
SPAN = (5.0, 240.0)
"""Seconds after the kernel's start between which the power is cut: from the first answer to some time after Ready."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options described above."""
    group = parser.getgroup("soak")
    group.addoption("--repeat", type=int, default=1, help="how often each test is run")
    group.addoption("--seed", type=int, default=0, help="decides the random moments")


def pytest_report_header(config: pytest.Config) -> str:
    """Say what has to be known to repeat the run."""
    return f"soak: --repeat={config.getoption('--repeat')} --seed={config.getoption('--seed')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test as often as asked for."""
    count = metafunc.config.getoption("--repeat")
    metafunc.parametrize(
        FIXTURE, range(count), indirect=True, ids=[f"soak{number}" for number in range(count)]
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a whole repetition before the next one begins."""
    items.sort(key=number_of)


def number_of(item: pytest.Item) -> int:
    """Return the repetition that a test belongs to; 0 for what is no function of Python's."""
    callspec = getattr(item, "callspec", None)
    return int(callspec.params[FIXTURE]) if callspec else 0


@pytest.fixture(autouse=True)
def repetition(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the test the machines and the moments of its repetition."""
    number = int(request.param)
    if ready := sys.modules.get(f"{request.module.__package__}.ready"):
        key = ready.key
        monkeypatch.setattr(ready, "folder", folder)
        monkeypatch.setattr(ready, "key", lambda *setup: f"{key(*setup)}-soak{number}")
    known = getattr(request.module, "MOMENTS", None)
    if known:
        dice = random.Random(f"{request.config.getoption('--seed')} {request.node.nodeid}")
        monkeypatch.setattr(request.module, "MOMENTS", moments(dice, len(known)))
    return number


def moments(dice: random.Random, count: int) -> dict[str, str]:
    """Return random moments as shell conditions."""
    seconds = [dice.randint(*map(int, SPAN)) for _ in range(count)]
    return {f"{after} s after the kernel's start": condition(after) for after in seconds}


def condition(after: int) -> str:
    """Return the shell condition that holds from a number of seconds after the kernel's start on."""
    return f"test $(cut -d. -f1 /proc/uptime) -ge {after}"


def folder() -> Path:
    """Return where Ready machines of repetitions are; the longest unused go as others come."""
    return host.cache() / "vm" / "soak"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the machines when all processes are done."""
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(folder(), ignore_errors=True)
