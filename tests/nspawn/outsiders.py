# SPDX-License-Identifier: Apache-2.0
"""Those who are on the nodes' network and no nodes: who asks for an address, routers, and programs of the image alone.

with Beside(tree, folder / "router", wire, ["/usr/sbin/bird", "-f", ...]) as router:
    asks(wire, "192.0.2.64")
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Self

from firstboot.failure import BasaltError
from firstboot.loadbalancer import bird
from image.trees import with_tools

from .container import Tree
from .wires import CARD, Wire, ip

KNOCK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socket.socket(family, socket.SOCK_DGRAM).sendto(b"", (sys.argv[1], 9))
"""
"""Sends a packet, for which the kernel has to find out who has the address: by ARP, or by neighbour discovery."""
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1) as connection:
    connection.settimeout(1)
    print(connection.makefile().readline().strip())
"""
NEIGHBOUR_SECONDS = 1.0
"""How long whoever has an address may take to say so."""
END_SECONDS = 20.0


def asks(wire: Wire, address: str) -> str | None:
    """Return the MAC address of who says on the network that the address is his; None where nobody does."""
    ip("-n", wire.namespace, "neigh", "flush", "to", address)
    subprocess.run(_in(wire, sys.executable, "-c", KNOCK, address), check=True, timeout=30)
    end = time.monotonic() + NEIGHBOUR_SECONDS
    while time.monotonic() < end:
        shown = subprocess.run(
            ["ip", "-n", wire.namespace, "-json", "neigh", "show", "to", address, "dev", CARD],
            check=True,
            capture_output=True,
            timeout=30,
        )
        for entry in json.loads(shown.stdout or "[]"):
            if "lladdr" in entry:
                return str(entry["lladdr"])
        time.sleep(0.05)
    return None


def reads(wire: Wire, address: str, port: int) -> str | None:
    """Return the line with which a server greets who connects to it; None where nobody answers."""
    done = subprocess.run(
        _in(wire, sys.executable, "-c", CONNECT, address, str(port)), capture_output=True, timeout=30
    )
    return done.stdout.decode().strip() if done.returncode == 0 else None


def _in(wire: Wire, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", wire.namespace, *argv]


class Beside:
    """A program of the image in the network of a wire, without anything else of a node."""

    def __init__(self, tree: Tree, root: Path, wire: Wire, argv: Sequence[str]) -> None:
        """Describe it; root: a folder of its own, whose /run and /etc it has."""
        self.root, self._tree, self._wire, self._argv = root, tree, wire, argv
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for name in ("usr", "etc/keepalived", "run", "proc", "dev", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        (self.root / "etc/keepalived/keepalived.config-opts").touch()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGTERM)
        shutil.rmtree(self.root, ignore_errors=True)

    def start(self) -> None:
        """Start it."""
        mounts = [self._tree.mount(self.root / "usr")]
        mounts += [f"mount --bind /{name} {self.root}/{name}" for name in ("dev", "proc")]
        command = shlex.join(["nsenter", f"--net={self._wire.path}", "chroot", str(self.root), *self._argv])
        script = " && ".join([*mounts, f"exec {command}"])
        with (self.root / "log").open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *with_tools(["sh", "-ec", script])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": "/usr/sbin:/usr/bin"},
                process_group=0,
            )

    def end(self, number: signal.Signals) -> None:
        """End it with a signal, those that it has started too."""
        if self._process:
            os.killpg(self._process.pid, number)
            self._process.wait(END_SECONDS)
            self._process = None

    def told(self, number: signal.Signals = signal.SIGHUP) -> None:
        """Send it a signal."""
        assert self._process
        self._process.send_signal(number)

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.root / "log").read_text(errors="replace")


class Router(Beside):
    """A router that learns by BGP which nodes take packets for an address."""

    def __init__(
        self, tree: Tree, root: Path, wire: Wire, own: str, systems: tuple[int, int], nodes: Sequence[str]
    ) -> None:
        """Describe it; own: its address, systems: numbers of its autonomous system and of the nodes'."""
        argv = ["bird", "-f", "-c", "/etc/bgp.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid"]
        super().__init__(tree, root, wire, argv)
        mine, theirs = systems
        sessions = "".join(
            f"protocol bgp node{number} {{\n local as {mine};\n neighbor {node} as {theirs};\n direct;\n"
            " ipv4 { import all; export none; };\n ipv6 { import all; export none; };\n}\n"
            for number, node in enumerate(nodes, 1)
        )
        self._text = f"log stderr all;\nrouter id {own};\nprotocol device {{ }}\n{sessions}"

    def __enter__(self) -> Self:
        (self.root / "etc").mkdir(parents=True)
        (self.root / "etc/bgp.conf").write_text(self._text)
        return super().__enter__()

    def hops(self, address: str) -> set[str]:
        """Return the addresses of the nodes that take packets for an address."""
        network = ip_network(ip_address(address))
        try:
            lines = asyncio.run(bird.ask(self.root / "run/bird.ctl", f"show route for {network} all"))
        except (OSError, BasaltError):
            return set()
        return {line.split()[1] for line in lines if line.split()[:1] == ["via"]}
