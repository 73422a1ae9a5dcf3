# SPDX-License-Identifier: Apache-2.0
"""A limit on the time of `make test`, for hosts on which an emulated machine takes five minutes to become Ready.

    python3 -m pytest -p tests.timebox --started=$(date +%s) --minutes=65 tests

Once the minutes are over no further test with nodes begins, on machines or in containers, and what runs goes on to its
own end. Those that were left out are named at the end. Variants prove with another datastore what a test has proven
already, and come last. On a host of ordinary speed the limit is far away, and 0 minutes mean none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from .lanes import CONTAINERS, MACHINES

LEFT_OUT = "left out: the time for tests is over"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options described above."""
    group = parser.getgroup("timebox")
    group.addoption("--started", type=float, default=0, help="when the time began, in seconds since 1970")
    group.addoption(
        "--minutes", type=float, default=0, help="how long tests on machines may begin; 0: always"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put variants last."""
    items.sort(key=variant)


def variant(item: pytest.Item) -> bool:
    """Return whether another test proves the same with another datastore."""
    return item.get_closest_marker("variant") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin nothing with nodes when time is over."""
    minutes = item.config.getoption("--minutes")
    end = item.config.getoption("--started") + minutes * 60
    if minutes and time.time() > end and item.nodeid.startswith((MACHINES, CONTAINERS)):
        pytest.skip(LEFT_OUT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out: a run that lacks it has proven less than it could."""
    skipped: Sequence[pytest.TestReport] = terminalreporter.stats.get("skipped", ())
    names = [report.nodeid for report in skipped if LEFT_OUT in str(report.longrepr)]
    if names:
        minutes = terminalreporter.config.getoption("--minutes")
        terminalreporter.section(f"{len(names)} left out after {minutes:g} minutes; MINUTES=0 for all")
        terminalreporter.write_line("\n".join(names))
