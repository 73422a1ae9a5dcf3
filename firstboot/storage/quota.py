# SPDX-License-Identifier: Apache-2.0
"""Project quotas of the kernel: which project a folder belongs to, and how much a project may have.

Everything that is made in a folder of a project belongs to it, too. See quotactl(2) and ioctl_xfs_fsgetxattr(2); ext4
speaks the same. The file system is named by a folder in it, so that no device is needed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# From linux/fs.h and linux/quota.h. The number of the system call is the same on all machines.
QUOTACTL_FD = 443
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FS_XFLAG_PROJINHERIT = 0x200
PRJQUOTA = 2
Q_GETQUOTA, Q_SETQUOTA, Q_XGETQSTATV = 0x800007, 0x800008, 0x5808
QIF_BLIMITS, QIF_ILIMITS = 1, 4
FS_QUOTA_PDQ_ENFD = 1 << 5

XATTR = struct.Struct("=5I8x")
DQBLK = struct.Struct("=8QI4x")
STATV = struct.Struct("=bxHI152x")
STATV_VERSION = 1
BLOCK = 1024
"""Bytes in which limits are counted."""

NOT_FORMATTED = "is on a file system without project quotas"
FORMAT = "it takes an ext4 one, made with `mkfs.ext4 -O quota,project` and mounted with the option `prjquota`"
NOT_ENFORCED = "is on a file system that counts project quotas but does not enforce them"
MOUNT = "mount it with the option `prjquota`"


@dataclass(frozen=True)
class Quota:
    """What a project may have (0: as much as there is) and what it has; bytes and files."""

    limit: int = 0
    files: int = 0
    used: int = 0
    used_files: int = 0


class Quotas(Protocol):
    """The quotas of one file system. Everything raises OSError."""

    def problem(self) -> tuple[str, str] | None:
        """Return why no limit would be kept to and what to do, or None."""

    def project(self, folder: Path) -> int:
        """Return the project of a folder, 0 for none."""

    def assign(self, folder: Path, project: int, *, inherited: bool = True) -> None:
        """Make a folder part of a project and, if that is inherited, what will be made in it or moved to it."""

    def get(self, project: int) -> Quota:
        """Return the quota of a project; one without any has no limits and nothing."""

    def set(self, project: int, limit: int, files: int) -> None:
        """Limit a project; bytes are rounded up to whole KiB."""


@dataclass(frozen=True)
class ProjectQuotas:
    """Those of the kernel, for the file system that a folder is on."""

    folder: Path

    def problem(self) -> tuple[str, str] | None:
        """Ask the file system whether it enforces them."""
        state = bytearray(STATV.pack(STATV_VERSION, 0, 0))
        try:
            self._call(Q_XGETQSTATV, 0, state)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return NOT_FORMATTED, FORMAT
        _, flags, _ = STATV.unpack(state)
        return None if flags & FS_QUOTA_PDQ_ENFD else (NOT_ENFORCED, MOUNT)

    def project(self, folder: Path) -> int:
        """Read it from the folder's attributes."""
        with _opened(folder) as descriptor:
            return _attributes(descriptor)[3]

    def assign(self, folder: Path, project: int, *, inherited: bool = True) -> None:
        """Write it into the folder's attributes."""
        with _opened(folder) as descriptor:
            flags, extent, extents, _, copy = _attributes(descriptor)
            flags = flags | FS_XFLAG_PROJINHERIT if inherited else flags & ~FS_XFLAG_PROJINHERIT
            fcntl.ioctl(descriptor, FS_IOC_FSSETXATTR, XATTR.pack(flags, extent, extents, project, copy))

    def get(self, project: int) -> Quota:
        """Ask for it."""
        block = bytearray(DQBLK.size)
        self._call(Q_GETQUOTA, project, block)
        limit, _, used, files, _, used_files, *_ = DQBLK.unpack(block)
        return Quota(limit * BLOCK, files, used, used_files)

    def set(self, project: int, limit: int, files: int) -> None:
        """Set hard limits; soft ones there are none."""
        blocks = -(-limit // BLOCK)
        block = DQBLK.pack(blocks, 0, 0, files, 0, 0, 0, 0, QIF_BLIMITS | QIF_ILIMITS)
        self._call(Q_SETQUOTA, project, bytearray(block))

    def _call(self, command: int, project: int, block: bytearray) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        shared = (ctypes.c_char * len(block)).from_buffer(block)
        with _opened(self.folder) as descriptor:
            done = library.syscall(
                ctypes.c_long(QUOTACTL_FD),
                ctypes.c_uint(descriptor),
                ctypes.c_uint(command << 8 | PRJQUOTA),
                ctypes.c_uint(project),
                shared,
            )
        if done != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(self.folder))


def _attributes(descriptor: int) -> tuple[int, int, int, int, int]:
    flags, extent, extents, project, copy = XATTR.unpack(
        fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, bytes(XATTR.size))
    )
    return flags, extent, extents, project, copy


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
