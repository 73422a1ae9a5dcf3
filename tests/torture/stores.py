# SPDX-License-Identifier: Apache-2.0
"""Servers of the etcd API that can be started, killed, frozen and started again on the same folder."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .certificates import Authority, Identity
from .programs import Programs

START_SECONDS = 60
STOP_SECONDS = 15


def free_port(host: str) -> int:
    """Return a port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(what: str, condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait until something holds, asking ten times a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@dataclass
class Store:
    """One server, started and killed as a context manager; `folder` has its data, sockets and log."""

    programs: Programs
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def endpoint(self) -> str:
        """Return the URL of the etcd API."""
        raise NotImplementedError

    def argv(self) -> list[str]:
        """Return the command of the server."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """Return the file with the server's output."""
        return self.folder / "log"

    def start(self, wait: bool = True) -> None:
        """Start the server and wait until it says, as to systemd, that it serves."""
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
            notifications.bind(str(path))
            with self.log.open("ab") as log:
                environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
                self.process = subprocess.Popen(self.argv(), stdout=log, stderr=log, env=environment)
            if wait:
                self._wait_ready(notifications)

    def _wait_ready(self, notifications: socket.socket) -> None:
        assert self.process
        deadline = time.monotonic() + START_SECONDS
        end = os.pidfd_open(self.process.pid)
        try:
            while True:
                left = deadline - time.monotonic()
                readable, _, _ = select.select([notifications.fileno(), end], [], [], max(0, left))
                if notifications.fileno() in readable:
                    if b"READY=1" in notifications.recv(4096).split(b"\n"):
                        return
                elif end in readable:
                    raise AssertionError(f"ended at start: {self.tail()}")
                else:
                    raise AssertionError(f"not ready after {START_SECONDS} s: {self.tail()}")
        finally:
            os.close(end)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the server with no chance to do anything."""
        if self.process:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            self.process = None

    def stop(self) -> int:
        """Ask the server to end and return its exit status."""
        assert self.process
        self.process.terminate()
        status = self.process.wait(STOP_SECONDS)
        self.process = None
        return status

    def resident(self) -> float:
        """Return the memory the server has of its own, in MiB."""
        assert self.process
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")) / 1024

    def tail(self) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@dataclass
class Dqlite(Store):
    """k8s-dqlite; with an identity it speaks to other members."""

    address: str = "127.0.0.1:9000"
    cluster: tuple[str, ...] = ()
    identity: Identity | None = None
    flags: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        return f"unix://{self.folder}/kine.sock"

    def argv(self) -> list[str]:
        argv = [*self.programs.k8s_dqlite, f"--storage-dir={self.folder}/data", f"--listen={self.endpoint}"]
        argv += [f"--control=unix://{self.folder}/control.sock", f"--address={self.address}"]
        if self.cluster:
            argv.append(f"--cluster={','.join(self.cluster)}")
        if self.identity:
            argv += [f"--tls-cert={self.identity.certificate}", f"--tls-key={self.identity.key}"]
            argv.append(f"--tls-ca={self.identity.authority}")
        return [*argv, *self.flags]

    def ask(self, question: str, *arguments: str) -> str:
        """Ask over the control socket: status, metrics, dump."""
        control = f"--control=unix://{self.folder}/control.sock"
        argv = [*self.programs.k8s_dqlite, question, control, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        status: dict[str, Any] = json.loads(self.ask("status"))
        return status

    def counter(self, name: str) -> float:
        """Return one counter of the metrics, 0 when it is not there."""
        lines = (line.rpartition(" ") for line in self.ask("metrics").splitlines())
        return sum(float(value) for key, _, value in lines if key == name)


@dataclass
class Etcd(Store):
    """etcd, one member."""

    def __post_init__(self) -> None:
        self.client, self.peer = (f"http://127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))

    @property
    def endpoint(self) -> str:
        return self.client

    def argv(self) -> list[str]:
        argv = [*self.programs.etcd, f"--data-dir={self.folder}/data", f"--listen-client-urls={self.client}"]
        argv += [f"--advertise-client-urls={self.client}", f"--listen-peer-urls={self.peer}"]
        return [
            *argv,
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster=default={self.peer}",
            "--log-level=warn",
        ]


@dataclass
class SecureEtcd(Store):
    """A member of an etcd that shows clients a certificate and wants one of them; members speak in plain text.

    host:  address that its certificate is for: that by which clients know it
    peers: name -> URL of each member, filled by themselves
    """

    name: str = "m0"
    authority: Authority | None = None
    peers: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port = free_port("127.0.0.1")
        self.peers.setdefault(self.name, f"http://127.0.0.1:{free_port('127.0.0.1')}")

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        assert self.authority
        shown, peer = self.authority.identity(self.host), self.peers[self.name]
        members = ",".join(f"{name}={url}" for name, url in self.peers.items())
        return [
            *(*self.programs.etcd, f"--name={self.name}", f"--data-dir={self.folder}/data"),
            *(f"--listen-client-urls={self.endpoint}", f"--advertise-client-urls={self.endpoint}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *(f"--initial-cluster={members}", f"--cert-file={shown.certificate}", f"--key-file={shown.key}"),
            *("--client-cert-auth", f"--trusted-ca-file={self.authority.file}", "--log-level=warn"),
            *self.flags,
        ]


STORES: dict[str, type[Store]] = {"dqlite": Dqlite, "etcd": Etcd}
