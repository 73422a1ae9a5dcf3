# SPDX-License-Identifier: Apache-2.0
"""The licences of what is linked into the components' programs: one file of the image with every text once.

The licences of Debian packages are where Debian puts them, /usr/share/doc/<package>/copyright.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from firstboot.failure import BasaltError

from . import components, trees
from .components import Module, Result

PLACE = "usr/share/doc/basalt/licences.txt"
_FILE = re.compile(r"(licen[cs]e|copying|notice|patents|copyright)", re.IGNORECASE)
_LICENCE = re.compile(r"(licen[cs]e|copying|copyright)", re.IGNORECASE)
_RULE = "=" * 78
_HEAD = """\
Licences of the Go modules inside the programs of this image.
Each text is here once, under the names of the modules it belongs to.
"""


def text(results: Iterable[Result]) -> str:
    """Return the file's content. Raises BasaltError for a module that has no licence."""
    builder = trees.builder_tree()
    names: dict[str, list[str]] = {}
    for title, content in (_toolchain(builder), *_of_modules(results, builder)):
        names.setdefault(content, []).append(title)
    blocks = (f"{_RULE}\n{_lines(titles)}\n\n{content}\n" for content, titles in names.items())
    return "\n".join((_HEAD, *sorted(blocks)))


def _lines(titles: Iterable[str]) -> str:
    return "\n".join(sorted(set(titles)))


def _of_modules(results: Iterable[Result], builder: Path) -> Iterable[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for result in results:
        for module, folder in _folders(result, builder).items():
            if module.source not in seen:
                seen.add(module.source)
                yield from (
                    (" ".join((*module.source, name)), text) for name, text in of_folder(folder).items()
                )


def _folders(result: Result, builder: Path) -> Mapping[Module, Path]:
    """Return where the licences of a component's modules are on this host."""
    fetched = [module for module in result.modules if not _in_builder(module)]
    found = components.source_folders(result.component, [module.source for module in fetched])
    packaged = {
        module: _document(builder, module.replaced_by.split()[0])
        for module in result.modules
        if _in_builder(module)
    }
    return dict(zip(fetched, found, strict=True)) | packaged


def _in_builder(module: Module) -> bool:
    """Tell whether a module's code is a Debian package's. An edited copy is under the licence of its original."""
    return module.replaced_by.startswith("/")


def _document(builder: Path, place: str) -> Path:
    """Return the folder of documents of the Debian package in the builder tree that a folder of code belongs to."""
    for path in sorted((builder / "var/lib/dpkg/info").glob("*.list")):
        if f"{place}\n" in path.read_text():
            return builder / "usr/share/doc" / path.stem.partition(":")[0]
    raise BasaltError(f"{place}: no package of the builder tree has it")


def _toolchain(builder: Path) -> tuple[str, str]:
    package = f"golang-{Path(trees.GO_BIN).parent.name.removeprefix('go-')}-src"
    return "Go's standard library", _read(builder / "usr/share/doc" / package / "copyright")


def of_folder(folder: Path) -> dict[str, str]:
    """Return name -> text of the files of a folder that tell under which terms its content may be used."""
    found = {
        path.name: _read(path)
        for path in sorted(folder.iterdir())
        if _FILE.match(path.name) and path.suffix != ".go" and path.is_file()
    }
    if not any(_LICENCE.match(name) for name in found):
        raise BasaltError(f"{folder}: no licence", "Find out under which terms this module may be shipped.")
    return found


def _read(path: Path) -> str:
    return path.read_text(errors="replace").strip()
