# SPDX-License-Identifier: Apache-2.0
"""Fixtures for clusters in containers.

cluster    three control planes and a worker, once for each datastore; a file's tests share it, and each leaves it whole
bare       a cluster without a node yet, for tests that want another number of them
external   a cluster without a node yet, for an etcd that somebody else runs
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import CONTROL_PLANES, WORKER, Cluster
from .container import Tree
from .host import built_tree, empty, lacking

HERE = Path(__file__).parent
TEST_SECONDS = 900
DATASTORES = ("dqlite", pytest.param("etcd", marks=pytest.mark.variant))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test here a time limit."""
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def tree() -> Tree:
    """The /usr of the built image."""
    return built_tree()


@pytest.fixture(scope="session")
def able() -> None:
    """Skip where the host's kernel lacks what containers of the image need."""
    if reason := lacking():
        pytest.skip(reason)


@pytest.fixture(scope="module", params=DATASTORES)
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
