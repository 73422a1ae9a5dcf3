# SPDX-License-Identifier: Apache-2.0
"""Packets that are no ordinary first ones: through a Service, on the link, of no connection, of SCTP."""

from __future__ import annotations

import socket
import struct
import subprocess

from .lab import ARRIVAL_SECONDS, Lab, echo

SCTP = 132


def connects(lab: Lab, source: str, target: str, port: int, answers: str) -> bool:
    """Whether a TCP connection to an address that nobody has comes to be; answers: who waits for it on port 80."""
    with lab.socket(answers, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((answers, 80))
        server.listen()
        with lab.socket(source, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(ARRIVAL_SECONDS)
            client.bind((source, 0))
            try:
                client.connect((target, port))
            except TimeoutError:
                return False
            return True


def link_address(lab: Lab, name: str) -> str:
    """Return a pod's address of the link."""
    shown = subprocess.run(
        ["ip", "-n", lab.name(name), "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    return shown.split()[3].partition("/")[0]


def reaches_on_link(lab: Lab, first: str, second: str) -> bool:
    """Whether a datagram gets from one pod to another by their addresses of the link."""
    target = link_address(lab, second)
    with lab.inside(second):
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        card = socket.if_nametoindex("eth0")
    with receiver:
        receiver.bind((target, 7000, 0, card))
        with lab.inside(first):
            sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            card = socket.if_nametoindex("eth0")
        with sender:
            sender.sendto(b"?", (target, 7000, 0, card))
            return _gets(receiver, b"?")


def stray(lab: Lab, source: str, target: str) -> bool:
    """Whether an answer gets through that nobody has asked for."""
    numbers = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    # None of the questions of before had this number.
    answer = echo(kind=0, number=0x4321)
    with lab.socket(source, *numbers) as sender, lab.socket(target, *numbers) as receiver:
        sender.sendto(answer, (target, 0))
        return _gets(receiver, answer)


def begins_sctp(lab: Lab, source: str, target: str, port: int) -> bool:
    """Whether the first packet of an association arrives."""
    # Tag, window, streams out and in, first number.
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack(">HHI", 5000, port, 0)
    packet = head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk
    numbers = (socket.AF_INET, socket.SOCK_RAW, SCTP)
    with lab.socket(source, *numbers) as sender, lab.socket(target, *numbers) as receiver:
        sender.sendto(packet, (target, 0))
        return _gets(receiver, packet)


def _gets(receiver: socket.socket, wanted: bytes) -> bool:
    """Whether a socket gets this, after other things perhaps."""
    receiver.settimeout(ARRIVAL_SECONDS)
    try:
        while not receiver.recv(2048).endswith(wanted):
            pass
    except TimeoutError:
        return False
    return True


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
