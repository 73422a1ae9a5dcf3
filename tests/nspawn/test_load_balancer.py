# SPDX-License-Identifier: Apache-2.0
"""Services of type LoadBalancer get addresses, which nodes answer for on the wire and tell routers about."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.loadbalancer.bird import HOLD
from firstboot.report.status import Phase, State, Status
from image.vm.fleet import address
from tests.node import JOIN_TOKEN, NodeFailed

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, Cluster
from .container import Container, Tree
from .host import empty
from .outsiders import Router, asks, reads
from .wires import Wire

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


@dataclass
class Site:
    """A cluster, somebody who asks on its network, and the routers that its settings name.

    alone: the first node's status when the second router was not there yet
    returned: the node that was killed and is back
    """

    cluster: Cluster
    client: Wire
    routers: tuple[Router, Router]
    alone: Status
    returned: Container | None = None

    @property
    def nodes(self) -> list[Container]:
        """All nodes that run."""
        return self.cluster.control_planes

    def carrier(self, address: str) -> Container | None:
        """Return the node that says on the wire that an address is its own."""
        mac = asks(self.client, address)
        found = (node for node in self.nodes if self.cluster.wires.connect(node.name).mac == mac)
        return next(found, None)

    def is_carrier(self, node: Container, address: str) -> bool:
        """Whether this node and no other answers for an address."""
        return self.carrier(address) is node

    def server(self, address: str) -> str | None:
        """Return the name of the node that serves whoever connects to an address."""
        return reads(self.client, address, PORT)

    def known(self, address: str, nodes: Collection[str]) -> bool:
        """Whether both routers would send packets for an address to these nodes."""
        return all(router.hops(address) == set(nodes) for router in self.routers)


@pytest.fixture(scope="module")
def site(able: None, tree: Tree) -> Iterator[Site]:
    """Three control planes with a Service that each of them serves; tests share it, and the last switches all off."""
    with empty("dqlite", tree) as cluster, router(cluster, 0) as one:
        first = founded(cluster)
        first.wait_until("its network is not as it should be", partial(is_degraded, first), JOINED_SECONDS)
        alone = first.status()
        assert alone is not None
        with router(cluster, 1) as two:
            made = Site(cluster, cluster.wires.place("client", CLIENT), (one, two), alone)
            first.wait_for_phase(Phase.READY, JOINED_SECONDS)
            joined(cluster)
            for node in made.nodes:
                node.wait_until(
                    "its feature works", partial(node.says_healthy, "load-balancer"), JOINED_SECONDS
                )
                greet(node)
            service(first, "web", endpoints=CONTROL_PLANES)
            yield made


def test_a_node_that_starts_without_one_of_its_routers_names_it(site: Site) -> None:
    [failure] = site.alone.failures
    assert (failure.code, failure.path) == (Code.COMPONENT_DEGRADED, "load-balancer")
    assert f"no BGP session with {ROUTERS[1]}" in failure.found and ROUTERS[0] not in failure.found
    assert "goes on by itself" in failure.remedy
    part = site.alone.features["load-balancer"]
    assert part.state is State.DEGRADED and ROUTERS[1] in part.detail
    assert all(each.state is State.HEALTHY for each in site.alone.components.values())


def test_an_address_is_given_carried_and_announced(site: Site) -> None:
    first = site.nodes[0]
    first.wait_until("web has an address", lambda: given(first, "web") == FIRST, FOLLOWED_SECONDS)
    first.wait_until("a node answers for it", lambda: site.carrier(FIRST), FOLLOWED_SECONDS)
    first.wait_until("it serves", lambda: site.server(FIRST) in CONTROL_PLANES, FOLLOWED_SECONDS)
    first.wait_until("all are told of", lambda: site.known(FIRST, NODES), FOLLOWED_SECONDS)
    first.wait_until("its status tells", lambda: "1 of 4 addresses in use" in detail(first), FOLLOWED_SECONDS)


def test_with_the_policy_local_only_who_serves_it_carries_it(site: Site) -> None:
    first, second, third = site.nodes
    service(first, "local", local=True, wanted=SECOND, endpoints=[second.name])
    for node in (second, third, second):
        serve_at(first, "local", [node.name])
        answers, serves = partial(site.is_carrier, node, SECOND), partial(is_served_by, site, node)
        first.wait_until("the node that serves it answers", answers, FOLLOWED_SECONDS)
        first.wait_until("it serves", serves, FOLLOWED_SECONDS)
        told = partial(site.known, SECOND, [node.address])
        first.wait_until("routers know of no other", told, FOLLOWED_SECONDS)
    serve_at(first, "local", [second.name], ready=False)
    first.wait_until("nobody answers", lambda: site.carrier(SECOND) is None, FOLLOWED_SECONDS)
    first.wait_until("routers know nobody", lambda: site.known(SECOND, ()), FOLLOWED_SECONDS)


def is_served_by(site: Site, node: Container) -> bool:
    """Whether this node serves the Service with the policy Local."""
    return site.server(SECOND) == node.name


def test_what_is_asked_for_is_given_or_why_not_is_said(site: Site) -> None:
    """When all are in use a Service waits until one is free."""
    node = site.nodes[0]
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
    waits = "default/late: all IPv4 addresses"
    node.wait_until("its status tells", lambda: waits in detail(node), FOLLOWED_SECONDS)
    assert "4 of 4 addresses in use" in detail(node)
    node.kubectl("patch", "service", "third", "-p", '{"spec": {"type": "ClusterIP"}}')
    node.wait_until(
        "it has the one that was given back", lambda: given(node, "late") == THIRD, FOLLOWED_SECONDS
    )
    assert given(node, "third") is None
    node.kubectl("delete", "service", "late")


def test_addresses_outlive_restarts_of_everything(site: Site) -> None:
    first = site.nodes[0]
    before = {name: given(first, name) for name in ("web", "local", "asks")}
    assert before == {"web": FIRST, "local": SECOND, "asks": LAST}
    for node in site.nodes:
        node.run("systemctl restart load-balancer load-balancer-l2 load-balancer-bgp kube-apiserver")
    site.cluster.wait_whole()
    for node in site.nodes:
        node.wait_until("its feature works", partial(node.says_healthy, "load-balancer"), GOES_ON_SECONDS)
    assert {name: given(first, name) for name in before} == before


def test_another_node_takes_over_from_one_that_dies(site: Site) -> None:
    first, *_ = site.nodes
    first.wait_until("somebody carries it", lambda: site.carrier(FIRST), FOLLOWED_SECONDS)
    owner = site.carrier(FIRST)
    assert owner is not None
    first.wait_until("all are told of", lambda: site.known(FIRST, NODES), FOLLOWED_SECONDS)
    gone = lost(site, owner)
    stays = site.nodes[0]
    print(f"\n{owner.name} killed: another one answers after {gone:.1f} s")
    rest = set(NODES) - {owner.address}
    stays.wait_until("routers forget it", lambda: site.known(FIRST, rest), FORGOTTEN_SECONDS)
    serve_at(stays, "web", [node.name for node in site.nodes])
    stays.wait_until("others serve", lambda: site.server(FIRST) in CONTROL_PLANES, GOES_ON_SECONDS)

    owner.start()
    site.cluster.wait_whole()
    greet(owner)
    serve_at(stays, "web", CONTROL_PLANES)
    site.returned = owner


@pytest.mark.soak
def test_who_comes_back_has_its_address_again(site: Site) -> None:
    """In one run of several it had not within a minute: not understood yet."""
    owner, first = site.returned, site.nodes[0]
    assert owner is not None
    first.wait_until("it has its address again", lambda: site.is_carrier(owner, FIRST), GOES_ON_SECONDS)
    first.wait_until("routers know it again", lambda: site.known(FIRST, NODES), GOES_ON_SECONDS)


def lost(site: Site, node: Container) -> float:
    """Kill a node and return how long it took until another one answered."""
    begun = time.monotonic()
    site.cluster.power_cut(node)
    while site.carrier(FIRST) is None:
        if time.monotonic() - begun > MOVED_SECONDS:
            raise NodeFailed(f"nobody has taken over from {node.name} within {MOVED_SECONDS:g} s")
    return time.monotonic() - begun


def test_the_apis_address_is_carried_beside_them(site: Site) -> None:
    assert site.carrier(VIRTUAL) is not None
    for node in site.nodes:
        said = node.run("journalctl --no-pager -b -o cat -u virtual-address -u load-balancer-l2").stdout
        assert "invalid" not in said.lower() and "unknown" not in said.lower(), said


def test_it_is_switched_off_by_force_while_services_need_it(site: Site) -> None:
    first = site.nodes[0]
    refused = first.run("basalt disable load-balancer", check=False)
    assert refused.code == 1 and "[feature-in-use]" in refused.stderr, refused
    assert "Service default/web" in refused.stderr
    moved = first.run(f"basalt set features.load-balancer.cidrs='[{SECOND}-{LAST}]'", check=False)
    assert moved.code == 1 and f"Service default/web ({FIRST})" in moved.stderr, moved
    wrong = first.run(f"basalt set features.load-balancer.cidrs='[{NODES[1]}-{LAST}]'", check=False)
    assert wrong.code == 2 and NODES[1] in wrong.stderr, wrong
    first.run("basalt disable load-balancer --force")
    first.wait_until("no Service has an address", lambda: given(first, "web") is None, GOES_ON_SECONDS)
    first.wait_until("nobody answers", lambda: site.carrier(FIRST) is None, GOES_ON_SECONDS)
    first.wait_until("routers know nobody", lambda: site.known(FIRST, ()), GOES_ON_SECONDS)
    for node in site.nodes:
        node.wait_until("nothing of it runs", partial(is_off, node), GOES_ON_SECONDS)
    first.wait_until(
        "nothing of it is left in the cluster",
        lambda: not first.kubectl("get", "clusterrole", "basalt:load-balancer", check=False).ok,
        GOES_ON_SECONDS,
    )
    site.cluster.wait_whole()
    assert all(given(first, name) is None for name in ("web", "local", "asks"))
    assert not first.kubectl("-n", "kube-system", "get", "lease", "load-balancer", check=False).ok
    assert site.carrier(VIRTUAL) is not None


def is_off(node: Container) -> bool:
    """Whether none of its services runs, and the status says that it is off."""
    units = " ".join(f"load-balancer{kind}.service" for kind in ("", "-l2", "-bgp"))
    told = node.run(f"systemctl is-active {units}", check=False).stdout.split()
    status = node.status()
    return (
        set(told) == {"inactive"} and status is not None and status.features["load-balancer"].state == "off"
    )


def founded(cluster: Cluster) -> Container:
    """Return the first control plane, switched on."""
    founds = {"token": JOIN_TOKEN, "bootstrap": True, "virtual-address": VIRTUAL}
    document = {
        "version": 1,
        "role": "control-plane",
        "cluster": founds,
        "features": {"load-balancer": SETTINGS},
    }
    return cluster.add(CONTROL_PLANES[0], document)


def joined(cluster: Cluster) -> None:
    """Have two other control planes join it."""
    for name in CONTROL_PLANES[1:]:
        joins = {"token": JOIN_TOKEN, "endpoints": [NODES[0]]}
        cluster.add(name, {"version": 1, "role": "control-plane", "cluster": joins})
    cluster.wait_whole()


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


def is_degraded(node: Container) -> bool:
    """Whether a node says that somebody should look at it."""
    status = node.status()
    return status is not None and status.phase is Phase.DEGRADED


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


def events(node: Container, name: str) -> str:
    """Return what events say of a Service."""
    found = node.get("events", f"--field-selector=involvedObject.kind=Service,involvedObject.name={name}")
    return "\n".join(each["message"] for each in found["items"])
