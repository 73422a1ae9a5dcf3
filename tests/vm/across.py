# SPDX-License-Identifier: Apache-2.0
"""Two nodes, a pod of one program on each, and what passes between them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import Any

from image.vm.fleet import address
from tests.objects import described, service

from . import pods
from .cluster import Cluster
from .drives import POD_IMAGE
from .machine import Machine
from .objects import answers, create

WEB = "web"
HOST_PORT, NODE_PORT, ECHO_PORT = 8081, 30080, 9999
CARD_MTU = 1500
SERVED_SECONDS = 600.0
"""Until both pods of the program serve, after it was made or started anew."""
MANY = 16
"""Connections to two pods: one in 32,768 runs all would go to the same."""
ECHO = f"""
import socket
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("0.0.0.0", {ECHO_PORT}))
while True:
    data, sender = echo.recvfrom(65535)
    echo.sendto(data, sender)
"""
LARGEST = f"""
import errno, socket, sys
asked, mtu = sys.argv[1], int(sys.argv[2])
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: in one piece or not at all
asking.settimeout(5)
headers = 20 + 8
def passes(size):
    asking.sendto(bytes(size - headers), (asked, {ECHO_PORT}))
    return len(asking.recv(65535)) == size - headers
try:
    passes(mtu + 1)
    sys.exit(f"{{mtu + 1}} bytes pass")
except OSError as error:
    if error.errno != errno.EMSGSIZE:
        raise
for attempt in range(5):
    try:
        sys.exit(0 if passes(mtu) else "other bytes came back")
    except TimeoutError:
        pass
sys.exit(f"{{mtu}} bytes do not come back")
"""
"""Exits with 0 if packets of just the MTU are answered, and larger ones do not fit."""


@dataclass(frozen=True)
class Pair:
    """A control plane, node-1, and a worker, w-1, on one network."""

    cluster: Cluster
    first: Machine
    second: Machine

    @property
    def nodes(self) -> tuple[Machine, Machine]:
        """Both."""
        return self.first, self.second

    def other(self, node: Machine) -> Machine:
        """Return the one that this is not."""
        return self.second if node is self.first else self.first

    def address(self, node: Machine) -> str:
        """Return the address by which the other one knows it."""
        return address(1 if node is self.first else 2)


def serve(pair: Pair) -> None:
    """Run a pod on each node, with a port of the node too, behind Services of several kinds."""
    container = {
        "name": WEB,
        "image": POD_IMAGE,
        "imagePullPolicy": "Never",
        "ports": [{"containerPort": 8080, "hostPort": HOST_PORT}],
    }
    labels = {"app": WEB}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    spec = {"selector": {"matchLabels": labels}, "template": template}
    reached = {"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}
    create(
        pair.first,
        described("apps/v1", "DaemonSet", WEB, spec=spec),
        service(WEB, WEB, type="NodePort", ports=[reached]),
        service("sticky", WEB, sessionAffinity="ClientIP"),
        service("headless", WEB, clusterIP="None"),
    )
    wait_serves(pair)


def wait_serves(pair: Pair) -> None:
    """Wait until a pod of the newest kind is ready on each node."""
    rollout = ("rollout", "status", f"daemonset/{WEB}", f"--timeout={SERVED_SECONDS:g}s")
    pair.first.kubectl(*rollout, timeout=SERVED_SECONDS + 30)


def start_anew(pair: Pair, mtu: int) -> None:
    """Replace all pods: what a new one gets of the network is decided when it is made.

    mtu: that of the new ones. The bridge between them takes the least of all there are, so it tells when the old ones
         are gone. A packet sent before would be told of the lesser one, and so would all others for ten minutes.
    """
    pair.first.kubectl("rollout", "restart", "daemonset,deployment")
    wait_serves(pair)
    for node in pair.nodes:
        node.wait_until(f"all pods have the MTU {mtu}", partial(_has_mtu, node, mtu), SERVED_SECONDS)


def _has_mtu(node: Machine, mtu: int) -> bool:
    return node.run("cat /sys/class/net/cni0/mtu").stdout.strip() == str(mtu)


def by_node(pair: Pair) -> dict[str, dict[str, Any]]:
    """Return the program's pod of each node."""
    running = "--field-selector=status.phase=Running"
    found = pair.first.get("pods", "-l", f"app={WEB}", running)["items"]
    alive = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
    return {pod["spec"]["nodeName"]: pod for pod in alive}


def inside(pair: Pair, node: Machine) -> list[str]:
    """Return what a command begins with that runs in the network of the node's pod."""
    return pods.network(node, by_node(pair)[node.name])


def reaches(pair: Pair) -> bool:
    """Whether each pod reaches that of the other node by its address."""
    found = by_node(pair)
    for node in pair.nodes:
        there = found[pair.other(node).name]
        url = f"http://{there['status']['podIP']}:8080/hostname"
        if answers(node, url, inside=inside(pair, node)) != [there["metadata"]["name"]]:
            return False
    return True


def check_services(pair: Pair) -> None:
    """Services, ports of nodes and ports of pods lead, from either node, to the pods of both."""
    found = by_node(pair)
    both = {pod["metadata"]["name"] for pod in found.values()}
    cluster_ip, sticky = (pair.first.get("service", name)["spec"]["clusterIP"] for name in (WEB, "sticky"))
    for node in pair.nodes:
        within, other = inside(pair, node), pair.other(node)
        assert set(answers(node, f"http://{cluster_ip}/hostname", MANY, inside=within)) == both
        assert set(answers(node, f"http://{cluster_ip}/hostname", MANY)) == both, "from the node itself"
        same = answers(node, f"http://{sticky}/hostname", MANY, inside=within)
        assert len(same) == MANY and len(set(same)) == 1, same
        there = pair.address(other)
        assert set(answers(node, f"http://{there}:{NODE_PORT}/hostname", MANY)) == both
        one = answers(node, f"http://{there}:{HOST_PORT}/hostname", 2)
        assert one == [found[other.name]["metadata"]["name"]] * 2


def check_largest_packet(pair: Pair, mtu: int) -> None:
    """The largest packet that a pod can send arrives at the other node in one piece, and so does the answer."""
    found = by_node(pair)
    echo = [*inside(pair, pair.second), "python3", "-c", ECHO]
    pair.second.run(f"systemd-run --unit=echo {shlex.join(echo)}")
    try:
        asked = found[pair.second.name]["status"]["podIP"]
        pair.first.run([*inside(pair, pair.first), "python3", "-c", LARGEST, asked, str(mtu)])
    finally:
        pair.second.run("systemctl stop echo", check=False)


def use_backend(pair: Pair, backend: str) -> None:
    """Have pods' packets carried in another way, and wait until pods that run already reach each other by it."""
    pair.first.run(f"basalt set features.network.backend={backend}")
    for node in pair.nodes:
        node.wait_until(f"it follows to {backend}", partial(is_configured, node, backend), SERVED_SECONDS)
    pair.first.wait_until("pods reach each other", partial(reaches, pair), SERVED_SECONDS)


def check_new_key(pair: Pair) -> None:
    """The worker has another key of wireguard, as after each boot, and the control plane comes to know it."""
    key = "wg show flannel-wg public-key"
    before = pair.second.run(key).stdout
    pair.second.run("systemctl stop flanneld && rm /run/flannel/wgkey && systemctl start flanneld")
    pair.first.wait_until("pods reach each other", partial(reaches, pair), SERVED_SECONDS)
    assert pair.second.run(key).stdout != before


def is_configured(node: Machine, backend: str) -> bool:
    """Whether flannel works with a backend, and the node is as it should be."""
    written = node.run("cat /etc/kubernetes/flannel.json").stdout
    status = node.status()
    return f'"{backend}"' in written and status is not None and status.phase == "ready"


def ways(pair: Pair) -> list[str]:
    """Return the interface by which each node sends to the other's pods, as the kernel decides it."""
    found = by_node(pair)
    targets = [found[pair.other(node).name]["status"]["podIP"] for node in pair.nodes]
    said = [
        node.run(f"ip -json route get {target}").stdout
        for node, target in zip(pair.nodes, targets, strict=True)
    ]
    return [text.split('"dev":"')[1].split('"')[0] for text in said]
