# SPDX-License-Identifier: Apache-2.0
"""Disks of machines: overlays on an image that is never written to, firmware variables, small data disks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from image import host
from image.trees import with_tools

FIRMWARE_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
FIRMWARE_VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"
"""Paths inside the tools tree. The build without the vendor's keys: the image brings its own."""

CHUNK = 4 << 20
PINNED = 3
"""Images that stay under a name of their own."""


def overlay(backing: Path, path: Path, *, size: str | None = None) -> Path:
    """Make a qcow2 disk that begins as the backing file's content, grown to size (such as "12G") if given."""
    kind = "qcow2" if backing.suffix == ".qcow2" else "raw"
    command: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind]
    command += ["-b", backing.resolve(), path]
    host.run(with_tools([*command, *([size] if size else [])]), timeout=60)
    return path


def firmware_variables(path: Path) -> Path:
    """Make the variables of a firmware that no key was enrolled in yet: UEFI's setup mode."""
    host.run(
        with_tools(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", FIRMWARE_VARIABLES, path]), timeout=60
    )
    return path


def link_or_copy(source: Path, target: Path) -> Path:
    """Give a file that is only ever replaced, never written to, a second name; a copy on another file system.

    Overlays name their backing file, so a machine needs one that the next build leaves alone.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        partial.hardlink_to(source)
    except OSError:
        host.run(["cp", "--reflink=auto", "--sparse=always", source, partial], timeout=600)
    partial.replace(target)
    return target


def pinned(image: Path) -> Path:
    """Return the image under a name of its own in the cache, where only the newest images keep theirs."""
    folder = host.cache() / "vm" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{digest(image)[:16]}.raw"
    if not target.is_file():
        link_or_copy(image, target)
        # A link has the times of the file, except for the one of its last change of names.
        found = sorted(folder.glob("*.raw"), key=lambda path: -path.stat().st_ctime)
        for path in found[PINNED:]:
            path.unlink()
    return target


def iso(path: Path, label: str, files: dict[str, str | bytes | Path]) -> Path:
    """Make an ISO 9660 file system with the label; files: path inside it to content, or to a file to copy."""
    with tempfile.TemporaryDirectory(prefix="iso-", dir=path.parent) as folder:
        _fill(Path(folder), files)
        host.run(
            with_tools(["xorrisofs", "-quiet", "-o", path, "-V", label, "-J", "-r", folder]), timeout=120
        )
    return path


def vfat(path: Path, label: str, files: dict[str, str | bytes | Path], *, size: int) -> Path:
    """Make a FAT file system of size MiB with the label; files as for iso()."""
    with path.open("wb") as image:
        image.truncate(size << 20)
    with tempfile.TemporaryDirectory(prefix="vfat-", dir=path.parent) as folder:
        _fill(Path(folder), files)
        host.run(with_tools(["mkfs.vfat", "-n", label.upper(), path]), timeout=60)
        tops = sorted(Path(folder).iterdir())
        host.run(with_tools(["mcopy", "-s", "-i", path, *tops, "::"]), timeout=120)
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; remembered for as long as its size, inode and time stay the same."""
    found = path.stat()
    stamp = [found.st_size, found.st_ino, found.st_mtime_ns]
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    memory = host.cache() / "vm" / "digests" / f"{name}.json"
    if memory.is_file():
        known = json.loads(memory.read_text())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    value = _sha256(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"stamp": stamp, "sha256": value}))
    partial.replace(memory)
    return value


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _fill(folder: Path, files: dict[str, str | bytes | Path]) -> None:
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content.encode() if isinstance(content, str) else content)
