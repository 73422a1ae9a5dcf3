# SPDX-License-Identifier: Apache-2.0
"""A control plane and a worker with IPv4 and IPv6 networks: nodes, Services, names, and packets between pods.

Containers run no pods, so those here are network namespaces that the runtime's own plugin connects, and Services have
endpoints that are written by hand: servers on the nodes' wire. The worker gets its IPv6 address by a router's
advertisement, the control plane has one from the start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from firstboot.codes import Code
from firstboot.features.network import ROUTES_PROTOCOL
from firstboot.loadbalancer.addresses import Span
from firstboot.paths import CNI_CONFIG
from firstboot.report.status import Phase
from firstboot.values import bracketed
from image.vm.fleet import address
from tests.node import JOIN_TOKEN
from tests.objects import endpoints, service, text

from .cluster import CONTROL_PLANES, JOINED_SECONDS, WORKER, Cluster
from .container import Container, Tree
from .host import empty
from .outsiders import Router, asks
from .web import serving
from .wires import CARD, Wire

FIRST = CONTROL_PLANES[0]
PODS, SERVICES = "10.1.0.0/16,fd01::/48", "10.152.183.0/24,fd98::/112"
PREFIX, FIRST_IPV6, SERVER_IPV6 = "fd00::", "fd00::1", "fd00::60"
SERVER = address(60)
NAME = "web.default.svc.cluster.local"
PORT, POD_PORT = 8080, 7000
POOLS = (f"{address(200)}-{address(209)}", "fd00::2:0/124")
ROUTER, ROUTER_IPV6, SYSTEM = address(111), "fd00::111", 64512
"""Of BGP, in the nodes' autonomous system, to which it speaks by IPv4 alone."""
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
FOLLOWED_SECONDS = 60.0
"""From a change of an object to what kube-proxy and CoreDNS make of it, on a busy host."""
AMOUNT = 1 << 20
"""Bytes that a pod sends: hundreds of packets of full size."""

ADVERTISE = """
import socket, struct, sys
prefix, card = sys.argv[1:]
flags, seconds = 0xC0, 7200
option = struct.pack("!BBBBIII", 3, 4, 64, flags, seconds, seconds, 0) + socket.inet_pton(socket.AF_INET6, prefix)
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(card))
    raw.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + option, ("ff02::1", 0))
"""
"""Advertises a prefix to make addresses of; whoever does it is no default router."""
CONNECT_POD = f"""
import json, subprocess, sys
config = json.load(open("{CNI_CONFIG}"))
bridge = {{**config["plugins"][0], "name": config["name"], "cniVersion": config["cniVersion"]}}
name, folder = sys.argv[1], "/usr/libexec/cni"
subprocess.run(["ip", "netns", "add", name], check=True)
given = {{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0", "CNI_PATH": folder}}
given["CNI_NETNS"] = "/run/netns/" + name
done = subprocess.run([folder + "/bridge"], input=json.dumps(bridge).encode(), env=given, capture_output=True)
sys.stdout.buffer.write(done.stdout)
sys.exit(done.returncode)
"""
SEND = f"""
import socketserver
class Sender(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"x" * {AMOUNT})
class Server(socketserver.ThreadingTCPServer):
    address_family = socketserver.socket.AF_INET6
    allow_reuse_address = True
Server(("::", {POD_PORT}), Sender).serve_forever()
"""
COUNT = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {POD_PORT}), 20) as connection:
    connection.settimeout(20)
    print(len(connection.makefile("rb").read()))
"""
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"
ADDRESSES = "import socket, sys; print(*{each[4][0] for each in socket.getaddrinfo(sys.argv[1], 80)})"
NAMED = "import socket, sys; print(socket.gethostbyaddr(sys.argv[1])[0])"


@dataclass
class Pod:
    """What stands for a pod: a network namespace on a node, with its addresses by IP version."""

    node: Container
    name: str
    addresses: dict[int, str]

    def python(self, program: str, *arguments: str) -> str:
        """Run a program in it and return what it prints."""
        argv = ["ip", "netns", "exec", self.name, "python3", "-c", program, *arguments]
        return self.node.run(argv, timeout=60).stdout.strip()

    def asks(self, program: str, question: str) -> str:
        """Run a program in it that has cluster DNS for its name server, and return what it prints."""
        self.node.write("/run/asking/resolv.conf", "nameserver 10.152.183.10\n")
        self.node.write("/run/asking/nsswitch.conf", "hosts: dns\n")
        asking = 'mount --bind /run/asking /etc && exec python3 -c "$1" "$2"'
        argv = ["ip", "netns", "exec", self.name, "sh", "-ec", asking, "sh", program, question]
        return self.node.run(argv, timeout=60).stdout.strip()


@dataclass
class Site:
    """The cluster, a router beside it, and what stands for pods, by name."""

    cluster: Cluster
    router: Wire
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def first(self) -> Container:
        """The control plane."""
        return self.cluster.nodes[FIRST]

    @property
    def worker(self) -> Container:
        """The other node."""
        return self.cluster.nodes[WORKER]

    def advertise(self) -> None:
        """Have all nodes make themselves an address."""
        argv = [
            "ip",
            "netns",
            "exec",
            self.router.namespace,
            sys.executable,
            "-c",
            ADVERTISE,
            PREFIX,
            CARD,
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def site(able: None, tree: Tree) -> Iterator[Site]:
    """A control plane that is Ready, a worker that waits for an address until the first test, a server behind both."""
    with empty("dqlite", tree) as cluster, ExitStack() as stack:
        both = {"pod-cidr": PODS, "service-cidr": SERVICES}
        founds = {"token": JOIN_TOKEN, "bootstrap": True, **both}
        first = {"version": 1, "role": "control-plane", "node": {"ipv6": FIRST_IPV6}, "cluster": founds}
        cluster.add(FIRST, first, [f"{FIRST_IPV6}/64"])
        joins = {"token": JOIN_TOKEN, "endpoints": [address(1)]}
        cluster.add(WORKER, {"version": 1, "role": "worker", "cluster": joins})
        wire = cluster.wires.place("server", SERVER, SERVER_IPV6)
        for own in (SERVER, SERVER_IPV6):
            stack.enter_context(serving(wire.namespace, own, PORT, own))
        made = Site(cluster, cluster.wires.place("router", address(70)))
        made.first.wait_for_phase(Phase.READY, JOINED_SECONDS, failed_units=True)
        yield made


def test_a_node_waits_for_an_address_and_goes_on(site: Site) -> None:
    site.worker.wait_until("the worker says what it lacks", partial(lacks, site.worker), JOINED_SECONDS)
    site.advertise()
    site.worker.wait_until("it goes on", partial(knows, site.worker), FOLLOWED_SECONDS)
    site.cluster.wait_whole()
    for node in site.cluster.nodes.values():
        described = site.first.get("node", node.name)
        inside = [
            each["address"] for each in described["status"]["addresses"] if each["type"] == "InternalIP"
        ]
        pods = described["spec"]["podCIDRs"]
        assert [ip_address(each).version for each in inside] == [4, 6], inside
        assert inside[0] == node.address
        assert ip_address(inside[1]) in ip_network(f"{PREFIX}/64")
        for own, whole, length in zip(pods, PODS.split(","), (24, 64), strict=True):
            assert ip_network(own).subnet_of(ip_network(whole)), pods  # type: ignore[arg-type]
            assert ip_network(own).prefixlen == length, pods
        status = node.status()
        assert status and status.node.addresses[:2] == tuple(inside)
    assert address_of(site, FIRST, 6) == FIRST_IPV6


def test_a_service_has_two_addresses(site: Site) -> None:
    behind = (endpoints("web", [SERVER], PORT), endpoints("web", [SERVER_IPV6], PORT, version=6))
    described = text(service("web", ipFamilyPolicy="RequireDualStack"), *behind)
    site.first.kubectl("apply", "-f", "-", stdin=described)
    given = site.first.get("service", "web")["spec"]["clusterIPs"]
    for each, network in zip(given, SERVICES.split(","), strict=True):
        assert ip_address(each) in ip_network(network)
    for node in site.cluster.nodes.values():
        for each, own in zip(given, (SERVER, SERVER_IPV6), strict=True):
            node.wait_until(f"{each} is served", partial(is_served_by, node, each, own), FOLLOWED_SECONDS)


def test_pods_on_two_nodes_reach_each_other_and_services_by_both(site: Site) -> None:
    near, far = pod(site.first, "near"), pod(site.worker, "far")
    site.pods |= {each.name: each for each in (near, far)}
    site.worker.run(["systemd-run", "--unit=sender", "ip", "netns", "exec", far.name, "python3", "-c", SEND])
    listens = f"ip netns exec {far.name} ss -Hltn sport = {POD_PORT} | grep -q ."
    site.worker.wait_until("it listens", lambda: site.worker.run(listens, check=False).ok, FOLLOWED_SECONDS)
    for version in (4, 6):
        assert near.python(COUNT, far.addresses[version]) == str(AMOUNT), version
    way = site.first.run(["ip", "route", "get", far.addresses[6]]).stdout
    assert " dev flannel-v6.1 " in way
    for node in site.cluster.nodes.values():
        # A packet of IPv6 in one of vxlan in one of IPv6 has to go through the wire.
        assert {mtu(node, name) for name in ("cni0", "flannel.1", "flannel-v6.1")} == {1500 - 70}
    given = site.first.get("service", "web")["spec"]["clusterIPs"]
    for here in (near, far):
        for each, own in zip(given, (SERVER, SERVER_IPV6), strict=True):
            assert json.loads(here.python(FETCH, f"http://{bracketed(each)}/"))["name"] == own
            assert here.asks(NAMED, each) == NAME
        assert set(here.asks(ADDRESSES, NAME).split()) == set(given)
        # So do the node's own programs, and pods in its network.
        assert here.node.resolve(NAME) == given[0]


def test_plain_routes_lead_to_both_networks_of_a_node(site: Site) -> None:
    near, far = site.pods["near"], site.pods["far"]
    site.first.run("basalt set features.network.backend=host-gw")
    for version in (4, 6):
        by_routes = partial(goes_by, site.first, far.addresses[version], address_of(site, WORKER, version))
        site.first.wait_until(f"plain routes are used for IPv{version}", by_routes, FOLLOWED_SECONDS)
        back = partial(goes_by, site.worker, near.addresses[version], address_of(site, FIRST, version))
        site.worker.wait_until(f"plain routes are used for IPv{version}", back, FOLLOWED_SECONDS)
        assert near.python(COUNT, far.addresses[version]) == str(AMOUNT), version
    site.cluster.wait_whole()


def test_a_load_balancers_addresses_of_both_versions_are_carried_and_announced(site: Site) -> None:
    first, client = site.first, site.cluster.wires.place("client", address(110), "fd00::110")
    wire = site.cluster.wires.place("bgp", ROUTER, ROUTER_IPV6)
    names = (FIRST, WORKER)
    nodes = [site.cluster.nodes[name].address for name in names]
    with Router(
        site.cluster.tree, site.cluster.folder / "bgp", wire, ROUTER, (SYSTEM, SYSTEM), nodes
    ) as router:
        peers = json.dumps([{"address": ROUTER, "asn": SYSTEM}])
        settings = {"enabled": "true", "l2-mode": "true", "bgp-mode": "true", "bgp-local-asn": f"{SYSTEM}"}
        settings |= {"bgp-peers": peers, "cidrs": json.dumps(POOLS)}
        first.run(
            ["basalt", "set", *(f"features.load-balancer.{name}={value}" for name, value in settings.items())]
        )
        behind = (endpoints("both", [SERVER], PORT), endpoints("both", [SERVER_IPV6], PORT, version=6))
        both = service("both", type="LoadBalancer", ipFamilyPolicy="RequireDualStack")
        first.kubectl("apply", "-f", "-", stdin=text(both, *behind))
        first.wait_until("it has two addresses", lambda: len(balanced(site)) == 2, JOINED_SECONDS)
        for each, pool, own in zip(balanced(site), POOLS, (SERVER, SERVER_IPV6), strict=True):
            assert ip_address(each) in Span.parse(pool)
            version = ip_address(each).version
            first.wait_until(f"{each} is carried", partial(carrier, site, client, each), FOLLOWED_SECONDS)
            served = partial(is_fetched, client, each, own)
            first.wait_until(f"{each} is served", served, FOLLOWED_SECONDS)
            hops = {address_of(site, name, version) for name in names}
            told = partial(is_told, router, each, hops)
            first.wait_until(f"{each} is announced", told, FOLLOWED_SECONDS)

            carrying = carrier(site, client, each)
            [other] = {*names} - {carrying}
            first.kubectl("label", "node", str(carrying), f"{EXCLUDED}=")
            moved = partial(is_carrier, site, client, each, other)
            first.wait_until(f"{each} is carried by the other node", moved, FOLLOWED_SECONDS)
            first.wait_until(f"{each} is served", served, FOLLOWED_SECONDS)
            left = partial(is_told, router, each, {address_of(site, other, version)})
            first.wait_until("the router knows", left, FOLLOWED_SECONDS)
            first.kubectl("label", "node", str(carrying), f"{EXCLUDED}-")
        first.kubectl("delete", "service", "both")
        first.run("basalt disable load-balancer")
    site.cluster.wait_whole()


def balanced(site: Site) -> list[str]:
    """Return the addresses that the Service of type LoadBalancer has."""
    ingress = site.first.get("service", "both")["status"]["loadBalancer"].get("ingress", [])
    return sorted((str(each["ip"]) for each in ingress), key=lambda each: ip_address(each).version)


def carrier(site: Site, client: Wire, asked: str) -> str | None:
    """Return the node that says on the network that an address is its own."""
    mac = asks(client, asked)
    macs = {name: site.cluster.wires.connect(name).mac for name in site.cluster.nodes}
    return next((name for name, own in macs.items() if own == mac), None)


def is_carrier(site: Site, client: Wire, asked: str, name: str) -> bool:
    """Whether it is this node."""
    return carrier(site, client, asked) == name


def is_fetched(client: Wire, asked: str, name: str) -> bool:
    """Whether who is beside the cluster gets an answer of that server."""
    argv = [
        "ip",
        "netns",
        "exec",
        client.namespace,
        sys.executable,
        "-c",
        FETCH,
        f"http://{bracketed(asked)}/",
    ]
    done = subprocess.run(argv, capture_output=True, timeout=30)
    return done.returncode == 0 and json.loads(done.stdout)["name"] == name


def is_told(router: Router, asked: str, hops: set[str]) -> bool:
    """Whether the router would send packets for an address to these nodes."""
    return router.hops(asked) == hops


def goes_by(node: Container, to: str, gateway: str) -> bool:
    """Whether packets go from a node to an address by way of another node, as they are."""
    way = node.run(["ip", "route", "get", to], check=False).stdout
    return f" via {gateway} dev {CARD} " in way


def test_the_ways_to_services_end_with_kube_proxy(site: Site) -> None:
    node = site.worker
    _, given = site.first.get("service", "web")["spec"]["clusterIPs"]
    assert [ways(node, version) for version in (4, 6)] == [{each} for each in SERVICES.split(",")]
    # The agent would have it start again within a round.
    node.run("systemctl stop basalt && systemctl stop kube-proxy")
    assert [ways(node, version) for version in (4, 6)] == [set(), set()]
    node.run("systemctl start basalt")
    site.cluster.wait_whole()
    node.wait_until("it serves", partial(is_served_by, node, given, SERVER_IPV6), FOLLOWED_SECONDS)
    assert [ways(node, version) for version in (4, 6)] == [{each} for each in SERVICES.split(",")]


def test_a_node_that_loses_its_address_goes_on_as_far_as_it_can(site: Site) -> None:
    node, before = site.worker, pid(site.worker, "kubelet")
    given, _ = site.first.get("service", "web")["spec"]["clusterIPs"]
    node.run(f"ip -6 address delete {address_of(site, WORKER, 6)}/64 dev {CARD}")
    node.wait_until("it says so", partial(lacks, node), FOLLOWED_SECONDS)
    assert is_served_by(node, given, SERVER), "IPv4 is not concerned"
    site.advertise()
    node.wait_until("it has it again", partial(knows, node), FOLLOWED_SECONDS)
    site.cluster.wait_whole()
    assert pid(node, "kubelet") == before


def lacks(node: Container) -> bool:
    """Whether the node's status says that it has no address of IPv6."""
    status, failure = node.status(), (Code.NO_ADDRESS, "basalt.node.ipv6")
    return status is not None and failure in [(each.code, each.path) for each in status.failures]


def knows(node: Container) -> bool:
    """Whether the node's status has no failure."""
    status = node.status()
    return status is not None and not status.failures


def pid(node: Container, unit: str) -> int:
    """Return the main process of a service."""
    return int(node.run(["systemctl", "show", "-p", "MainPID", "--value", unit]).stdout)


def address_of(site: Site, name: str, version: int) -> str:
    """Return the address of that version by which the cluster knows a node."""
    told = site.first.get("node", name)["status"]["addresses"]
    inside = [str(each["address"]) for each in told if each["type"] == "InternalIP"]
    return next(each for each in inside if ip_address(each).version == version)


def ways(node: Container, version: int) -> set[str]:
    """Return where the routes lead that kube-proxy's unit makes."""
    shown = node.run(["ip", f"-{version}", "-json", "route", "show", "proto", str(ROUTES_PROTOCOL)]).stdout
    return {str(each["dst"]) for each in json.loads(shown or "[]")}


def mtu(node: Container, name: str) -> int:
    """Return the MTU of an interface."""
    return int(node.run(["cat", f"/sys/class/net/{name}/mtu"]).stdout)


def pod(node: Container, name: str) -> Pod:
    """Make a network namespace that is connected as the runtime does it for a pod."""
    said = json.loads(node.run(["python3", "-c", CONNECT_POD, name]).stdout)
    given = [str(each["address"]).partition("/")[0] for each in said["ips"]]
    return Pod(node, name, {ip_address(each).version: each for each in given})


def is_served_by(node: Container, asked: str, name: str) -> bool:
    """Whether the node itself gets an answer of that server."""
    done = node.run(["python3", "-c", FETCH, f"http://{bracketed(asked)}/"], check=False)
    return done.ok and json.loads(done.stdout)["name"] == name
