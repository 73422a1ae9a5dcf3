# SPDX-License-Identifier: Apache-2.0
"""What keepalived does on a wire with the configurations that the load balancer writes: no cluster, nobody to ask."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from firstboot.loadbalancer import keepalived
from firstboot.loadbalancer.keepalived import Cards
from firstboot.loadbalancer.objects import Member, Service
from firstboot.loadbalancer.speaker import duties
from image.vm.fleet import address

from .container import Tree
from .outsiders import Beside, asks
from .wires import CARD, Wire, Wires, ip

NODES = {f"node-{number}": Member((address(number),)) for number in (1, 2, 3)}
OWN6, CLIENT6 = "fd00:5::{}", "fd00:5::99"
ADDRESSES = [*(address(number) for number in range(100, 106)), "fd00:5::a0", "fd00:5::a1"]
START_SECONDS = 15.0
SETTLED_SECONDS = 1.5
"""After each address is carried: a node that it belongs on takes it from one that was quicker to start."""
LOST_SECONDS = 6.0
"""From the end of a node to an answer of another one: three seconds of silence, a second at most by which it goes last,
and the time that this host needs to look."""
GIVEN_SECONDS = 2.0
"""The same where a node says that it lets go."""


class Election:
    """Three keepalived on a wire, and somebody who asks."""

    def __init__(self, tree: Tree, folder: Path, wires: Wires, stack: ExitStack) -> None:
        self.wires = {name: wires.place(name, each.address) for name, each in NODES.items()}
        self.client = wires.place("client", address(99))
        for number, wire in enumerate((*self.wires.values(), self.client), 1):
            own = CLIENT6 if wire is self.client else OWN6.format(number)
            ip("-n", wire.namespace, "address", "add", f"{own}/64", "dev", CARD, "nodad")
        self.services = {
            ip_address(each): Service("default", each.replace(":", "-"), "u", "1", "1") for each in ADDRESSES
        }
        self.programs: dict[str, Beside] = {}
        argv = [
            *(
                "keepalived",
                "--dont-fork",
                "--vrrp",
                "--log-console",
                "--no-syslog",
                "--use-file=/etc/l2.conf",
            ),
            *(f"--{kind}=/run/{kind}" for kind in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid")),
        ]
        for name, wire in self.wires.items():
            program = Beside(tree, folder / name, wire, argv)
            (program.root / "etc").mkdir(parents=True)
            self.configure(name, program)
            self.programs[name] = stack.enter_context(program)

    def configure(self, name: str, program: Beside, without: str | None = None) -> None:
        """Write what a node is to carry; without: an address that it has nothing to serve by."""
        mine = duties(self.services, NODES, name, ())
        kept = [each for each in mine if str(each.address) != without]
        cards = Cards(NODES[name].address, ((CARD, f"{NODES[name].address}/24"),))
        text = keepalived.configuration(kept, [each.address for each in NODES.values()], cards)
        (program.root / "etc/l2.conf").write_text(text)

    def carrier(self, address: str) -> str | None:
        """Return who says that an address is his."""
        mac = asks(self.client, address)
        return next((name for name, wire in self.wires.items() if wire.mac == mac), None)

    def carriers(self) -> dict[str, str | None]:
        """Return that for all of them."""
        return {each: self.carrier(each) for each in ADDRESSES}

    def wait(self, seconds: float, condition: object) -> float:
        """Return how long it took until a condition held."""
        assert callable(condition)
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, {
                name: each.log for name, each in self.programs.items()
            }
            time.sleep(0.05)
        return time.monotonic() - begun

    def kill(self, name: str) -> None:
        """End a node at once; its card outlives it, and would answer for its addresses."""
        self.programs[name].end(signal.SIGKILL)
        ip("-n", self.wires[name].namespace, "link", "set", CARD, "down")


@pytest.fixture
def election(able: None, tree: Tree) -> Iterator[Election]:
    """Three nodes that have just started."""
    folder = Path(tempfile.mkdtemp(prefix="basalt-nspawn-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Election(tree, folder, stack.enter_context(Wires()), stack)


def test_addresses_are_spread_and_go_to_others(election: Election) -> None:
    best = {str(a): max(NODES, key=partial(_priority, election, str(a))) for a in election.services}
    election.wait(START_SECONDS, lambda: election.carriers() == best)
    assert len(set(best.values())) == 3, "each node carries some"

    # A node that has nothing to serve an address by lets go of it, and keeps the others.
    leaves = ADDRESSES[0]
    owner = best[leaves]
    election.configure(owner, election.programs[owner], without=leaves)
    election.programs[owner].told()
    took = election.wait(GIVEN_SECONDS, lambda: election.carrier(leaves) not in (None, owner))
    print(f"\nlet go: another one answers after {took:.1f} s")
    rest = {each: who for each, who in election.carriers().items() if each != leaves}
    assert rest == {each: who for each, who in best.items() if each != leaves}
    election.configure(owner, election.programs[owner])
    election.programs[owner].told()
    election.wait(START_SECONDS, lambda: election.carriers() == best)

    for name in {best[ADDRESSES[0]], best[ADDRESSES[-1]]}:
        mine = [each for each, who in best.items() if who == name]
        election.kill(name)
        took = election.wait(LOST_SECONDS, partial(_answered, election, mine, name))
        print(f"{name} killed: others answer for {len(mine)} addresses after {took:.1f} s")
        ip("-n", election.wires[name].namespace, "link", "set", CARD, "up")
        ip("-n", election.wires[name].namespace, "address", "flush", "dev", CARD)
        wire: Wire = election.wires[name]
        number = [*NODES].index(name) + 1
        ip("-n", wire.namespace, "address", "add", f"{NODES[name].address}/24", "dev", CARD)
        ip("-n", wire.namespace, "address", "add", f"{OWN6.format(number)}/64", "dev", CARD, "nodad")
        election.programs[name].start()
        election.wait(START_SECONDS, lambda: election.carriers() == best)


def _priority(election: Election, address: str, name: str) -> int:
    mine = duties(election.services, NODES, name, ())
    return next(each.priority for each in mine if str(each.address) == address)


def _answered(election: Election, addresses: list[str], gone: str) -> bool:
    return all(election.carrier(each) not in (None, gone) for each in addresses)
