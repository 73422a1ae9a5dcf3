# SPDX-License-Identifier: Apache-2.0
"""What tests do with any node, however it runs: command it, wait for it, and say how it stands when that fails."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstboot.codes import Code
from firstboot.failure import BasaltError
from firstboot.report.status import Phase, State, Status

ADMIN_KUBECONFIG = "/etc/kubernetes/admin.kubeconfig"
READY_SECONDS = 1500.0
"""From power-on to Ready under emulation on a busy host; what has failed does not wait for it."""
JOIN_TOKEN = "for-tests-only-0123456789abcdef0123456789"
"""What machines join the clusters of tests with."""
DATASTORE_UNITS = {"dqlite": "k8s-dqlite", "etcd": "etcd"}
POLL_SECONDS = 1.0
RESOLVE = """
import socket, sys
server, name = sys.argv[1:]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(10)
asking.sendto(b"\\0\\1\\1\\0\\0\\1" + bytes(6) + labels + b"\\0\\0\\1\\0\\1", (server, 53))
print(socket.inet_ntoa(asking.recv(512)[-4:]))
"""
"""Asks for an address (RFC 1035): what the answer ends with."""
UNITS_SECONDS = 10.0
"""Seconds between two looks at failed units while waiting: each costs the node a process."""


@dataclass(frozen=True)
class Result:
    """A command that ended on the node."""

    command: str
    code: int
    output: bytes
    errors: bytes

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.output.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.errors.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.code == 0


class CommandFailed(BasaltError):
    """A command on the node failed or took too long."""


class NodeFailed(BasaltError):
    """The node did something that no test wants, or did not do what was waited for in time."""


def describe(result: Result) -> str:
    """Return the command with the end of what it printed."""
    tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-20:])
    return f"{result.command}\n{tail}".rstrip()


class Node(ABC):
    """A node that runs somewhere."""

    name: str

    @property
    @abstractmethod
    def on(self) -> bool:
        """Whether it runs."""

    @abstractmethod
    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60,
        check: bool = True,
        stdin: bytes | str = b"",
    ) -> Result:
        """Run shell text or an argument list as root and return how it ended.

        Raises CommandFailed when it takes longer than timeout seconds or, with check, fails.
        """

    @abstractmethod
    def status(self) -> Status | None:
        """Return the status document, or None while nobody answers."""

    def says_healthy(self, feature: str) -> bool:
        """Whether the status says that a feature works."""
        status = self.status()
        return status is not None and status.features[feature].state is State.HEALTHY

    def tells(self, code: Code) -> bool:
        """Whether the status has a failure of this kind."""
        status = self.status()
        return status is not None and code in [failure.code for failure in status.failures]

    @abstractmethod
    def watch(self) -> None:
        """Raise NodeFailed if it ended by itself or says what it never may."""

    @abstractmethod
    def last_words(self) -> str:
        """Return what it said last, and how long it has been on, for an error."""

    def kubectl(self, *arguments: str, timeout: float = 90, check: bool = True, stdin: str = "") -> Result:
        """Run kubectl on the node as the cluster's administrator."""
        command = ["kubectl", f"--kubeconfig={ADMIN_KUBECONFIG}", *arguments]
        return self.run(command, timeout=timeout, check=check, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get … -o json` says."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def resolve(self, name: str, server: str = "10.152.183.10") -> str:
        """Return the IPv4 address that cluster DNS tells a program of the node itself."""
        return self.run(["python3", "-c", RESOLVE, server, name]).stdout.strip()

    def write(self, path: str, content: str | bytes, mode: str = "0644") -> None:
        """Write a file of the node in one step, folders included."""
        script = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run(["sh", "-ec", script, "sh", path, mode], stdin=content)

    def wait_until(self, what: str, condition: Callable[[], object], timeout: float) -> None:
        """Look once a second whether a condition holds; fail at once if the node does."""
        end = time.monotonic() + timeout
        while True:
            self.watch()
            if condition():
                return
            if time.monotonic() > end:
                raise NodeFailed(f"{self.name}: not within {timeout:g} s: {what}\n{self.report()}")
            time.sleep(POLL_SECONDS)

    def wait_for_phase(
        self, phase: Phase = Phase.READY, timeout: float = READY_SECONDS, *, failed_units: bool = False
    ) -> Status:
        """Wait for a phase and return the status then.

        Fails at once when the document is refused though that is not what was waited for, when a unit failed
        (unless failed_units says that this may be), and on everything that watch() finds.
        """
        end = time.monotonic() + timeout
        look_at_units = time.monotonic() + UNITS_SECONDS
        while True:
            self.watch()
            status = self.status()
            if status and status.phase is phase:
                return status
            if status and status.phase is Phase.DOCUMENT_INVALID:
                raise NodeFailed(f"{self.name}: the document was refused\n{self.report(status)}")
            now = time.monotonic()
            if status and not failed_units and now > look_at_units:
                self._refuse_failed_units()
                look_at_units = now + UNITS_SECONDS
            if now > end:
                late = f"{self.name}: not {phase} within {timeout:g} s"
                raise NodeFailed(f"{late}\n{self.report(status)}")
            time.sleep(POLL_SECONDS)

    def failed_units(self) -> list[str]:
        """Return the names of units that failed."""
        lines = self.run("systemctl list-units --state=failed --plain --no-legend", timeout=60).stdout
        return [line.split()[0] for line in lines.splitlines()]

    def _refuse_failed_units(self) -> None:
        if failed := self.failed_units():
            raise NodeFailed(f"{self.name}: failed: {', '.join(failed)}\n{self.report()}")

    def report(self, status: Status | None = None) -> str:
        """Tell how the node stands, for an error: status, failed units, journal, last words."""
        status = status or self._quietly(self.status)
        lines = [f"--- {self.name}", *(status.unready if status else ["no status document"])]
        for title, command in (
            ("failed units", "systemctl list-units --state=failed,auto-restart --plain --no-legend"),
            ("journal", "journalctl --no-pager -b -p warning -n 25 -o short-monotonic"),
        ):
            lines += [f"--- {title}", self._output(command)]
        return "\n".join([*lines, self.last_words()])

    def _output(self, command: str) -> str:
        result = self._quietly(lambda: self.run(command, timeout=20, check=False))
        return str(result.stdout.rstrip()) if result else "(no answer)"

    def _quietly(self, look: Callable[[], Any]) -> Any:
        try:
            return look() if self.on else None
        except BasaltError:
            return None
