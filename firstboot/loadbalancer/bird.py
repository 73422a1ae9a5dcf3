# SPDX-License-Identifier: Apache-2.0
"""BGP: BIRD's configuration, and what it says of its sessions.

BIRD tells routers of addresses and does nothing else: it takes no routes from them and gives none to the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from firstboot.config import BgpPeer
from firstboot.failure import BasaltError
from firstboot.loadbalancer.addresses import Address, parse
from firstboot.loadbalancer.keepalived import Cards

HOLD, ALIVE = 9, 3
"""Seconds after which a router forgets a node that is silent, and between two signs of life."""
SECONDS = 5.0
"""How long BIRD may take to answer."""
LAST = " "
"""What follows the code of an answer's last line; that of others is followed by a dash."""


def configuration(
    addresses: Iterable[Address], versions: Sequence[int], cards: Cards, local: int, peers: Sequence[BgpPeer]
) -> str:
    """Return the text; versions: IP versions of what may ever be announced, local: the nodes' autonomous system."""
    known = list(addresses)
    statics = "".join(_static(version, known) for version in versions)
    channels = "".join(_channel(version, cards) for version in versions)
    sessions = "".join(_session(number, peer, cards) for number, peer in enumerate(peers, 1))
    return f"""\
log stderr all;
router id {cards.ip};
protocol device {{ }}
{statics}template bgp router {{
    local as {local};
    hold time {HOLD};
    keepalive time {ALIVE};
    connect retry time 5;
    connect delay time 1;
    error wait time 2, 15;
{channels}}}
{sessions}"""


def _channel(version: int, cards: Cards) -> str:
    own = cards.ip if version == ip_address(cards.ip).version else cards.ipv6
    # In a session by the other version BIRD would name one of the card's addresses, that of a Service perhaps.
    hop = f" next hop address {own};" if own else ""
    return f"    ipv{version} {{ import none; export where source = RTS_STATIC; next hop self;{hop} }};\n"


def _static(version: int, addresses: Iterable[Address]) -> str:
    mine = [each for each in addresses if each.version == version]
    routes = "".join(f"    route {each}/{each.max_prefixlen} blackhole;\n" for each in mine)
    return f"protocol static addresses{version} {{\n    ipv{version};\n{routes}}}\n"


def _session(number: int, peer: BgpPeer, cards: Cards) -> str:
    address = parse(peer.address)
    assert address is not None, "the rules have it"
    # Where there are other routers between, packets have to be let travel that far.
    way = "direct" if cards.connected(address) else "multihop"
    return (
        f"protocol bgp {session_name(number)} from router {{\n"
        f"    neighbor {address} port {peer.port} as {peer.asn};\n    {way};\n}}\n"
    )


def session_name(number: int) -> str:
    """Return what the session with a router is called, by the router's place in the settings, from 1."""
    return f"router{number}"


async def missing(control: Path, peers: Sequence[BgpPeer]) -> list[str]:
    """Return what keeps routers from being told, for people: one line for each that is not; asks BIRD."""
    try:
        async with asyncio.timeout(SECONDS):
            lines = await ask(control, "show protocols")
    except (OSError, TimeoutError, BasaltError) as error:
        return [f"BIRD does not answer: {error or 'no answer in time'}"]
    return unestablished(lines, peers)


def unestablished(lines: Iterable[str], peers: Sequence[BgpPeer]) -> list[str]:
    """Return a line for each router without a session, from BIRD's table of protocols."""
    rows = {words[0]: words for line in lines if len(words := line.split(None, 5)) == 6}
    found = []
    for number, peer in enumerate(peers, 1):
        row = rows.get(session_name(number))
        state = row[5].strip() if row else "not started"
        if not state.startswith("Established"):
            found.append(f"no BGP session with {peer.address}: {' '.join(state.split()).lower()}")
    return found


async def ask(control: Path, question: str) -> list[str]:
    """Return the lines of BIRD's answer without their codes; control: its socket. Raises OSError and BasaltError."""
    reader, writer = await asyncio.open_unix_connection(control)
    try:
        await reader.readline()
        writer.write(f"{question}\n".encode())
        lines: list[str] = []
        while line := (await reader.readline()).decode(errors="replace"):
            code, mark = line[:4], line[4:5]
            # A code is before the first line of several of a kind; the others have a blank there.
            lines.append(line[5:] if code.isdigit() else line[1:])
            if code.isdigit() and mark == LAST:
                return lines
        raise BasaltError("it has hung up")
    finally:
        writer.close()
