# SPDX-License-Identifier: Apache-2.0
"""The machine that the tests run on, and what keeps it as it was: a plan that is followed would make it a node.

Nor does a unit test talk to other machines.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

FOLDERS = ("/boot", "/etc", "/proc/sys", "/run", "/sys", "/var/lib", "/var/run")
"""Where nothing of a unit test belongs; folders for temporary files may be below them."""
PROGRAMS = frozenset(
    ("hostnamectl", "iptables", "modprobe", "mount", "nft", "reboot", "sysctl", "systemctl", "umount")
)
"""What changes a machine, unless a test has put one of its own into PATH."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Untouched(PermissionError):
    """A test has tried to change the machine that it runs on."""


class Host:
    """Refuses within `guarded` what Python is about to do to the machine, and remembers it.

    It has to be remembered: code under test may well go on after an error.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._guarded = False
        sys.addaudithook(self._audit)

    @contextmanager
    def guarded(self) -> Iterator[list[str]]:
        """Give what is refused from now on."""
        self.refused, self._guarded = [], True
        try:
            yield self.refused
        finally:
            self._guarded = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        look = EVENTS.get(event) if self._guarded else None
        if look is not None and (what := look(*arguments)) is not None:
            self.refused.append(f"{event} {what}")
            raise Untouched(errno.EPERM, f"a unit test may not touch the machine: {event} {what}")


def _place(path: Any) -> str | None:
    """Return a path if it is one of the machine's."""
    if isinstance(path, int) or path is None:
        return None
    text = os.path.abspath(os.fsdecode(path))
    if _below(text, tempfile.gettempdir()):
        return None
    return next((text for folder in FOLDERS if _below(text, folder)), None)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _opened(path: Any, _mode: Any, flags: Any) -> str | None:
    return _place(path) if isinstance(flags, int) and flags & WRITES else None


def _first(path: Any, *_: Any) -> str | None:
    return _place(path)


def _either(source: Any, target: Any, *_: Any) -> str | None:
    return _place(source) or _place(target)


def _target(_source: Any, target: Any, *_: Any) -> str | None:
    return _place(target)


def _bound(_socket: Any, address: Any) -> str | None:
    """Return a socket's name in the file system, the system bus's for one; abstract names and addresses have none."""
    return _place(address) if isinstance(address, str | bytes) and address[:1] not in ("\0", b"\0") else None


def _connected(one: Any, address: Any) -> str | None:
    """Return the socket of a service of the machine, or another machine's address."""
    # Nothing is sent when a datagram's socket is connected: that is how a machine finds out its own address.
    return _bound(one, address) or (None if one.type == socket.SOCK_DGRAM else _sent(one, address))


def _sent(one: Any, address: Any) -> str | None:
    """Return another machine's address; the names of this one have none of others."""
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host = address[0]
    return None if host == "localhost" or ip_address(host).is_loopback else str(host)


def _started(
    program: Any, _arguments: Any, _folder: Any, environment: Mapping[str, str] | None
) -> str | None:
    name = os.fsdecode(program)
    if os.path.basename(name) not in PROGRAMS:
        return None
    found = shutil.which(name, path=(environment or os.environ).get("PATH")) or name
    return None if _below(os.path.abspath(found), tempfile.gettempdir()) else found


EVENTS: Mapping[str, Callable[..., str | None]] = {
    "open": _opened,
    "os.chmod": _first,
    "os.chown": _first,
    "os.link": _target,
    "os.mkdir": _first,
    "os.remove": _first,
    "os.rename": _either,
    "os.rmdir": _first,
    "os.symlink": _target,
    "os.truncate": _first,
    "os.utime": _first,
    "socket.bind": _bound,
    "socket.connect": _connected,
    "socket.sendto": _sent,
    "socket.sethostname": lambda name: str(name),
    "subprocess.Popen": _started,
}
"""What Python says before it acts (https://docs.python.org/3/library/audit_events.html) -> what to refuse of it."""
