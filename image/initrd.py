# SPDX-License-Identifier: Apache-2.0
"""Cut an initrd down to what it runs: called by mkosi.images/initrd/mkosi.finalize.

    python3 -m image.initrd ROOT

Every byte of it is read and hashed by the firmware and unpacked by the kernel at each boot. Programs are kept by name;
libraries are kept when a kept program, or another kept library, needs them.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = frozenset({
    # file systems: made, checked, mounted
    *("e2fsck", "fsck", "fsck.ext4", "mke2fs", "mkfs.ext4", "mount", "umount"),
    # the kernel's devices
    *("dmsetup", "kmod", "modprobe", "udevadm"),
    # systemd
    *("init", "journalctl", "systemctl", "systemd-repart", "systemd-sysusers", "systemd-tmpfiles"),
    # emergency.service
    *("echo", "sleep"),
    "sh",
    "dash",
})  # fmt: skip
SYSTEMD = frozenset({
    *("systemd", "systemd-executor", "systemd-fsck", "systemd-growfs", "systemd-journald", "systemd-makefs"),
    *("systemd-modules-load", "systemd-remount-fs", "systemd-shutdown", "systemd-sysctl"),
    *("systemd-sysroot-fstab-check", "systemd-udevd", "systemd-veritysetup", "systemd-volatile-root"),
})  # fmt: skip
GENERATORS = frozenset(
    {
        "systemd-debug-generator",
        "systemd-fstab-generator",
        "systemd-gpt-auto-generator",
        "systemd-veritysetup-generator",
    }
)
RULES = frozenset({
    *("50-udev-default.rules", "55-dm.rules", "60-block.rules", "60-persistent-storage-dm.rules"),
    *("60-persistent-storage.rules", "64-ext4.rules", "80-drivers.rules", "95-dm-notify.rules", "99-systemd.rules"),
})  # fmt: skip
UDEV_PROGRAMS = frozenset({"ata_id", "scsi_id", "rules.d"})
# What systemd loads when it is there: verity, partitions, file systems, compressed modules and journals, seccomp.
LOADED = (
    *(
        "libblkid.so.1",
        "libcrypto.so.3",
        "libcryptsetup.so.12",
        "libfdisk.so.1",
        "libkmod.so.2",
        "liblz4.so.1",
    ),
    *("liblzma.so.5", "libmount.so.1", "libnss_files.so.2", "libseccomp.so.2", "libzstd.so.1"),
)
# Where an entry is not in the list that goes with it, it is removed.
KEPT = {
    "usr/bin": PROGRAMS,
    "usr/sbin": PROGRAMS,
    "usr/lib/systemd/system-generators": GENERATORS,
    "usr/lib/tmpfiles.d": frozenset({"static-nodes-permissions.conf"}),
    "usr/lib/udev": UDEV_PROGRAMS,
    "usr/lib/udev/rules.d": RULES,
}
_UNITS = Path("usr/lib/systemd/system")
_TRIGGERS = (".path", ".socket", ".timer")
_STARTS = re.compile(r"^ExecStart=[-+@!:|]*([^\s%]+)(?=\s|$)", re.MULTILINE)
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")


def slim(root: Path) -> None:
    """Do it to a tree."""
    for folder, names in KEPT.items():
        for path in _files(root / folder):
            if path.name not in names:
                path.unlink()
    for path in _files(root / "usr/lib/systemd"):
        if path.name.startswith("systemd") and path.name not in SYSTEMD:
            path.unlink()
    remove_broken_units(root)
    needed = closure(root, _roots(root))
    for path in [*_files(root / _LIBRARIES), *_files(root / _LIBRARIES / "systemd")]:
        if ".so" in path.name and path.name not in needed:
            path.unlink()


def remove_broken_units(root: Path) -> None:
    """Remove services that start a program that is not there, what triggers them, and links to what is not there."""
    units = root / _UNITS
    for path in units.glob("*.service"):
        if path.is_file() and not all(
            _exists(root, program) for program in _STARTS.findall(path.read_text())
        ):
            path.unlink()
    for path in [found for found in units.iterdir() if found.suffix in _TRIGGERS and found.is_file()]:
        service = re.search(r"^(?:Service|Unit)=(.+)$", path.read_text(), re.MULTILINE)
        name = service[1] if service else f"{path.stem}.service"
        if not any((units / candidate).is_file() for candidate in (name, f"{path.stem}@.service")):
            path.unlink()
    for path in units.rglob("*"):
        if path.is_symlink() and path.readlink() != Path("/dev/null") and not _target_exists(units, path):
            path.unlink()


def _exists(root: Path, program: str) -> bool:
    places = [program.lstrip("/")] if "/" in program else [f"usr/bin/{program}", f"usr/sbin/{program}"]
    return any((root / place).exists() for place in places)


def _target_exists(units: Path, link: Path) -> bool:
    name = link.name if link.parent != units else link.readlink().name
    template = re.sub(r"@[^.]*\.", "@.", name)
    return any((units / candidate).is_file() for candidate in (name, template))


def _files(folder: Path) -> list[Path]:
    return (
        [path for path in folder.iterdir() if path.is_symlink() or path.is_file()] if folder.is_dir() else []
    )


def _roots(root: Path) -> list[Path]:
    folders = ("usr/bin", "usr/sbin", "usr/lib/systemd", "usr/lib/systemd/system-generators", "usr/lib/udev")
    programs = [path for folder in folders for path in _files(root / folder) if not path.is_symlink()]
    return programs + [path for name in LOADED if (path := _find(root, name))]


def closure(root: Path, start: Iterable[Path]) -> set[str]:
    """Return the names of all libraries that these files need, and of the files those names link to."""
    names: set[str] = set()
    todo = list(start)
    while todo:
        path = todo.pop()
        names |= {path.name, path.resolve().name}
        todo += [found for name in needed_by(path) if name not in names and (found := _find(root, name))]
    return names


def _find(root: Path, name: str) -> Path | None:
    places = (root / _LIBRARIES / name, root / _LIBRARIES / "systemd" / name)
    return next((path for path in places if path.exists()), None)


def needed_by(path: Path) -> list[str]:
    """Return the libraries a 64-bit ELF file names as needed; none for any other file."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return []
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, table + number * size) for number in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == 2), None)
    if not dynamic:
        return []
    entries = list(struct.iter_unpack("<QQ", data[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    address = next(value for tag, value in entries if tag == 5)
    # The string table is given by address; the segment it is loaded from tells where it is in the file.
    strings = next(
        address - start + offset for kind, _, offset, start, _, length in segments
        if kind == 1 and start <= address < start + length
    )  # fmt: skip
    return [_string(data, strings + value) for tag, value in entries if tag == 1]


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
