# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests on virtual machines.

boot            a function: switch on a new machine; it is gone when the test ends
ready_machine   a copy of the Ready control plane with dqlite, this test's own to do anything to
ready_copy      a function: the same for the datastore it is given
shared_machine  a copy of the Ready control plane with dqlite for all tests of a file, which leave it as it is
shared_each     the same for every datastore in turn
cluster         a network for several machines
founder         a function: a copy of the Ready control plane with a datastore in that network, for others to join

What a Ready machine has in it is written in states.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


ORDER = (
    "first_boot",
    "life",
    "torture",
    "local_storage",
    "documents",
    "bad_documents",
    "administration",
    "settings",
    "ingress",
    "network_policy",
    "metrics_server",
    "workers",
    "dual_stack",
    "backup",
)
"""What most of the others depend on comes first, and each feature on one machine before all of them on two.

What comes last has been seen in containers, too.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests here in order, and give each its marker and a time limit."""
    items.sort(key=position)
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.vm)
        if config.pluginmanager.hasplugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def position(item: pytest.Item) -> int:
    """Return where a test on machines runs among those here, the unnamed last; all others come before."""
    if HERE not in item.path.parents:
        return -1
    name = item.path.stem.removeprefix("test_")
    return ORDER.index(name) if name in ORDER else len(ORDER)


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


@contextmanager
def copy(datastore: str, image: Path, accelerator: Accelerator) -> Iterator[Machine]:
    """Switch on a copy of the Ready machine with a datastore; the first to ask boots and saves it."""
    setup = states.setup(datastore)
    saved = ready.ready(setup, image, accelerator, states.furnish)
    with ready.clone(saved, setup, image, accelerator) as machine:
        machine.wait_for_phase(Phase.READY, timeout=RESTORED_SECONDS)
        yield machine


@pytest.fixture
def ready_copy(image: Path, accelerator: Accelerator) -> Iterator[ReadyCopy]:
    """Switch on copies of Ready machines."""
    with ExitStack() as machines:
        yield lambda datastore: machines.enter_context(copy(datastore, image, accelerator))


@pytest.fixture
def cluster(image: Path, accelerator: Accelerator) -> Iterator[Cluster]:
    """A network for several machines, without one yet."""
    with Cluster(image, accelerator=accelerator) as network:
        yield network


@pytest.fixture
def founder(cluster: Cluster, image: Path, accelerator: Accelerator) -> ReadyCopy:
    """Put a copy of the Ready machine with a datastore into the network."""
    return lambda datastore: found(cluster, datastore, image, accelerator)


def found(cluster: Cluster, datastore: str, image: Path, accelerator: Accelerator) -> Machine:
    """Put a copy of the Ready machine with a datastore into a network."""
    setup = states.setup(datastore)
    machine = cluster.add(setup, ready.ready(setup, image, accelerator, states.furnish))
    machine.wait_for_phase(Phase.READY, timeout=RESTORED_SECONDS)
    return machine


@pytest.fixture
def ready_machine(ready_copy: ReadyCopy) -> Machine:
    """A copy of the Ready control plane with dqlite, the default."""
    return ready_copy("dqlite")


@pytest.fixture(scope="module")
def shared_machine(image: Path, accelerator: Accelerator) -> Iterator[Machine]:
    """A copy of the Ready control plane with dqlite that a file's tests only look at."""
    with copy("dqlite", image, accelerator) as machine:
        yield machine


@pytest.fixture(params=states.DATASTORES, scope="module")
def datastore(request: pytest.FixtureRequest) -> str:
    """Each datastore in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared_each(datastore: str, image: Path, accelerator: Accelerator) -> Iterator[Machine]:
    """A copy of each Ready control plane in turn that a file's tests only look at."""
    with copy(datastore, image, accelerator) as machine:
        yield machine
