# SPDX-License-Identifier: Apache-2.0
"""A disk whose power can be cut between any two changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = ("replace", "rename", "unlink", "rmdir", "mkdir")
"""The system's calls that change names on a disk."""


class PowerCut(BaseException):
    """Nothing of the process is left to handle it."""


@contextmanager
def watched(before: Callable[[str, Any], None]) -> Iterator[None]:
    """Have a function called before each change, with the call's name and path; what it raises, the call raises."""
    originals = {name: getattr(os, name) for name in CALLS}

    def watching(name: str) -> object:
        def call(path: Any, *arguments: object, **options: object) -> object:
            before(name, path)
            return originals[name](path, *arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watching(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextmanager
def power_cut(after: int) -> Iterator[list[str]]:
    """Let changes fail once so many were made; gives those that were."""
    done: list[str] = []

    def count(name: str, _path: Any) -> None:
        if len(done) == after:
            raise PowerCut
        done.append(name)

    with watched(count):
        yield done


@dataclass
class Cut:
    """A machine loses its power at one change of its disk; happened: whether it did, lifted: whether it is back."""

    root: Path
    after: int
    count: int = 0
    happened: bool = False
    lifted: bool = False

    def look(self, _name: str, path: Any) -> None:
        if self.lifted or not isinstance(path, str | os.PathLike) or not Path(path).is_relative_to(self.root):
            return
        if self.happened or self.count == self.after:
            self.happened = True
            raise PowerCut
        self.count += 1


@contextmanager
def power_of(root: Path, after: int) -> Iterator[Cut]:
    """Cut the power of the machine whose disk is at the root, once it has made so many changes there."""
    cut = Cut(root, after)
    with watched(cut.look):
        yield cut
