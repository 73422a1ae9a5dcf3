# SPDX-License-Identifier: Apache-2.0
"""A control plane and a worker, switched on together, become a cluster and stay one; features work on both.

The tests are one story: each goes on with the machines as the one before it has left them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.report.status import Phase
from firstboot.sources import FILE
from image.vm.arguments import Accelerator
from image.vm.fleet import address
from image.vm.seed import document_text
from tests.node import READY_SECONDS
from tests.objects import described, policy, service

from . import across, drives, pods, states
from .across import CARD_MTU, WEB, Pair
from .clocks import TWO_HOURS, agrees, set_clock
from .cluster import Cluster, member
from .conftest import found
from .machine import Machine
from .objects import SERVED_SECONDS, answers, claim, create, mounted, route_to, write_or_read

WRONG = "another-text-than-the-cluster's-fedcba9876543210"
NOTICED_SECONDS = 300.0
REMOVED_SECONDS = 600.0
CARRIED_SECONDS = 120.0
"""Until another node answers for an address: four seconds on a machine that is not emulated."""
DOMAIN = "cluster.local"
POOL = (address(200), address(209))
NAME_SERVER_PORT = 5399
OUTSIDE_NAME, OUTSIDE_ADDRESS = "name.example.org", "192.0.2.99"
NAME_SERVER = f"""
import socket
known = b"".join(bytes([len(part)]) + part.encode() for part in "{OUTSIDE_NAME}".split(".")) + b"\\0"
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("{address(1)}", {NAME_SERVER_PORT}))
while True:
    asked, sender = server.recvfrom(4096)
    question = asked[12 : asked.index(b"\\0", 12) + 5]
    found = question[:-4].lower() == known
    has = found and question[-4:-2] == b"\\0\\1"
    head = asked[:2] + (b"\\x85\\x80" if found else b"\\x85\\x83") + bytes([0, 1, 0, has, 0, 0, 0, 0])
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("{OUTSIDE_ADDRESS}")
    server.sendto(head + question + (record if has else b""), sender)
"""
"""A name server that knows one name (RFC 1035, section 4)."""


@pytest.fixture(scope="module")
def pair(image: Path, accelerator: Accelerator) -> Iterator[Pair]:
    """A Ready control plane, and a worker that does not reach it yet and has a wrong token."""
    with Cluster(image, accelerator=accelerator) as cluster:
        first = found(cluster, "dqlite", image, accelerator)
        cluster.switch.divide(["node-1"], ["w-1"])
        yield Pair(cluster, first, cluster.add(member("w-1", 2, worker(WRONG), memory=2048)))


def test_a_worker_joins_when_all_is_right(pair: Pair) -> None:
    first, second = pair.nodes
    waits_for_the_cluster(second)
    pair.cluster.switch.heal()
    is_refused_on_both_sides(first, second)
    set_clock(second, ahead=TWO_HOURS)
    token = first.run("basalt get-join-token --role worker --lifetime 30m").stdout.strip()
    second.write(FILE, document_text({**worker(token), "node": {"name": "w-1", "ip": address(2)}}))
    waits_for_its_clock(second)
    set_clock(second)
    second.wait_for_phase()
    nodes = {node["metadata"]["name"]: node for node in first.get("nodes")["items"]}
    assert sorted(nodes) == ["node-1", "w-1"]
    assert nodes["w-1"]["spec"]["podCIDR"] != nodes["node-1"]["spec"]["podCIDR"]
    assert [second.failed_units(), first.failed_units()] == [[], []]


def test_pods_and_services_are_reached_across_nodes(pair: Pair) -> None:
    drives.import_pod_image(pair.second)
    pods.start(pair.first, "w-1", node="w-1")
    url = "https://kubernetes.default.svc/version"
    assert pods.ask(pair.first, "fetch", "-cluster", url, name="w-1")["status"] == 200
    across.serve(pair)
    pair.first.wait_until("pods reach each other", partial(across.reaches, pair), NOTICED_SECONDS)
    assert across.ways(pair) == ["flannel.1", "flannel.1"]
    across.check_services(pair)
    across.check_largest_packet(pair, CARD_MTU - 50)


def test_names_of_every_kind_are_answered_on_both_nodes(pair: Pair) -> None:
    first = pair.first
    pods_of_both = sorted(pod["status"]["podIP"] for pod in across.by_node(pair).values())
    own = first.get("service", WEB)["spec"]["clusterIP"]
    name_server = ["systemd-run", "--unit=name-server", "python3", "-c", NAME_SERVER]
    first.run(name_server)
    server = json.dumps([f"{address(1)}:{NAME_SERVER_PORT}"])
    first.run(["basalt", "set", f"features.dns.upstream-nameservers={server}"])
    alias = {"type": "ExternalName", "externalName": OUTSIDE_NAME}
    create(first, described("v1", "Service", "alias", spec=alias))
    for node in pair.nodes:
        ask = partial(asked_inside, node, [*across.inside(pair, node), "-m"])
        knows_names(node, ask, own, pods_of_both)
        # A pod knows its own address from its /etc/hosts.
        there = across.by_node(pair)[pair.other(node).name]["status"]["podIP"]
        reverse = ask("ptr", there)["names"]
        assert any(name.endswith(f".headless.default.svc.{DOMAIN}.") for name in reverse), reverse
    first.run("basalt set features.dns.upstream-nameservers=")
    first.run("systemctl stop name-server")


def test_a_policy_counts_across_nodes(pair: Pair) -> None:
    first = pair.first
    [asking] = first.get("pods", "-l", "app=probe")["items"]
    [asked] = pods.addresses(first, "w-1")
    url = f"http://{asked}:8080/healthz"
    gets = partial(answers, first, url, inside=pods.network(first, asking))
    assert gets() == ["ok"]
    create(first, policy("web-only", "w-1", [{"podSelector": {"matchLabels": {"app": WEB}}}]))
    first.wait_until("another program is kept out", lambda: gets() == [], NOTICED_SECONDS)
    for node in pair.nodes:
        assert answers(node, url, inside=across.inside(pair, node)) == ["ok"], node.name
    first.kubectl("delete", "networkpolicy", "web-only")
    first.wait_until("it is let in", gets, NOTICED_SECONDS)


def test_features_serve_on_both_nodes(pair: Pair) -> None:
    first, second = pair.nodes
    switched = ("ingress", "gateway", "load-balancer", "local-storage", "metrics-server")
    pool = f"features.load-balancer.cidrs=[{POOL[0]}-{POOL[1]}]"
    on = [f"features.{name}.enabled=true" for name in switched]
    first.run(["basalt", "set", *on, "features.load-balancer.l2-mode=true", pool])
    first.kubectl("create", "ingress", WEB, f"--rule=ingress.example.org/*={WEB}:80")
    route_to(first, WEB, "gateway.example.org")
    shared = service("shared", WEB, type="LoadBalancer")
    local = service("local", WEB, type="LoadBalancer", externalTrafficPolicy="Local")
    create(first, shared, local)

    for node in pair.nodes:
        # Asked by the other one, as by anybody on the network.
        other, url = pair.other(node), f"http://{pair.address(node)}/hostname"
        for host in ("ingress.example.org", "gateway.example.org"):
            there = f"{host} is served by {node.name}"
            other.wait_until(there, partial(is_web, pair, other, url, host), SERVED_SECONDS)
    for name in ("shared", "local"):
        first.wait_until(f"{name} has an address", partial(given, first, name), SERVED_SECONDS)
        given_address = given(first, name)
        first.wait_until("one carries it", partial(carrier, pair, given_address), SERVED_SECONDS)
        carrying = carrier(pair, given_address)
        assert carrying is not None
        url = f"http://{given_address}/hostname"
        other = pair.other(carrying)
        other.wait_until("the other one reaches it", partial(is_web, pair, other, url), NOTICED_SECONDS)

    first.wait_until("both are measured", partial(measures, first, {"node-1", "w-1"}), SERVED_SECONDS)
    claim(first, "data", "64Mi")
    mounted(first, "writer", "data", node="w-1")
    pods.wait_answers(first, "writer")
    size = 48 << 20
    assert write_or_read(first, "writer", "write", "/data/first", str(size))["bytes"] == size
    assert "quota" in write_or_read(first, "writer", "write", "/data/second", str(size))["error"]
    assert "1 volume" in healthy(second, "local-storage") and "0 volumes" in healthy(first, "local-storage")
    first.kubectl("delete", "deployment", "writer")
    first.kubectl("delete", "pvc", "data")
    for node in pair.nodes:
        status = node.wait_for_phase()
        # That the worker was refused at first is told for a while.
        assert {failure.code for failure in status.failures} <= {Code.JOIN_REFUSED}, status.failures
        assert node.failed_units() == []


@pytest.mark.parametrize(
    ("backend", "overhead", "interface"), [("wireguard", 80, "flannel-wg"), ("host-gw", 0, "cluster")]
)
def test_pods_are_reached_by_other_backends(pair: Pair, backend: str, overhead: int, interface: str) -> None:
    """The tests before this one were made with vxlan, the default."""
    across.use_backend(pair, backend)
    for node, way in zip(pair.nodes, across.ways(pair), strict=True):
        card = node.run(f"ip -json address show to {pair.address(node)}/32").stdout
        wanted = card.split('"ifname":"')[1].split('"')[0] if interface == "cluster" else interface
        assert way == wanted, f"{node.name} sends by {way}"
    across.start_anew(pair, CARD_MTU - overhead)
    across.check_largest_packet(pair, CARD_MTU - overhead)
    if backend == "wireguard":
        across.check_new_key(pair)


def test_a_clock_that_is_wrong_in_a_cluster_that_works(pair: Pair) -> None:
    clocks_are_apart_in_a_cluster_that_works(*pair.nodes)


def test_what_the_loss_of_the_control_plane_does_not_end(pair: Pair) -> None:
    """It loses its power: the worker says so, its pods go on, and it answers for addresses; later all is well again.

    What was forbidden is forbidden from the first moment, and the settings are those from before.
    """
    first, second = pair.nodes
    before, local, settings = containers(second), given(first, "local"), followed(first)
    within = across.inside(pair, second)
    create(first, policy("deny", "probe"))
    first.wait_until("it is forbidden", lambda: asks_probe(pair, within) == [], NOTICED_SECONDS)
    first.power_cut()
    second.wait_until("it carries the address", partial(carries, second, local), CARRIED_SECONDS)
    second.wait_until("the loss is told", partial(is_degraded, second), NOTICED_SECONDS)
    assert containers(second) == before
    assert asked_inside(second, [*within, "-m"], "dns", f"{WEB}.default.svc.{DOMAIN}")["addresses"]
    first.start()
    first.wait_for_boot()
    first.wait_for_phase()
    second.wait_for_phase()
    assert containers(second) == before
    assert followed(first) == followed(second) == settings
    for name in ("probe", "w-1"):
        pods.wait_answers(first, name)
    first.wait_until("its own node reaches it", lambda: asks_probe(pair, ()) == ["ok"], NOTICED_SECONDS)
    assert asks_probe(pair, within) == []
    assert 0 < began(first, "network-policy", "ActiveEnter") < began(first, "kubelet", "ExecMainStart")
    first.kubectl("delete", "networkpolicy", "deny")
    first.wait_until("it is let in", lambda: asks_probe(pair, within) == ["ok"], NOTICED_SECONDS)


def test_a_worker_leaves(pair: Pair) -> None:
    leaves_and_knows_nothing_any_more(*pair.nodes)


def worker(token: str) -> dict[str, Any]:
    """Return the document of a worker."""
    return {"version": 1, "role": "worker", "cluster": {"token": token, "endpoints": [address(1)]}}


def waits_for_the_cluster(machine: Machine) -> None:
    """The worker, which is up first, says what it waits for."""
    machine.wait_until(
        "nobody is there to join", partial(machine.tells, Code.CLUSTER_UNREACHABLE), READY_SECONDS
    )
    status = machine.status()
    assert status and status.phase is Phase.JOINING
    assert address(1) in status.failures[0].found


def is_refused_on_both_sides(first: Machine, second: Machine) -> None:
    """A wrong token is told on the machine and on the control plane, which stays Ready."""
    second.wait_until("it is refused", partial(second.tells, Code.TOKEN_UNKNOWN), NOTICED_SECONDS)
    first.wait_until("the refusal is told", partial(first.tells, Code.JOIN_REFUSED), NOTICED_SECONDS)
    status = first.status()
    assert status and status.phase is Phase.READY
    assert WRONG not in json.dumps(status.to_dict())


def waits_for_its_clock(machine: Machine) -> None:
    """With a good token and a wrong clock the worker is no member yet, and says by how much it is wrong."""
    machine.wait_until("its clock is told", partial(machine.tells, Code.CLOCKS_APART), NOTICED_SECONDS)
    status = machine.status()
    assert status and status.phase is Phase.JOINING
    [failure] = status.failures
    seconds = re.search(rf"(\d+) seconds ahead of that of {re.escape(address(1))}", failure.found)
    assert seconds and abs(int(seconds[1]) - TWO_HOURS) < 60, failure.found


def clocks_are_apart_in_a_cluster_that_works(first: Machine, second: Machine) -> None:
    """A worker two hours ahead: its heartbeats come from the future, it stays Ready, and its pod is reached.

    Both sides tell of it until it is over.
    """
    before = containers(second)
    set_clock(second, ahead=TWO_HOURS)
    first.wait_until("heartbeats have the wrong time", partial(beats_ahead, first), NOTICED_SECONDS)
    [node] = [each for each in first.get("nodes")["items"] if each["metadata"]["name"] == "w-1"]
    assert {each["type"]: each["status"] for each in node["status"]["conditions"]}["Ready"] == "True"
    assert containers(second) == before
    pods.wait_answers(first, "w-1")
    for node in (first, second):
        node.wait_until("it is told", partial(node.tells, Code.CLOCKS_APART), NOTICED_SECONDS)
        node.wait_for_phase()
    status = first.status()
    assert status and "behind that of w-1" in " ".join(failure.found for failure in status.failures)
    set_clock(second)
    for node in (first, second):
        node.wait_until("clocks agree", partial(agrees, node), NOTICED_SECONDS)


def beats_ahead(machine: Machine) -> bool:
    """Whether the last heartbeat of the worker has a time more than an hour from now."""
    renewed = machine.get("lease", "w-1", "-n", "kube-node-lease")["spec"]["renewTime"]
    return datetime.fromisoformat(renewed).timestamp() > time.time() + TWO_HOURS / 2


def knows_names(node: Machine, ask: Callable[..., dict[str, Any]], own: str, pods_of_both: list[str]) -> None:
    """A pod of the node is told names of every kind; own: the address of the Service before both pods."""
    node.wait_until("it is forwarded", lambda: "addresses" in ask("dns", OUTSIDE_NAME), NOTICED_SECONDS)
    assert ask("dns", OUTSIDE_NAME)["addresses"] == [OUTSIDE_ADDRESS]
    assert ask("dns", "kubernetes.default")["addresses"] == [states.API_SERVICE]
    assert ask("dns", WEB)["addresses"] == [own]
    assert sorted(ask("dns", f"headless.default.svc.{DOMAIN}")["addresses"]) == pods_of_both
    assert ask("dns", "alias")["addresses"] == [OUTSIDE_ADDRESS]
    assert f"{WEB}.default.svc.{DOMAIN}." in ask("ptr", own)["names"]
    assert "error" in ask("dns", "unknown.example.org")


def asked_inside(node: Machine, enter: list[str], *question: str) -> dict[str, Any]:
    """Run the test program's command in a pod of the node, without the API, and return its answer."""
    said = node.run([*enter, "/testpod", *question], check=False)
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer


def asks_probe(pair: Pair, within: Sequence[str]) -> list[str]:
    """Return what the pod on the control plane answers to one of the worker's, or to its own node without `within`."""
    [probe] = pods.addresses(pair.first)
    asking = pair.second if within else pair.first
    return answers(asking, f"http://{probe}:8080/healthz", inside=within)


def followed(machine: Machine) -> int | None:
    """Return which version of the cluster's settings a node follows."""
    status = machine.status()
    return status.settings.version if status and status.settings else None


def began(machine: Machine, unit: str, moment: str) -> int:
    """Return when a unit did, in microseconds since the kernel started."""
    return int(machine.run(f"systemctl show -p {moment}TimestampMonotonic --value {unit}").stdout)


def is_web(pair: Pair, asking: Machine, url: str, host: str = "") -> bool:
    """Whether it is one of the program's pods that answers a machine."""
    said = answers(asking, url, host=host)
    return bool(said) and said[0] in {pod["metadata"]["name"] for pod in across.by_node(pair).values()}


def given(machine: Machine, name: str) -> str:
    """Return the address in a Service's status, empty for none."""
    ingress = machine.get("service", name)["status"]["loadBalancer"].get("ingress", [])
    return str(ingress[0]["ip"]) if ingress else ""


def carries(machine: Machine, carried: str) -> bool:
    """Whether an address is on a card of the machine."""
    return f" {carried}/32 " in machine.run("ip -4 -brief address show").stdout


def carrier(pair: Pair, carried: str) -> Machine | None:
    """Return the one machine that has an address, None while none or both have."""
    found = [node for node in pair.nodes if carries(node, carried)]
    return found[0] if len(found) == 1 else None


def measures(machine: Machine, nodes: set[str]) -> bool:
    """Whether it is known what these nodes use."""
    told = machine.kubectl("top", "nodes", "--no-headers", check=False)
    measured = {line.split()[0] for line in told.stdout.splitlines() if "<unknown>" not in line}
    return told.ok and measured == nodes


def healthy(machine: Machine, name: str) -> str:
    """Return what a feature that works says of itself."""
    machine.wait_until(f"{name} works", partial(machine.says_healthy, name), SERVED_SECONDS)
    status = machine.status()
    return status.features[name].detail if status else ""


def containers(machine: Machine) -> list[str]:
    """Return the running containers of a node with their processes."""
    lines = machine.run("ctr -n k8s.io tasks ls").stdout.splitlines()[1:]
    return sorted(line for line in lines if "RUNNING" in line)


def is_degraded(machine: Machine) -> bool:
    """Whether the node says that something which worked does not work now."""
    status = machine.status()
    return status is not None and status.phase is Phase.DEGRADED


def leaves_and_knows_nothing_any_more(first: Machine, second: Machine) -> None:
    """The worker is drained and forgotten, switches itself off, and starts as it was flashed."""
    said = first.run("basalt remove-node w-1 --timeout 5m", timeout=REMOVED_SECONDS).stdout
    assert said.splitlines()[-1] == "w-1 is out of the cluster: its name and address are free"
    second.wait_for_power_off()
    assert [node["metadata"]["name"] for node in first.get("nodes")["items"]] == ["node-1"]
    # On a busy host a look at what pods use may be late just now.
    first.wait_for_phase()
    second.start()
    # The token that let it in was a file on its disk; what it was booted with has the wrong one.
    second.wait_until("it is new again", partial(second.tells, Code.TOKEN_UNKNOWN), READY_SECONDS)
    assert second.run("test -e /var/lib/basalt/membership.json", check=False).code == 1
