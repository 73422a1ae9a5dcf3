# SPDX-License-Identifier: Apache-2.0
"""Reads unit files as systemd does: drop-ins on top of the file, an empty value takes back those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("usr/lib/systemd/system")
LINKED = (".wants", ".requires", ".upholds")
_TRUE = frozenset(("1", "yes", "true", "on"))
_PULL = frozenset(("Wants", "Requires", "Requisite", "BindsTo", "Upholds"))
_PROGRAMS = (
    "ExecStart",
    "ExecStartPre",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
    "ExecCondition",
)


@dataclass(frozen=True)
class Unit:
    """A unit with its drop-ins: what each key is set to, in the order it is written."""

    name: str
    settings: dict[str, list[str]]

    def all(self, key: str) -> list[str]:
        """Return everything a key is set to."""
        return self.settings.get(key, [])

    def last(self, key: str) -> str:
        """Return the value in force of a key that has one; truth is always `yes`."""
        values = self.all(key)
        value = values[-1] if values else ""
        return "yes" if value.lower() in _TRUE else value

    def words(self, key: str) -> frozenset[str]:
        """Return the words of a list."""
        return frozenset(word for value in self.all(key) for word in value.split())

    @property
    def commands(self) -> list[str]:
        """Return every command line of a service."""
        return [line for key in _PROGRAMS for line in self.all(key)]

    @property
    def pulls(self) -> frozenset[str]:
        """Return the units that are started with this one, as far as its own files say so."""
        return frozenset(name for key in _PULL for name in self.words(key))


def load(root: Path, name: str) -> Unit:
    """Read a unit of a tree."""
    folder = root / FOLDER
    settings: dict[str, list[str]] = {}
    kind = name.rpartition(".")[2]
    for path in (folder / name, *_drop_ins(folder, (f"{kind}.d", *_prefixes(name, kind), f"{name}.d"))):
        for key, value in _assignments(path.read_text()):
            # An empty list of capabilities or commands is the first of a new one.
            settings[key] = [*settings.get(key, []), value] if value else []
    return Unit(name, settings)


def _prefixes(name: str, kind: str) -> Iterator[str]:
    """Yield a-.service.d and a-b-.service.d for a-b-c.service."""
    parts = name.removesuffix(f".{kind}").split("-")
    for count in range(1, len(parts)):
        yield f"{'-'.join(parts[:count])}-.{kind}.d"


def _drop_ins(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return drop-ins in their order: by file name, and of two with the same name the more special one alone."""
    found = {path.name: path for name in names for path in (folder / name).glob("*.conf")}
    return [found[name] for name in sorted(found)]


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        key, equals, value = whole.partition("=")
        if equals:
            yield key.strip(), value.strip()
        whole = ""


def started(root: Path, first: str) -> dict[str, str]:
    """Return every unit that a target starts, directly or not, with the one that pulls it in."""
    folder = root / FOLDER
    found = {first: ""}
    todo = [first]
    while todo:
        name = todo.pop()
        path = (folder / name).resolve() if (folder / name).is_symlink() else folder / name
        names = {entry.name for kind in LINKED for entry in (folder / f"{name}{kind}").glob("*")}
        names |= {entry.name for kind in LINKED for entry in (folder / f"{path.name}{kind}").glob("*")}
        if path.is_file() and path.parent == folder:
            names |= load(root, path.name).pulls
        for other in names - found.keys():
            found[other] = name
            todo.append(other)
    return found
