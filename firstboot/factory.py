# SPDX-License-Identifier: Apache-2.0
"""Asking for a factory reset: at the next start systemd-repart makes the state partition anew, with nothing on it.

The request is an EFI variable of systemd's, see systemd-repart(8); the partition is marked in
overlays/usr/lib/repart.d/50-state.conf. The initrd does it, and removes the variable.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from firstboot import files
from firstboot.failure import BasaltError

VARIABLE = Path("/sys/firmware/efi/efivars/FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67")
# Kept without power, and seen by boot services and by the running system.
ATTRIBUTES = struct.pack("<I", 7)
CONTENT = ATTRIBUTES + "yes\0".encode("utf-16-le")
# From linux/fs.h; efivarfs protects variables that it does not know against being removed by mistake.
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10

FLASH = "Write the image to the machine's disk again; that removes everything, too."


def require(variable: Path = VARIABLE) -> None:
    """Raise BasaltError on a machine whose firmware cannot keep the request."""
    try:
        known = any(variable.parent.iterdir())
    except OSError:
        known = False
    if not known:
        raise BasaltError("the machine's firmware has no EFI variables to ask for a factory reset by", FLASH)


def request(variable: Path = VARIABLE) -> None:
    """Make the next start a factory reset. Raises BasaltError."""
    require(variable)
    if files.read_or_none(variable) == CONTENT:
        return
    try:
        try:
            _write(variable)
        except PermissionError:
            _unprotect(variable)
            _write(variable)
    except OSError as error:
        reason = f"the firmware does not take the request for a factory reset: {error.strerror}"
        raise BasaltError(reason, FLASH) from None


def _write(variable: Path) -> None:
    descriptor = os.open(variable, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # One write is one call of the firmware; it takes nothing in parts.
        os.write(descriptor, CONTENT)
    finally:
        os.close(descriptor)


def _unprotect(variable: Path) -> None:
    descriptor = os.open(variable, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))
        if flags & FS_IMMUTABLE_FL:
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags & ~FS_IMMUTABLE_FL))
    finally:
        os.close(descriptor)
