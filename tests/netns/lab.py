# SPDX-License-Identifier: Apache-2.0
"""A node without Kubernetes: network namespaces as pods on a bridge, a way to others, and packets that really go.

with Lab() as lab:
    lab.pod("a", "10.1.0.2", "fd00:1::2")
    lab.beyond("10.1.1.2")
    lab.load(ruleset)
    assert lab.arrives(Packet("10.1.0.2", "10.1.1.2", "UDP", 53))

Whoever has an address has a socket of its own in its namespace; what a packet's way is, only the kernel says.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from firstboot.policy import nft
from firstboot.policy.compile import BRIDGE
from firstboot.policy.nft import Ruleset
from tests.nspawn.wires import PREFIX, ip, sweep

CLONE_NEWNET = 0x40000000
GATEWAY = ("10.1.0.1/24", "fd00:1::1/64")
NODE_OUTSIDE = ("192.0.2.1/24", "fd00:2::1/64")
BEYOND_GATEWAY = ("192.0.2.254/24", "fd00:2::fe/64")
ARRIVAL_SECONDS = 0.4
"""How long a packet is waited for that may have been dropped: there are no wires, only queues of one kernel."""

MOST_AT_ONCE = 400
"""Packets that are on their way; each has a file descriptor, of which a process may have a thousand."""


@dataclass(frozen=True)
class Packet:
    """A first packet from one address to another; protocol: as in Kubernetes, or ``ICMP``, which has no port."""

    source: str
    target: str
    protocol: str
    port: int = 0


@dataclass
class Lab:
    """The namespaces; a context manager that leaves none of them behind."""

    _prefix: str = field(default_factory=lambda: f"{PREFIX}{os.getpid()}-lab")
    _places: dict[str, str] = field(default_factory=dict)
    _made: list[str] = field(default_factory=list)
    _loaded: Ruleset | None = None

    def __enter__(self) -> Self:
        sweep()
        for name in ("node", "beyond"):
            self._namespace(name)
        node, beyond = self.name("node"), self.name("beyond")
        ip("-n", node, "link", "add", BRIDGE, "type", "bridge")
        # As the image has it.
        with self.inside("node"):
            for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
                Path("/proc/sys", path).write_text("1")
            for path in ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"):
                Path("/proc/sys", path).write_text("1")
        ip("-n", node, "link", "add", "outside", "type", "veth", "peer", "name", "eth0", "netns", beyond)
        for namespace, card, addresses in (
            (node, BRIDGE, GATEWAY),
            (node, "outside", NODE_OUTSIDE),
            (beyond, "eth0", BEYOND_GATEWAY),
        ):
            self._address(namespace, card, addresses)
            ip("-n", namespace, "link", "set", card, "up")
        for target, way in (("10.1.0.0/24", "192.0.2.1"), ("fd00:1::/64", "fd00:2::1")):
            ip("-n", beyond, "route", "add", target, "via", way)
        for target, way in (("default", "192.0.2.254"), ("::/0", "fd00:2::fe")):
            ip("-n", node, "route", "add", target, "via", way)
        for address in (*GATEWAY, *NODE_OUTSIDE):
            self._places[address.partition("/")[0]] = "node"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(self._made):
            ip("netns", "delete", name)

    def pod(self, name: str, *addresses: str) -> None:
        """Plug in a pod of the node."""
        self._namespace(name)
        inside, node = self.name(name), self.name("node")
        ip("-n", inside, "link", "add", "eth0", "type", "veth", "peer", "name", f"veth-{name}", "netns", node)
        ip("-n", node, "link", "set", f"veth-{name}", "master", BRIDGE, "up")
        ip("-n", node, "link", "set", f"veth-{name}", "type", "bridge_slave", "hairpin", "on")
        self._address(inside, "eth0", [f"{each}/{64 if ':' in each else 24}" for each in addresses])
        ip("-n", inside, "link", "set", "eth0", "up")
        for way in GATEWAY:
            ip(
                "-n",
                inside,
                "route",
                "add",
                "::/0" if ":" in way else "default",
                "via",
                way.partition("/")[0],
            )
        self._places |= dict.fromkeys(addresses, name)

    def beyond(self, *addresses: str) -> None:
        """Have somebody outside with these addresses: pods of other nodes, and the world."""
        self._address(
            self.name("beyond"), "lo", [f"{each}/{128 if ':' in each else 32}" for each in addresses]
        )
        self._places |= dict.fromkeys(addresses, "beyond")

    def load(self, ruleset: Ruleset) -> None:
        """Have the node's kernel enforce this, by what has changed since the last time."""
        self.nft(nft.whole(ruleset) if self._loaded is None else nft.changes(self._loaded, ruleset))
        self._loaded = ruleset

    def nft(self, text: str, *options: str) -> str:
        """Run a transaction on the node, or what options say; an error of nft fails the test."""
        command = ["ip", "netns", "exec", self.name("node"), "nft", *(options or ("-f", "-"))]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stderr}\n{text[:4000]}"
        return done.stdout

    def arrive(self, packets: Iterable[Packet]) -> dict[Packet, bool]:
        """Send packets, each of a new connection, and return which of them arrive."""
        wanted, found = list(packets), dict[Packet, bool]()
        for start in range(0, len(wanted), MOST_AT_ONCE):
            with Post(self) as post:
                found |= post.deliver(wanted[start : start + MOST_AT_ONCE])
        return found

    def arrives(self, packet: Packet) -> bool:
        """Whether this packet arrives."""
        return self.arrive([packet])[packet]

    def socket(self, address: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket in the namespace of an address, bound to nothing."""
        with self.inside(self._places[address]):
            return socket.socket(family, kind, protocol)

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Be in a namespace for a while, with this thread."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name(name)}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def exec(self, name: str, *command: str) -> None:
        """Run a program in a namespace."""
        subprocess.run(
            ["ip", "netns", "exec", self.name(name), *command], check=True, capture_output=True, timeout=30
        )

    def _namespace(self, name: str) -> None:
        ip("netns", "add", self.name(name))
        self._made.append(self.name(name))
        ip("-n", self.name(name), "link", "set", "lo", "up")
        with self.inside(name):
            # Nobody else has an address of the link either: no second passes until the first packet may go.
            for which in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")

    def name(self, name: str) -> str:
        """Return what a namespace is called on the host."""
        return f"{self._prefix}-{name}"

    def _address(self, namespace: str, card: str, addresses: Iterable[str]) -> None:
        for address in addresses:
            # Nobody else has it, so there is no need to wait until that is known.
            options = ("nodad",) if ":" in address else ()
            ip("-n", namespace, "address", "add", address, "dev", card, *options)


class Post:
    """Sockets that send and receive; a context manager that closes them."""

    def __init__(self, lab: Lab) -> None:
        """Open none yet."""
        self._lab = lab
        self._open: list[socket.socket] = []
        self._listening: dict[tuple[str, str, int], socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._open:
            each.close()

    def deliver(self, packets: list[Packet]) -> dict[Packet, bool]:
        """Send all of them at once, and look who got what."""
        for packet in packets:
            self._listen(packet)
        senders = {packet: self._send(packet) for packet in packets}
        return self._hear(senders)

    def _hear(self, senders: Mapping[Packet, socket.socket]) -> dict[Packet, bool]:
        """Wait until all have arrived, or none will any more."""
        found = dict.fromkeys(senders, False)
        poll, waiting = select.poll(), {sender.fileno(): packet for packet, sender in senders.items()}
        for packet, sender in senders.items():
            poll.register(sender, select.POLLOUT if packet.protocol == "TCP" else select.POLLIN)
        answering = {
            each.fileno(): each for (_, protocol, _), each in self._listening.items() if protocol == "UDP"
        }
        for each in answering.values():
            poll.register(each, select.POLLIN)
        end = time.monotonic() + ARRIVAL_SECONDS
        while waiting and (left := end - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor in answering:
                    _answer(answering[descriptor])
                elif _has_arrived(waiting[descriptor], senders[waiting[descriptor]]):
                    found[waiting.pop(descriptor)] = True
                    poll.unregister(descriptor)
                elif waiting[descriptor].protocol != "ICMP":
                    # It was refused, and says so for ever.
                    del waiting[descriptor]
                    poll.unregister(descriptor)
        return found

    def _listen(self, packet: Packet) -> None:
        key = packet.target, packet.protocol, packet.port
        if packet.protocol == "ICMP" or key in self._listening:
            return
        listening = self._socket(packet.target, packet.protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind((packet.target, packet.port))
        if packet.protocol == "TCP":
            listening.listen(256)
        self._listening[key] = listening

    def _send(self, packet: Packet) -> socket.socket:
        sender = self._socket(packet.source, packet.protocol)
        sender.setblocking(False)
        sender.bind((packet.source, 0))
        if packet.protocol == "ICMP":
            sender.sendto(echo(kind=128 if ":" in packet.target else 8), (packet.target, 0))
            return sender
        code = sender.connect_ex((packet.target, packet.port))
        if packet.protocol == "UDP" and code == 0:
            sender.send(b"?")
        return sender

    def _socket(self, address: str, protocol: str) -> socket.socket:
        version6 = ":" in address
        kind, number = KINDS[protocol, version6]
        made = self._lab.socket(address, socket.AF_INET6 if version6 else socket.AF_INET, kind, number)
        self._open.append(made)
        return made


KINDS = {
    ("TCP", False): (socket.SOCK_STREAM, 0),
    ("TCP", True): (socket.SOCK_STREAM, 0),
    ("UDP", False): (socket.SOCK_DGRAM, 0),
    ("UDP", True): (socket.SOCK_DGRAM, 0),
    ("ICMP", False): (socket.SOCK_RAW, socket.IPPROTO_ICMP),
    ("ICMP", True): (socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
}
"""Of sockets, by protocol and whether it is version 6."""


def _has_arrived(packet: Packet, sender: socket.socket) -> bool:
    """Whether a connection is made, or a datagram was answered, so that the way back is open as well."""
    match packet.protocol:
        case "TCP":
            return _is_connected(sender)
        case "UDP":
            return _takes(sender)
        case _:
            return _is_answered(sender, packet.target)


def _answer(listening: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            _, who = listening.recvfrom(16)
            listening.sendto(b"!", who)


def _is_connected(sender: socket.socket) -> bool:
    try:
        sender.getpeername()
    except OSError:
        return False
    return True


def _takes(sender: socket.socket) -> bool:
    try:
        return sender.recv(16) == b"!"
    except OSError:
        return False


def echo(*, kind: int = 8, number: int = 0x1234) -> bytes:
    """Return an ICMP echo, of kind 8 a request; of version 6 it is 128, and the kernel makes the sum."""
    head = bytes([kind, 0, 0, 0, *number.to_bytes(2, "big"), 0, 1])
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, len(head), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + (~total & 0xFFFF).to_bytes(2, "big") + head[4:]


def _is_answered(sender: socket.socket, target: str) -> bool:
    """Whether the target has answered: such a socket gets what is for others of its namespace, too."""
    version6 = ":" in target
    while True:
        try:
            data, who = sender.recvfrom(256)
        except OSError:
            return False
        if who[0] == target and (data[0] if version6 else data[20]) == (129 if version6 else 0):
            return True


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
