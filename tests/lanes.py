# SPDX-License-Identifier: Apache-2.0
"""What of `make test` runs side by side: machines in one process, and all the rest in another meanwhile.

    python3 -m pytest -p tests.lanes --numprocesses=2 --no-loadscope-reorder [--machines=1] tests

Single machines come first, for they take longest, and one after the other: an emulated one that starts keeps two
processors busy by itself. A larger host may have more at once: `--machines=2`. The rest waits more than it computes:
units, datastores under torture, then clusters in containers, one of those at a time. Machines that make a cluster come
then, beside the single ones that are left, and at the very end what has been seen in containers already, with etcd.

Tests of a file share what they have made, so they stay together; those under torture share nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

MACHINES = "tests/vm/"
FLEET = "tests/vm/test_workers.py"
CONTAINERS = "tests/nspawn/"
VARIANT = "[etcd]"
APART = "tests/torture/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option described above."""
    group = parser.getgroup("lanes")
    group.addoption("--machines", type=int, default=1, help="how many tests on machines may run at once")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests on single machines first, those in containers late and those on several machines later."""
    items.sort(key=lambda item: turn(item.nodeid))


def turn(test: str) -> int:
    """Return when a test, by its id, has its turn."""
    if test.startswith(FLEET):
        return 3
    if test.startswith(CONTAINERS):
        return 4 if test.endswith(VARIANT) else 2
    return 0 if test.startswith(MACHINES) else 1


def lane(test: str, machines: int) -> str:
    """Return what a test, by its id, has in common with those that come one after the other in one process."""
    file = test.partition("::")[0]
    if file.startswith(CONTAINERS):
        return "containers with etcd" if test.endswith(VARIANT) else "containers"
    if file.startswith(MACHINES) and file != FLEET and machines == 1:
        return "machines"
    return test if file.startswith(APART) else file


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid, self.config.getoption("machines"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Be what hands out tests."""
    return Lanes(config, log)
