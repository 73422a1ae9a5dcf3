# SPDX-License-Identifier: Apache-2.0
"""What BIRD tells routers on a wire with the configurations that the load balancer writes: no cluster."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from firstboot.config import BgpPeer
from firstboot.loadbalancer import bird
from firstboot.loadbalancer.keepalived import Cards
from image.vm.fleet import address

from .container import Tree
from .outsiders import Beside, Router
from .wires import CARD, Wires, ip

NODES = [address(number) for number in (1, 2, 3)]
ROUTERS = (BgpPeer(address(111), 64513), BgpPeer(address(112), 64512))
LOCAL_AS = 64512
EVERYWHERE, SOMEWHERE = address(200), address(201)
SESSION_SECONDS = 30.0
TOLD_SECONDS = 3.0
FORGOTTEN_SECONDS = bird.HOLD + 3.0


class Site:
    """Three nodes and two routers, one in an autonomous system of its own and one in that of the nodes."""

    def __init__(self, tree: Tree, folder: Path, wires: Wires, stack: ExitStack) -> None:
        self.wires = wires
        self.nodes: dict[str, Beside] = {}
        argv = ["bird", "-f", "-c", "/etc/bgp.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid"]
        for number, node in enumerate(NODES, 1):
            program = Beside(tree, folder / f"node-{number}", wires.place(f"node-{number}", node), argv)
            (program.root / "etc").mkdir(parents=True)
            self.nodes[node] = program
            self.configure(node, EVERYWHERE)
            stack.enter_context(program)
        self.routers = [
            stack.enter_context(
                Router(
                    tree,
                    folder / f"router-{number}",
                    wires.place(f"router-{number}", peer.address),
                    peer.address,
                    (peer.asn, LOCAL_AS),
                    NODES,
                )
            )
            for number, peer in enumerate(ROUTERS)
        ]

    def configure(self, node: str, *addresses: str) -> None:
        """Write what a node takes packets for."""
        cards = Cards(node, ((CARD, f"{node}/24"),))
        text = bird.configuration(map(ip_address, addresses), (4, 6), cards, LOCAL_AS, ROUTERS)
        (self.nodes[node].root / "etc/bgp.conf").write_text(text)

    def known(self, address: str, nodes: list[str]) -> bool:
        """Whether both routers would send packets for an address to these nodes."""
        return all(router.hops(address) == set(nodes) for router in self.routers)

    def missing(self, node: str) -> list[str]:
        """Return what BIRD on a node says of its sessions."""
        return asyncio.run(bird.missing(self.nodes[node].root / "run/bird.ctl", ROUTERS))

    def wait(self, seconds: float, condition: Callable[[], bool]) -> float:
        """Return how long it took until a condition held."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, {name: each.log for name, each in self.nodes.items()}
            time.sleep(0.1)
        return time.monotonic() - begun


@pytest.fixture
def site(able: None, tree: Tree) -> Iterator[Site]:
    """Nodes and routers that have just started."""
    folder = Path(tempfile.mkdtemp(prefix="basalt-nspawn-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Site(tree, folder, stack.enter_context(Wires()), stack)


def test_routers_learn_which_nodes_take_packets(site: Site) -> None:
    first, second, third = NODES
    site.wait(SESSION_SECONDS, lambda: site.known(EVERYWHERE, NODES))
    assert all(site.missing(node) == [] for node in NODES)

    # A Service that one node serves, then another one: told at once, and nothing else changes.
    for node in (second, third):
        for each in NODES:
            site.configure(each, *((EVERYWHERE, SOMEWHERE) if each == node else (EVERYWHERE,)))
            site.nodes[each].told()
        took = site.wait(TOLD_SECONDS, partial(site.known, SOMEWHERE, [node]))
        print(f"\nserved elsewhere: told after {took:.1f} s")
        assert site.known(EVERYWHERE, NODES)

    site.nodes[third].end(signal.SIGTERM)
    took = site.wait(TOLD_SECONDS, lambda: site.known(EVERYWHERE, [first, second]))
    print(f"shut down: forgotten after {took:.1f} s")
    assert site.known(SOMEWHERE, [])
    site.nodes[third].start()
    site.wait(SESSION_SECONDS, lambda: site.known(EVERYWHERE, NODES))

    # A dead node says nothing: its card is down before its process is, whose end the kernel would tell.
    ip("-n", site.wires.connect("node-1").namespace, "link", "set", CARD, "down")
    site.nodes[first].end(signal.SIGKILL)
    took = site.wait(FORGOTTEN_SECONDS, lambda: site.known(EVERYWHERE, [second, third]))
    print(f"dead: forgotten after {took:.1f} s")

    # A router that is lost is told of.
    site.routers[0].end(signal.SIGTERM)
    site.wait(TOLD_SECONDS, lambda: len(site.missing(second)) == 1)
    assert site.missing(second)[0].startswith(f"no BGP session with {ROUTERS[0].address}: ")
