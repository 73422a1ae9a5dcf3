# SPDX-License-Identifier: Apache-2.0
"""What of `make test` runs side by side: everything that needs no node of the image, in as many processes as there are.

    python3 -m pytest -p tests.lanes --numprocesses=2 --no-loadscope-reorder [--machines=1] tests

Those tests wait more than they compute, so two at once take little more time than one. Then come nodes, in containers
and on machines, one after the other in one process: an emulated machine keeps two processors busy by itself, and time
limits inside Kubernetes do not forgive another one beside it. A larger host may have more: `--machines=2`.

Tests of a file share what they have made, so they stay together; those under torture share nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

NODES = ("tests/nspawn/", "tests/vm/")
APART = "tests/torture/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option described above."""
    group = parser.getgroup("lanes")
    group.addoption("--machines", type=int, default=1, help="how many tests with nodes may run at once")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests with nodes last."""
    items.sort(key=lambda item: item.nodeid.startswith(NODES))


def lane(test: str, machines: int) -> str:
    """Return what a test, by its id, has in common with those that come one after the other in one process."""
    file = test.partition("::")[0]
    if machines == 1 and file.startswith(NODES):
        return "nodes"
    return test if file.startswith(APART) else file


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid, self.config.getoption("machines"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Be what hands out tests."""
    return Lanes(config, log)
