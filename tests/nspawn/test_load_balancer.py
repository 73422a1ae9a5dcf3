# SPDX-License-Identifier: Apache-2.0
"""Services of type LoadBalancer get addresses, which nodes answer for on the wire and tell routers about."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from firstboot.loadbalancer.bird import HOLD
from firstboot.report.status import Phase
from image.vm.fleet import address
from tests.node import JOIN_TOKEN, NodeFailed

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, Cluster
from .container import Container
from .outsiders import Router, asks, reads
from .wires import CARD, Wire, ip

FIRST, SECOND, THIRD, LAST = (address(number) for number in range(200, 204))
POOL = f"{FIRST}-{LAST}"
NODES = [address(number) for number in (1, 2, 3)]
VIRTUAL = address(150)
"""Of the API: another keepalived on each node carries it beside those of Services."""
CLIENT, ROUTERS = address(110), (address(111), address(112))
LOCAL_AS, OTHER_AS = 64512, 64513
SETTINGS = {
    "enabled": True,
    "cidrs": [POOL],
    "l2-mode": True,
    "bgp-mode": True,
    "bgp-local-asn": LOCAL_AS,
    "bgp-peers": [
        {"address": ROUTERS[0], "asn": OTHER_AS},
        {"address": ROUTERS[1], "asn": LOCAL_AS},
    ],
}
PORT, TARGET = 80, 8080
GREETER = f"""
import socket, socketserver
class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(socket.gethostname().encode() + b"\\n")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", {TARGET}), Greeter).serve_forever()
"""
FOLLOWED_SECONDS = 20.0
"""From a change of an object to what the wire and routers know, on a busy host."""
MOVED_SECONDS = 8.0
"""From the death of a node to an answer for its addresses: at most four seconds of silence, and a busy host."""
FORGOTTEN_SECONDS = HOLD + 6.0


def test_addresses_are_given_carried_and_announced(bare: Cluster) -> None:
    client = bare.wires.place("client", CLIENT)
    with router(bare, 0) as one, router(bare, 1) as two:
        first, *_ = nodes = started(bare)
        for node in nodes:
            node.wait_until("its feature works", partial(works, node), JOINED_SECONDS)

        service(first, "web", endpoints=CONTROL_PLANES)
        first.wait_until("web has an address", lambda: given(first, "web") == FIRST, FOLLOWED_SECONDS)
        first.wait_until("a node answers for it", lambda: carrier(bare, client, FIRST), FOLLOWED_SECONDS)
        first.wait_until("it serves", lambda: reads(client, FIRST, PORT) in CONTROL_PLANES, FOLLOWED_SECONDS)
        for each in (one, two):
            first.wait_until("all are told of", partial(knows, each, FIRST, NODES), FOLLOWED_SECONDS)

        only_where_it_is_served(bare, client, one)
        what_is_asked_for(first)
        kept_over_restarts(bare)

        owner = carrier(bare, client, FIRST)
        assert owner is not None
        stays = next(node for node in nodes if node is not owner)
        gone = lost(bare, owner, lambda: carrier(bare, client, FIRST) not in (None, owner), MOVED_SECONDS)
        print(f"\n{owner.name} killed: another one answers after {gone:.1f} s")
        stays.wait_until("its server is left out", partial(serves, client, owner), GOES_ON_SECONDS)
        rest = set(NODES) - {owner.address}
        for each in (one, two):
            stays.wait_until("routers forget it", partial(knows, each, FIRST, rest), FORGOTTEN_SECONDS)
        owner.start()
        bare.wait_whole()
        greet(owner)
        stays.wait_until(
            "it has its address again", lambda: carrier(bare, client, FIRST) is owner, GOES_ON_SECONDS
        )
        stays.wait_until("routers know it again", lambda: one.hops(FIRST) == set(NODES), GOES_ON_SECONDS)

        assert carrier(bare, client, VIRTUAL) is not None
        for node in nodes:
            said = node.run("journalctl --no-pager -b -o cat -u virtual-address -u load-balancer-l2").stdout
            assert "invalid" not in said and "unknown" not in said.lower(), said
        switched_off(bare, client, one)
        assert carrier(bare, client, VIRTUAL) is not None


def started(cluster: Cluster) -> list[Container]:
    """Return three control planes of which each greets whoever connects."""
    founds = {"token": JOIN_TOKEN, "bootstrap": True, "virtual-address": VIRTUAL}
    document = {
        "version": 1,
        "role": "control-plane",
        "cluster": founds,
        "features": {"load-balancer": SETTINGS},
    }
    cluster.add(CONTROL_PLANES[0], document).wait_for_phase(Phase.READY, JOINED_SECONDS)
    for name in CONTROL_PLANES[1:]:
        joins = {"token": JOIN_TOKEN, "endpoints": [NODES[0]]}
        cluster.add(name, {"version": 1, "role": "control-plane", "cluster": joins})
    cluster.wait_whole()
    for node in cluster.control_planes:
        greet(node)
    return cluster.control_planes


def greet(node: Container) -> None:
    """Have a node tell its name to whoever connects."""
    node.run(["systemd-run", "--quiet", "--collect", "--unit=greeter", "python3", "-c", GREETER])


@contextmanager
def router(cluster: Cluster, number: int) -> Iterator[Router]:
    """Be one of the routers that the settings name."""
    own, name = ROUTERS[number], f"router-{number}"
    systems = ((OTHER_AS, LOCAL_AS)[number], LOCAL_AS)
    wire = cluster.wires.place(name, own)
    with Router(cluster.tree, cluster.folder / name, wire, own, systems, NODES) as made:
        yield made


def works(node: Container) -> bool:
    """Whether the status says that the feature is well."""
    status = node.status()
    return status is not None and status.features["load-balancer"].state == "healthy"


def detail(node: Container) -> str:
    """Return what the status says of the feature."""
    status = node.status()
    return status.features["load-balancer"].detail if status else ""


def service(
    node: Container, name: str, *, local: bool = False, wanted: str = "", endpoints: Any = ()
) -> None:
    """Make a Service, and endpoints at nodes."""
    spec: dict[str, Any] = {"type": "LoadBalancer", "ports": [{"port": PORT, "targetPort": TARGET}]}
    spec["externalTrafficPolicy"] = "Local" if local else "Cluster"
    if wanted:
        spec["loadBalancerIP"] = wanted
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    node.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    serve_at(node, name, endpoints)


def serve_at(node: Container, name: str, nodes: Any, ready: bool = True) -> None:
    """Have a Service served at these nodes and no other."""
    made = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [NODES[CONTROL_PLANES.index(each)]],
                "nodeName": each,
                "conditions": {"ready": ready},
            }
            for each in nodes
        ],
        "ports": [{"name": "", "port": TARGET, "protocol": "TCP"}],
    }
    node.kubectl("apply", "-f", "-", stdin=json.dumps(made))


def given(node: Container, name: str) -> str | None:
    """Return the address in a Service's status."""
    ingress = node.get("service", name)["status"]["loadBalancer"].get("ingress", [])
    return str(ingress[0]["ip"]) if ingress else None


def carrier(cluster: Cluster, client: Wire, address: str) -> Container | None:
    """Return the node that says on the wire that an address is its own."""
    mac = asks(client, address)
    found = (node for node in cluster.nodes.values() if cluster.wires.connect(node.name).mac == mac)
    return next(found, None)


def is_carrier(cluster: Cluster, client: Wire, address: str, node: Container) -> bool:
    """Whether this node and no other answers for an address."""
    return carrier(cluster, client, address) is node


def greets(client: Wire, address: str, node: Container) -> bool:
    """Whether this node serves whoever connects to an address."""
    return reads(client, address, PORT) == node.name


def knows(router: Router, address: str, nodes: Collection[str]) -> bool:
    """Whether a router would send packets for an address to these nodes."""
    return router.hops(address) == set(nodes)


def serves(client: Wire, gone: Container) -> bool:
    """Whether the Service is served ten times in a row, and by others than that node."""
    return all(reads(client, FIRST, PORT) not in (None, gone.name) for _ in range(10))


def only_where_it_is_served(cluster: Cluster, client: Wire, router: Router) -> None:
    """With the policy Local only nodes that serve it answer for an address and are told of."""
    first, second, third = cluster.control_planes
    service(first, "local", local=True, endpoints=[second.name])
    for node in (second, third, second):
        serve_at(first, "local", [node.name])
        answers, served = (
            partial(is_carrier, cluster, client, SECOND, node),
            partial(greets, client, SECOND, node),
        )
        first.wait_until("the node that serves it answers", answers, FOLLOWED_SECONDS)
        first.wait_until("it serves", served, FOLLOWED_SECONDS)
        told = partial(knows, router, SECOND, [node.address])
        first.wait_until("routers know of no other", told, FOLLOWED_SECONDS)
    serve_at(first, "local", [second.name], ready=False)
    first.wait_until("nobody answers", lambda: carrier(cluster, client, SECOND) is None, FOLLOWED_SECONDS)
    first.wait_until("routers know nobody", lambda: router.hops(SECOND) == set(), FOLLOWED_SECONDS)


def what_is_asked_for(node: Container) -> None:
    """A requested address is given, or why not is said; when all are in use a Service waits until one is free."""
    service(node, "asks", wanted=LAST)
    node.wait_until("it has what it asks for", lambda: given(node, "asks") == LAST, FOLLOWED_SECONDS)
    service(node, "strange", wanted="203.0.113.1")
    node.wait_until("why not is said", lambda: "203.0.113.1" in events(node, "strange"), FOLLOWED_SECONDS)
    assert given(node, "strange") is None
    node.kubectl("delete", "service", "strange")
    service(node, "third")
    node.wait_until("the last one is given", lambda: given(node, "third") == THIRD, FOLLOWED_SECONDS)
    service(node, "late")
    node.wait_until("it waits", lambda: "are in use" in events(node, "late"), FOLLOWED_SECONDS)
    node.wait_until("its status tells", lambda: "4 of 4 addresses in use" in detail(node), FOLLOWED_SECONDS)
    assert "default/late: all IPv4 addresses" in detail(node)
    node.kubectl("patch", "service", "third", "-p", '{"spec": {"type": "ClusterIP"}}')
    node.wait_until(
        "it has the one that was given back", lambda: given(node, "late") == THIRD, FOLLOWED_SECONDS
    )
    assert given(node, "third") is None
    node.kubectl("delete", "service", "late")


def events(node: Container, name: str) -> str:
    """Return what events say of a Service."""
    found = node.get("events", f"--field-selector=involvedObject.kind=Service,involvedObject.name={name}")
    return "\n".join(each["message"] for each in found["items"])


def kept_over_restarts(cluster: Cluster) -> None:
    """Nothing changes when all that gives and carries addresses starts anew."""
    before = {name: given(cluster.control_planes[0], name) for name in ("web", "local", "asks")}
    for node in cluster.control_planes:
        node.run("systemctl restart load-balancer load-balancer-l2 load-balancer-bgp kube-apiserver")
    cluster.wait_whole()
    first = cluster.control_planes[0]
    for node in cluster.control_planes:
        node.wait_until("its feature works", partial(works, node), GOES_ON_SECONDS)
    assert {name: given(first, name) for name in before} == before


def lost(cluster: Cluster, node: Container, found: Callable[[], bool], seconds: float) -> float:
    """Kill a node and return how long it took until something was so; the card outlives a container."""
    begun = time.monotonic()
    node.kill()
    ip("-n", cluster.wires.connect(node.name).namespace, "address", "flush", "dev", CARD)
    while not found():
        if time.monotonic() - begun > seconds:
            raise NodeFailed(f"nobody has taken over from {node.name} within {seconds:g} s")
    return time.monotonic() - begun


def switched_off(cluster: Cluster, client: Wire, router: Router) -> None:
    """While Services need it, it is not switched off but by force, and then nothing of it is left."""
    first = cluster.control_planes[0]
    refused = first.run("basalt disable load-balancer", check=False)
    assert refused.code == 1 and "[feature-in-use]" in refused.stderr, refused
    assert "Service default/web" in refused.stderr
    moved = first.run(f"basalt set features.load-balancer.cidrs='[{SECOND}-{LAST}]'", check=False)
    assert moved.code == 1 and f"Service default/web ({FIRST})" in moved.stderr, moved
    wrong = first.run(f"basalt set features.load-balancer.cidrs='[{NODES[1]}-{LAST}]'", check=False)
    assert wrong.code == 2 and NODES[1] in wrong.stderr, wrong
    first.run("basalt disable load-balancer --force")
    first.wait_until("no Service has an address", lambda: given(first, "web") is None, GOES_ON_SECONDS)
    first.wait_until("nobody answers", lambda: carrier(cluster, client, FIRST) is None, GOES_ON_SECONDS)
    assert router.hops(FIRST) == set()
    for node in cluster.control_planes:
        node.wait_until("nothing of it runs", partial(is_off, node), GOES_ON_SECONDS)
    first.wait_until(
        "nothing of it is left in the cluster",
        lambda: not first.kubectl("get", "clusterrole", "basalt:load-balancer", check=False).ok,
        GOES_ON_SECONDS,
    )
    cluster.wait_whole()
    assert all(given(first, name) is None for name in ("web", "local", "asks"))


def is_off(node: Container) -> bool:
    """Whether none of its services runs, and the status says that it is off."""
    units = " ".join(f"load-balancer{kind}.service" for kind in ("", "-l2", "-bgp"))
    told = node.run(f"systemctl is-active {units}", check=False).stdout.split()
    status = node.status()
    return (
        set(told) == {"inactive"} and status is not None and status.features["load-balancer"].state == "off"
    )
