# SPDX-License-Identifier: Apache-2.0
"""Fixtures for clusters in containers.

cluster    three control planes and a worker, once for each datastore; a file's tests share it, and each leaves it whole
bare       a cluster without a node yet, for tests that want another number of them
external   a cluster without a node yet, for an etcd that somebody else runs
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from image import components, declaration
from image.vm import disks
from image.vm.place import built_image
from tests.image import gpt

from .cluster import CONTROL_PLANES, WORKER, Cluster
from .container import Tree
from .wires import Wires, ip

HERE = Path(__file__).parent
TEST_SECONDS = 900


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test here a time limit."""
    for item in items:
        if HERE in item.path.parents and config.pluginmanager.hasplugin("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def tree() -> Tree:
    """The /usr of the built image."""
    disk = disks.pinned(built_image())
    table = gpt.read(disk)
    [usr] = [each for each in table.partitions if each.type == gpt.Kind.USR and each.label != "_empty"]
    return Tree(disk, usr.offset)


@pytest.fixture(scope="session")
def able() -> None:
    """Skip where the host's kernel lacks what containers of the image need."""
    if "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel does not know erofs")
    probe = ("link", "add", "basalt-probe", "type", "veth", "peer", "name", "basalt-probe1")
    if not ip(*probe, check=False):
        pytest.skip("this kernel has no pairs of virtual cards")
    ip("link", "delete", "basalt-probe")


@contextmanager
def empty(datastore: str, tree: Tree) -> Iterator[Cluster]:
    """Make a cluster without a node."""
    program = components.build(declaration.load("torture")).folder / "etcd-torture"
    folder = Path(tempfile.mkdtemp(prefix="basalt-nspawn-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        wires = stack.enter_context(Wires())
        yield Cluster(datastore, tree, folder, wires, program, stack)


@pytest.fixture(scope="module", params=["dqlite", pytest.param("etcd", marks=pytest.mark.variant)])
def cluster(request: pytest.FixtureRequest, able: None, tree: Tree) -> Iterator[Cluster]:
    """Three control planes and a worker, switched on together, the one that founds the cluster last."""
    with empty(request.param, tree) as made:
        for name in (WORKER, *reversed(CONTROL_PLANES)):
            made.add(name)
        yield made


@pytest.fixture
def bare(able: None, tree: Tree) -> Iterator[Cluster]:
    """A cluster without a node yet, which will have dqlite."""
    with empty("dqlite", tree) as made:
        yield made


@pytest.fixture
def external(able: None, tree: Tree) -> Iterator[Cluster]:
    """A cluster without a node, whose datastore is none of its own."""
    with empty("external", tree) as made:
        yield made
