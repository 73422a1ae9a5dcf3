# SPDX-License-Identifier: Apache-2.0
"""The programs under torture, from the components' cache, and how they run on this host without a machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image import components, declaration, trees

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LONGEST = 600.0
"""Seconds after which writers end that nobody has ended."""


@dataclass(frozen=True)
class Programs:
    """Command prefixes: the etcd API servers, and the program that tortures them."""

    k8s_dqlite: tuple[str, ...]
    etcd: tuple[str, ...]
    torture: Path


def built_programs() -> Programs:
    """Return the built programs, building what is not in the cache."""
    k8s_dqlite, etcd, torture = (
        components.build(component(name)) for name in ("k8s-dqlite", "etcd", "torture")
    )
    # k8s-dqlite is linked against the image's libdqlite; the host may be of another release. The loader of
    # the builder tree runs it as an ordinary process of the host: signals reach the program itself.
    tree = trees.builder_tree()
    loader = (str(tree / LIBRARIES / "ld-linux-x86-64.so.2"), "--library-path", str(tree / LIBRARIES))
    return Programs(
        k8s_dqlite=(*loader, str(k8s_dqlite.folder / "tree/usr/bin/k8s-dqlite")),
        etcd=(str(etcd.folder / "tree/usr/bin/etcd"),),
        torture=torture.folder / "etcd-torture",
    )


def component(name: str) -> declaration.Component:
    """Return the description of a component."""
    return next(each for each in declaration.components() if each.name == name)


@dataclass(frozen=True)
class Torture:
    """Writers on one endpoint and their journal; with prefixes of their own several may run at once.

    options: further arguments about the endpoint, its certificates
    enter:   what goes before the program, to run it somewhere else
    """

    program: Path
    endpoint: str
    journal: Path
    prefix: str = field(default="/registry/torture/")
    options: tuple[str, ...] = ()
    enter: tuple[str, ...] = ()

    def _argv(self, command: str, endpoint: str | None = None) -> list[str]:
        target = ["--endpoint", endpoint or self.endpoint, "--prefix", self.prefix, *self.options]
        return [*self.enter, str(self.program), command, *target]

    def write(self, seconds: float, writers: int = 8) -> subprocess.Popen[str]:
        """Start writers; `finish` waits for them."""
        argv = [*self._argv("write"), "--journal", str(self.journal), "--append"]
        argv += ["--duration", f"{seconds}s", "--writers", str(writers)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @contextmanager
    def writing(self, writers: int = 8) -> Iterator[subprocess.Popen[str]]:
        """Let writers write until the end, however long what is done meanwhile takes."""
        with self.write(LONGEST, writers) as process:
            try:
                yield process
                process.terminate()
                finish(process)
            finally:
                process.kill()

    def written(self) -> int:
        """Return how many writes have an outcome so far."""
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def verify(self, endpoint: str | None = None) -> dict[str, Any]:
        """Compare the journal with what the store says; the result's `broken` must be empty."""
        argv = [*self._argv("verify", endpoint), "--journal", str(self.journal)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.stdout, f"verify could not look: {done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def bench(self, writes: int, writers: int = 8) -> dict[str, Any]:
        """Make a number of writes without a journal and return the times."""
        argv = [*self._argv("bench"), "--writes", str(writes), "--writers", str(writers)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def finish(writers: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for writers and return what they count."""
    output, errors = writers.communicate(timeout=120)
    assert writers.returncode == 0, errors
    result: dict[str, Any] = json.loads(output)
    return result
