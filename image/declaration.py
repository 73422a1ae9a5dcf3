# SPDX-License-Identifier: Apache-2.0
"""What a component is: the folder image/components/<name>/ as frozen dataclasses, and the key of its build.

The keys of ``component.toml`` are described in docs/components.md.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.failure import BasaltError

from . import trees

FOLDER = Path(__file__).resolve().parent / "components"
# Raised when the way of building changes so that earlier results are no longer what a build would give.
FORMAT = 1
GO_FLAGS = ("-buildvcs=false", "-trimpath", "-mod=readonly", "-modcacherw")
LINKER_FLAGS = ("-s", "-w")
C_FLAGS = ("-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")


class DeclarationError(BasaltError):
    """A component's folder says something that cannot be meant; names the file and the key."""


@dataclass(frozen=True)
class Binary:
    """One program: a Go package, or a C file of the component's folder, and where it goes.

    path: in the image when it begins with a slash, else beside the tree in the component's output
    variables: Go string variables set by the linker
    links: further names in the image, made symlinks
    """

    package: str
    path: str
    cgo: bool = False
    tags: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], version: str) -> Binary:
        """Read one ``[[binaries]]`` table; ``{version}`` in variables stands for the component's version."""
        variables = {
            name: value.replace("{version}", version) for name, value in data.get("variables", {}).items()
        }
        return cls(
            package=data["package"],
            path=data["path"],
            cgo=data.get("cgo", False),
            tags=tuple(data.get("tags", ())),
            variables=tuple(sorted(variables.items())),
            links=tuple(data.get("links", ())),
        )

    @property
    def is_c(self) -> bool:
        """Tell whether this is a C program."""
        return self.package.endswith(".c")

    def built_name(self) -> str:
        """Return the name the Go toolchain gives a program of this import path."""
        *rest, last = self.package.split("/")
        return rest[-1] if rest and re.fullmatch(r"v\d+", last) else last


@dataclass(frozen=True)
class Edit:
    """A module to build from a copy that the component's edit.py edits: its h1: sum, and the copy's folder."""

    module: str
    version: str
    sum: str
    directory: str


@dataclass(frozen=True)
class Files:
    """Files of a required module that go into the image as they are.

    pattern: below the module's folder, as Path.glob has it
    folder:  in the image
    """

    module: str
    pattern: str
    folder: str


@dataclass(frozen=True)
class Archive:
    """A container image made of programs of this component, as an OCI archive.

    files: path in the container to path of the binary as declared
    """

    name: str
    path: str
    entrypoint: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    user: str = "65534:65534"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Archive:
        """Read one ``[[images]]`` table."""
        values = {
            **data,
            "entrypoint": tuple(data["entrypoint"]),
            "files": tuple(sorted(data["files"].items())),
        }
        return cls(**values)


@dataclass(frozen=True)
class Component:
    """One upstream project, or a program of ours, as its folder declares it.

    module: the Go module its version belongs to; empty for our own programs
    test_only: never part of the image
    """

    name: str
    folder: Path
    version: str
    license: str
    summary: str
    module: str
    test_only: bool
    environment: tuple[tuple[str, str], ...]
    binaries: tuple[Binary, ...]
    edits: tuple[Edit, ...]
    files: tuple[Files, ...]
    images: tuple[Archive, ...]

    @classmethod
    def from_dict(cls, name: str, folder: Path, data: Mapping[str, Any]) -> Component:
        """Make a component of the parsed ``component.toml``; raises DeclarationError."""
        unknown = data.keys() - _KEYS
        if unknown:
            raise DeclarationError(
                f"{folder}/component.toml: unknown key {', '.join(sorted(unknown))}",
                f"Known are {', '.join(sorted(_KEYS))}.",
            )
        try:
            version = str(data["version"])
            component = cls(
                name=name,
                folder=folder,
                version=version,
                license=data["license"],
                summary=data["summary"],
                module=data.get("module", ""),
                test_only=data.get("test-only", False),
                environment=tuple(sorted(data.get("environment", {}).items())),
                binaries=tuple(Binary.from_dict(entry, version) for entry in data["binaries"]),
                edits=tuple(Edit(**entry) for entry in data.get("edits", ())),
                files=tuple(Files(**entry) for entry in data.get("files", ())),
                images=tuple(Archive.from_dict(entry) for entry in data.get("images", ())),
            )
        except KeyError as error:
            raise DeclarationError(f"{folder}/component.toml: key {error.args[0]} is missing") from error
        except (TypeError, AttributeError) as error:
            raise DeclarationError(f"{folder}/component.toml: {error}") from error
        component._check()
        return component

    def _check(self) -> None:
        """Refuse a half bump: module file and edits must name the version that the component claims."""
        if self.module:
            found = required_version(self.folder / "go.mod", self.module)
            if found.removeprefix("v") != self.version:
                raise DeclarationError(
                    f"{self.folder}: component.toml says {self.version}, "
                    f"go.mod requires {self.module} {found or 'not at all'}",
                    f"Set both to the same version, then run `python3 -m image.components tidy {self.name}`.",
                )
        for edit in self.edits:
            found = required_version(self.folder / "go.mod", edit.module)
            if found != edit.version:
                raise DeclarationError(
                    f"{self.folder}: the edit is of {edit.module} {edit.version}, "
                    f"go.mod requires {found or 'it not at all'}",
                    "Set version and sum of the edit to those of the required module.",
                )
            if not _replaced(self.folder / "go.mod", edit.module, f"./edited/{edit.directory}"):
                raise DeclarationError(
                    f"{self.folder}: the edited copy of {edit.module} is not what is built",
                    f"Have go.mod replace it: `replace {edit.module} => ./edited/{edit.directory}`.",
                )
        for each in self.files:
            if not required_version(self.folder / "go.mod", each.module):
                raise DeclarationError(
                    f"{self.folder}: files of {each.module}, which go.mod does not require"
                )

    @property
    def in_image(self) -> bool:
        """Tell whether anything of this component is part of the image."""
        return not self.test_only

    def sources(self) -> list[Path]:
        """Return the files that decide the build, sorted."""
        found = (
            path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
        return sorted(found)

    def key(self) -> str:
        """Return what a build is known by: 16 hex digits of a hash of folder, builder tree and flags."""
        digest = hashlib.sha256()
        for text in (str(FORMAT), trees.tree_key("builder"), *GO_FLAGS, *LINKER_FLAGS, *C_FLAGS):
            digest.update(text.encode() + b"\0")
        for path in self.sources():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.folder)} {len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]


_KEYS = frozenset(
    (
        *("version", "license", "summary", "module", "test-only", "environment"),
        *("binaries", "edits", "files", "images"),
    )
)


def required_version(go_mod: Path, module: str) -> str:
    """Return the version of a module that a module file requires, empty when it does not."""
    text = go_mod.read_text() if go_mod.is_file() else ""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _replaced(go_mod: Path, module: str, place: str) -> bool:
    line = rf"^\s*(?:replace\s+)?{re.escape(module)} => {re.escape(place)}$"
    return bool(re.search(line, go_mod.read_text(), re.MULTILINE))


def load(name: str, folder: Path = FOLDER) -> Component:
    """Read one component; raises DeclarationError when there is none or its declaration is wrong."""
    path = folder / name / "component.toml"
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise DeclarationError(
            f"{name}: no such component", f"Known are {', '.join(names(folder))}."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path}: {error}") from error
    return Component.from_dict(name, path.parent, data)


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all components, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/component.toml"))


def components(folder: Path = FOLDER) -> tuple[Component, ...]:
    """Return all components, sorted by name."""
    return tuple(load(name, folder) for name in names(folder))
