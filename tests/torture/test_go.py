# SPDX-License-Identifier: Apache-2.0
"""The unit tests of our Go programs, run in the builder tree; k8s-dqlite's start a real dqlite node."""

from __future__ import annotations

import subprocess

import pytest

from image import components, declaration, host, trees

OURS = [component for component in declaration.components() if any(component.folder.glob("*_test.go"))]


@pytest.mark.parametrize("command", ["vet", "test"])
@pytest.mark.parametrize("component", OURS, ids=lambda component: component.name)
def test_go(component: declaration.Component, command: str) -> None:
    cache = host.cache() / "go"
    cache.mkdir(parents=True, exist_ok=True)
    source = components.inner_source(component)
    binds = (
        trees.Bind(component.folder, source),
        trees.Bind(cache, components.GO_CACHE, writable=True),
        trees.Bind(host.ca_bundle(), components.CA_BUNDLE),
    )
    binary = component.binaries[0]
    argv = trees.in_builder(
        ["go", command, f"-tags={','.join(binary.tags)}", "./..."],
        binds=binds,
        env=components.go_environment(component, cgo=binary.cgo),
        cwd=source,
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
