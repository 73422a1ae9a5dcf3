# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests on virtual machines.

boot            a function: switch on a new machine; it is gone when the test ends
ready_machine   a copy of the Ready control plane with dqlite, this test's own to do anything to
ready_each      the same for every datastore in turn
ready_copy      a function: the same for the datastore it is given
cluster         a network for several machines
founder         a function: a copy of the Ready control plane with a datastore in that network, for others to join

What a Ready machine has in it is written in states.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from firstboot.report.status import Phase
from image.vm import accelerator as detection
from image.vm import disks
from image.vm.arguments import Accelerator
from image.vm.place import built_image, kernel

from . import artefacts, ready, states
from .cluster import Cluster
from .machine import Machine, Setup

TEST_SECONDS = 2700
"""Time limit of a test that names none of its own."""

HERE = Path(__file__).parent

RESTORED_SECONDS = 240.0
"""Until a copy of a Ready machine says that it is Ready."""

Boot = Callable[[Setup], Machine]
ReadyCopy = Callable[[str], Machine]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test here its marker and a time limit."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.vm)
        if config.pluginmanager.hasplugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note whose machines the next ones are."""
    if HERE in item.path.parents:
        artefacts.begin(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep what the machines of a failed test have to tell, while they still run."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and HERE in item.path.parents:
        for folder in artefacts.keep_all():
            report.sections.append(("machine", f"console, journal, status and command: {folder}"))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def image() -> Path:
    """The built disk image, safe from builds that go on meanwhile."""
    return disks.pinned(built_image())


@pytest.fixture(scope="session")
def accelerator(image: Path) -> Accelerator:
    """What machines run on here."""
    return detection.detect(kernel())


@pytest.fixture
def boot(image: Path, accelerator: Accelerator) -> Iterator[Boot]:
    """Switch on a machine with a disk of its own."""
    with ExitStack() as machines:
        yield lambda setup: machines.enter_context(Machine(setup, image, accelerator=accelerator))


@pytest.fixture
def ready_copy(image: Path, accelerator: Accelerator) -> Iterator[ReadyCopy]:
    """Switch on a copy of the Ready machine with a datastore; the first to ask boots and saves it."""
    with ExitStack() as machines:

        def copy(datastore: str) -> Machine:
            setup = states.setup(datastore)
            saved = ready.ready(setup, image, accelerator, states.furnish)
            machine = machines.enter_context(ready.clone(saved, setup, image, accelerator))
            machine.wait_for_phase(Phase.READY, timeout=RESTORED_SECONDS)
            return machine

        yield copy


@pytest.fixture
def cluster(image: Path, accelerator: Accelerator) -> Iterator[Cluster]:
    """A network for several machines, without one yet."""
    with Cluster(image, accelerator=accelerator) as network:
        yield network


@pytest.fixture
def founder(cluster: Cluster, image: Path, accelerator: Accelerator) -> ReadyCopy:
    """Put a copy of the Ready machine with a datastore into the network."""

    def found(datastore: str) -> Machine:
        setup = states.setup(datastore)
        machine = cluster.add(setup, ready.ready(setup, image, accelerator, states.furnish))
        machine.wait_for_phase(Phase.READY, timeout=RESTORED_SECONDS)
        return machine

    return found


@pytest.fixture
def ready_machine(ready_copy: ReadyCopy) -> Machine:
    """A copy of the Ready control plane with dqlite, the default."""
    return ready_copy("dqlite")


@pytest.fixture(params=states.DATASTORES)
def ready_each(request: pytest.FixtureRequest, ready_copy: ReadyCopy) -> Machine:
    """A copy of each Ready control plane in turn."""
    return ready_copy(request.param)
