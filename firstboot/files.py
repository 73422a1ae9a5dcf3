# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old or the new, whatever happens to the machine in between.

A file is written beside its place, forced to disk and renamed over it; then the folder is forced to disk.
Whoever reads the path finds the whole old or the whole new content, and what was reported as written survives
a power cut.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from firstboot.failure import BasaltError

Owner = tuple[int | str, int | str]
"""User and group, each by number or by name."""

WRITERS = 8
"""Files forced to disk at a time: a journal commits what waits together as one."""


@dataclass(frozen=True)
class File:
    """What should be at a path.

    mode:  permission bits, set whatever the umask is
    owner: None leaves the file to the user of this process and does not look at whose it was
    """

    path: Path
    data: bytes = field(repr=False)
    mode: int = 0o644
    owner: Owner | None = None


def write(path: Path, data: bytes | str, mode: int = 0o644, owner: Owner | None = None) -> bool:
    """Make the file so, atomically and durably; return whether anything had to change.

    A symbolic link at the path is replaced, not followed. The folder must exist. Raises BasaltError.
    """
    content = data.encode() if isinstance(data, str) else data
    return bool(write_all([File(path, content, mode, owner)]))


def write_all(files: Iterable[File]) -> tuple[Path, ...]:
    """Make all files so and return the paths that had to change; each file is atomic, the set is not.

    All new contents are on disk before the first of them takes its place, which they do in the order given.
    Costs far less than as many calls of `write`. Raises BasaltError; then none of the new files is left over.
    """
    changed = [file for file in files if not is_so(file)]
    if not changed:
        return ()
    try:
        _spread(changed)
        for file in changed:
            with _explained(file.path):
                os.replace(_beside(file.path), file.path)
        for folder in dict.fromkeys(file.path.parent for file in changed):
            sync_directory(folder)
    except BaseException:
        for file in changed:
            with suppress(OSError):
                _beside(file.path).unlink()
        raise
    return tuple(file.path for file in changed)


def read_or_none(path: Path) -> bytes | None:
    """Return the content, or None where there is no such file. Raises BasaltError when it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BasaltError(f"{path} cannot be read: {error.strerror}") from error


def directory(path: Path, mode: int = 0o755, owner: Owner | None = None) -> bool:
    """Make the folder so, durably; return whether anything had to change. Its parent must exist."""
    with _explained(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            path.mkdir(mode=0o700)
            found = path.stat()
            sync_directory(path.parent)
            changed = True
        else:
            changed = False
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if owner is not None and (found.st_uid, found.st_gid) != numbers(owner):
            os.chown(path, *numbers(owner))
            changed = True
        if stat.S_IMODE(found.st_mode) != mode:
            path.chmod(mode)
            changed = True
    return changed


def remove(path: Path) -> bool:
    """Remove the file durably; return whether there was one."""
    with _explained(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_directory(path.parent)
        return True


def numbers(owner: Owner) -> tuple[int, int]:
    """Return uid and gid. Raises BasaltError for a name the system does not know."""
    import grp
    import pwd

    user, group = owner
    try:
        uid = user if isinstance(user, int) else pwd.getpwnam(user).pw_uid
        gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise BasaltError(
            f"no user or group of the owner {user}:{group} is known here",
            "The users of the services come with the image; see `systemctl status systemd-sysusers`.",
        ) from error
    return uid, gid


def wrong_attributes(path: Path, mode: int, owner: Owner | None) -> str | None:
    """Return what is wrong with kind, mode or owner of a file, or None. Raises FileNotFoundError."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if stat.S_IMODE(found.st_mode) != mode:
        return f"has mode {stat.S_IMODE(found.st_mode):04o} instead of {mode:04o}"
    if owner is not None and (found.st_uid, found.st_gid) != numbers(owner):
        uid, gid = numbers(owner)
        return f"belongs to {found.st_uid}:{found.st_gid} instead of {uid}:{gid}"
    return None


def is_so(file: File) -> bool:
    """Whether content, mode and owner are already as they should be."""
    try:
        return (
            wrong_attributes(file.path, file.mode, file.owner) is None and file.path.read_bytes() == file.data
        )
    except OSError:
        return False


def sync_directory(path: Path) -> None:
    """Force to disk which names the folder holds."""
    with _explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _spread(files: list[File]) -> None:
    """Write the new contents beside their places, many at a time, and wait for the disk."""
    if len(files) == 1:
        _write_beside(files[0])
        return
    with ThreadPoolExecutor(max_workers=min(WRITERS, len(files))) as pool:
        for _ in pool.map(_write_beside, files):
            pass


def _beside(path: Path) -> Path:
    """Where the new content waits. The name is fixed: the next write finds what a power cut left."""
    return path.with_name(f".{path.name}.new")


def _write_beside(file: File) -> None:
    place = _beside(file.path)
    with _explained(file.path):
        place.unlink(missing_ok=True)
        # 0600 until content and owner are right: nobody can open a secret early and keep it open.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(file.data)
            handle.flush()
            if file.owner is not None:
                os.fchown(descriptor, *numbers(file.owner))
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal into one that names the file and what to do."""
    hints = {
        errno.ENOSPC: "Free space on the file system that holds it.",
        errno.EROFS: "The file system is read-only; look for disk errors in `journalctl -k`.",
        errno.EACCES: "Run as root.",
        errno.EPERM: "Run as root.",
    }
    try:
        yield
    except OSError as error:
        raise BasaltError(
            f"{path} cannot be written: {error.strerror}", hints.get(error.errno or 0, "")
        ) from error
