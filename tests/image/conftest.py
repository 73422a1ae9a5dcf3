# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the finished image.

built   the files of the image, as they are in build/
disk    the partition table of its disk
esp     a folder with what the ESP has
root    a folder with /usr as the image has it, and next to nothing beside it
uki     the sections of the UKI
bom     the SBOM
signer  the keys the image ought to be signed with

Each process that has tests of a file here unpacks everything once, which takes three seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image import artefacts, keys
from image.vm.place import BUILD
from tests.image import gpt, programs
from tests.image.built import Built, hold, tool
from tests.image.gpt import Kind

HERE = Path(__file__).parent
SECONDS = 120 if artefacts.names(BUILD) else 7200
"""Time limit of a test. The first one waits for everything to be unpacked, and where there is no image for that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here its marker and a time limit."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is gone after the last test: /usr is larger than what pytest should keep of three runs."""
    folder = tmp_path_factory.mktemp("image")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built(scratch: Path) -> Built:
    """The files of the image."""
    return hold(BUILD, scratch / "built")


@pytest.fixture(scope="session")
def signer() -> keys.Keys:
    """The keys of this user's images; the private halves are not looked at."""
    return keys.Keys(keys.folder())


@pytest.fixture(scope="session")
def disk(built: Built) -> gpt.Table:
    """The disk's partition table."""
    return gpt.read(built.disk)


@pytest.fixture(scope="session")
def esp(disk: gpt.Table, scratch: Path) -> Path:
    """What the ESP has."""
    folder = scratch / "esp"
    folder.mkdir()
    partition = disk.find(Kind.ESP, "esp")
    tool("mcopy", "-s", "-n", "-i", f"{disk.path}@@{partition.offset}", "::", folder)
    return folder


@pytest.fixture(scope="session")
def root(built: Built, disk: gpt.Table, scratch: Path) -> Path:
    """The tree of the image: /usr out of slot A with owners and modes, and the links that make it a root."""
    folder = scratch / "root"
    for name in ("etc", "run", "var"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    usr = disk.find(Kind.USR, f"basalt_{built.version}")
    tool("fsck.erofs", f"--extract={folder}/usr", f"--offset={usr.offset}", disk.path)
    return folder


@pytest.fixture(scope="session")
def uki(built: Built) -> dict[str, bytes]:
    """The sections of the UKI."""
    return programs.pe_sections(built.only("basalt_*.efi").read_bytes())


@pytest.fixture(scope="session")
def bom(built: Built) -> dict[str, Any]:
    """The SBOM."""
    document: dict[str, Any] = json.loads(built.only("basalt_*.spdx.json").read_text())
    return document
