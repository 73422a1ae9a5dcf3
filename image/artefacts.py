# SPDX-License-Identifier: Apache-2.0
"""What a build leaves in build/: names, sizes, check sums.

basalt.raw                        the disk to flash or boot
basalt_VERSION.efi                the signed UKI
basalt_VERSION.usr.UUID.raw.zst   /usr, and its hash tree (usr-verity) and signature (usr-sig): what an update fetches
basalt_VERSION.spdx.json          the SBOM
SHA256SUMS, SHA256SUMS.gpg        of all of them
image.key                         what they were made of: image/inputs.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from firstboot.failure import BasaltError

from . import host, keys, trees

MB = 1000 * 1000
LIMIT = 400 * MB
SUMS = "SHA256SUMS"
KEY_FILE = "image.key"
DISK = "basalt.raw"
_EROFS_MAGIC = 0xE0F5E1E2


@dataclass(frozen=True)
class Sizes:
    """Bytes of what a node runs from: the file system of /usr and the UKI."""

    usr: int
    uki: int

    def __str__(self) -> str:
        total = (self.usr + self.uki) / MB
        return f"/usr {self.usr / MB:.1f} MB + UKI {self.uki / MB:.1f} MB = {total:.1f} MB of at most {LIMIT // MB} MB"

    def check(self) -> None:
        """Raise BasaltError when both together are larger than the limit."""
        if self.usr + self.uki > LIMIT:
            raise BasaltError(f"the image is too large: {self}", "Find out what grew: docs/image.md, Size.")


def arrange(output: Path, version: str) -> Sizes:
    """Give mkosi's results their names, compress what updates fetch, and drop the rest; returns the sizes."""
    prefix = f"basalt_{version}"
    (output / f"{prefix}.raw").rename(output / DISK)
    partitions = sorted(output.glob(f"{prefix}.usr*.raw"))
    usr = next(path for path in partitions if path.name.startswith(f"{prefix}.usr."))
    sizes = Sizes(erofs_size(usr), (output / f"{prefix}.efi").stat().st_size)
    (output / f"{prefix}.efi").chmod(0o644)
    for path in partitions:
        # Slots are mostly empty, so the fastest level is enough.
        host.run(trees.with_tools(["zstd", "-q", "-1", "-T0", "--rm", path]), timeout=300)
    for name in (prefix, "initrd", "initrd.cpio.zst"):
        (output / name).unlink(missing_ok=True)
    return sizes


def erofs_size(path: Path) -> int:
    """Return the bytes of an erofs file system, which is shorter than the partition it is in."""
    with path.open("rb") as file:
        file.seek(1024)
        block = file.read(40)
    magic, bits, blocks = *struct.unpack_from("<I8xB", block), struct.unpack_from("<I", block, 36)[0]
    if magic != _EROFS_MAGIC:
        raise BasaltError(f"{path}: no erofs file system")
    return int(blocks) << int(bits)


def write_sums(output: Path, signer: keys.Keys) -> None:
    """Write SHA256SUMS of everything there, and its signature."""
    names = sorted(path.name for path in output.iterdir() if path.name.startswith("basalt"))
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(lambda name: _digest(output / name), names))
    lines = (f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    (output / SUMS).write_text("".join(lines))
    keys.sign_detached(signer, output / SUMS, output / f"{SUMS}.gpg")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names(folder: Path) -> list[str]:
    """Return the files of an image in a folder, none when it is not complete."""
    if not (folder / SUMS).is_file() or not (folder / KEY_FILE).is_file():
        return []
    found = [line.partition("  ")[2] for line in (folder / SUMS).read_text().splitlines()]
    complete = all((folder / name).is_file() for name in found)
    return [*found, SUMS, f"{SUMS}.gpg", "sizes.json", KEY_FILE] if complete else []


def copy(source: Path, target: Path) -> None:
    """Copy an image; the key comes last, so that half a copy is none. Holes stay holes."""
    clear(target)
    target.mkdir(parents=True, exist_ok=True)
    files = names(source)
    _copy_files([source / name for name in files if name != KEY_FILE], target)
    shutil.copyfile(source / KEY_FILE, target / KEY_FILE)


def _copy_files(files: Sequence[Path], target: Path) -> None:
    host.run(["cp", "--reflink=auto", "--sparse=always", "--preserve=mode", *files, target], timeout=600)


def clear(folder: Path) -> None:
    """Remove an image, its key first, and whatever older builds left beside it."""
    for name in (KEY_FILE, SUMS, f"{SUMS}.gpg", "sizes.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("basalt*"):
        if path.is_file():
            path.unlink()


def prune(folder: Path, keep: int) -> None:
    """Keep the images of a cache that were used last."""
    found = sorted(
        (path for path in folder.iterdir() if path.is_dir()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in found[keep:]:
        shutil.rmtree(path)


def touch(folder: Path) -> None:
    """Mark an image of the cache as used now."""
    os.utime(folder)
