# SPDX-License-Identifier: Apache-2.0
"""What of `make test` runs side by side: machines in one process, and all the rest in another meanwhile.

    python3 -m pytest -p tests.lanes --numprocesses=2 --no-loadscope-reorder [--machines=1] tests

Machines come first, for they take longest, and one test after the other: an emulated one that starts keeps two
processors busy by itself. A larger host may have more at once: `--machines=2`. The rest waits more than it computes:
units, datastores under torture, then clusters in containers, one of those at a time.

Tests of a file share what they have made, so they stay together; those under torture share nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

MACHINES = "tests/vm/"
CONTAINERS = "tests/nspawn/"
APART = "tests/torture/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option described above."""
    group = parser.getgroup("lanes")
    group.addoption("--machines", type=int, default=1, help="how many tests on machines may run at once")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests on machines first and those in containers last."""
    items.sort(key=lambda item: (not item.nodeid.startswith(MACHINES), item.nodeid.startswith(CONTAINERS)))


def lane(test: str, machines: int) -> str:
    """Return what a test, by its id, has in common with those that come one after the other in one process."""
    file = test.partition("::")[0]
    if file.startswith(CONTAINERS):
        return "containers"
    if file.startswith(MACHINES) and machines == 1:
        return "machines"
    return test if file.startswith(APART) else file


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid, self.config.getoption("machines"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Be what hands out tests."""
    return Lanes(config, log)
