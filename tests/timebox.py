# SPDX-License-Identifier: Apache-2.0
"""A limit on the time of `make test`, for hosts on which an emulated machine takes five minutes to become Ready.

    python3 -m pytest -p tests.timebox --started=$(date +%s) --minutes=65 tests

Once the minutes are over no further test on a machine begins, nor a late one or a variant, and what runs goes on to its
own end. Those that were left out are named at the end. Late ones come after the tests on machines: what they prove
happens to a cluster once in its life. Variants prove with another datastore what a test has proven already, and come
last. On a host of ordinary speed the limit is far away, and 0 minutes mean none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

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
    """Put late tests and variants last."""
    items.sort(key=turn)


def turn(item: pytest.Item) -> int:
    """Return when a test has its turn: 1 for late ones, 2 for variants, 0 for all others."""
    return 2 if item.get_closest_marker("variant") else 1 if item.get_closest_marker("late") else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin nothing on a machine when time is over."""
    minutes = item.config.getoption("--minutes")
    end = item.config.getoption("--started") + minutes * 60
    if minutes and time.time() > end and (item.get_closest_marker("vm") or turn(item)):
        pytest.skip(LEFT_OUT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out: a run that lacks it has proven less than it could."""
    skipped: Sequence[pytest.TestReport] = terminalreporter.stats.get("skipped", ())
    names = [report.nodeid for report in skipped if LEFT_OUT in str(report.longrepr)]
    if names:
        minutes = terminalreporter.config.getoption("--minutes")
        terminalreporter.section(f"{len(names)} left out after {minutes:g} minutes; MINUTES=0 for all")
        terminalreporter.write_line("\n".join(names))
