# SPDX-License-Identifier: Apache-2.0
"""A first boot with IPv4 and IPv6 networks: a pod has two addresses, and reaches a Service and names by both."""

from __future__ import annotations

import json
from functools import partial
from ipaddress import ip_address, ip_network

from firstboot.report.status import Phase
from firstboot.values import bracketed
from image.vm.fleet import PATIENT, address, network_config
from image.vm.seed import user_data
from tests.objects import service

from . import drives, pods
from .cluster import APART
from .conftest import Boot
from .documents import control_plane
from .drives import NoCloud
from .machine import CLOSED, Machine, Setup
from .objects import create

PODS, SERVICES = "10.1.0.0/16,fd01::/48", "10.152.183.0/24,fd98::/112"
NODE = (address(1), "fd00::1")
NAME = "web.default.svc.cluster.local"
SERVED_SECONDS = 240.0
"""From a Service's object to its first good answer, under emulation."""


def setup() -> Setup:
    """Return a control plane whose card has an address of each version; nothing else is on its wire."""
    document = control_plane(
        node={"name": "node-1", "ip": NODE[0]},
        cluster={"pod-cidr": PODS, "service-cidr": SERVICES},
        services=PATIENT,
    )
    network = json.loads(network_config("node-1", NODE[0]))
    network["ethernets"]["cluster"]["addresses"].append(f"{NODE[1]}/64")
    seed = NoCloud(user_data(document), "node-1", json.dumps(network))
    return Setup(extra=(drives.test_data(), seed), networks=(APART, CLOSED))


def test_pods_services_and_names_are_of_both_versions(boot: Boot) -> None:
    machine = boot(setup())
    machine.wait_for_phase(Phase.READY)
    told = machine.get("node", "node-1")["status"]["addresses"]
    assert [each["address"] for each in told if each["type"] == "InternalIP"] == list(NODE)

    drives.import_pod_image(machine)
    pods.start(machine)
    [pod] = machine.get("pods", "-l", "app=probe")["items"]
    within(PODS, [each["ip"] for each in pod["status"]["podIPs"]])

    create(machine, service("web", "probe", ipFamilyPolicy="RequireDualStack"))
    given = machine.get("service", "web")["spec"]["clusterIPs"]
    within(SERVICES, given)
    for each in given:
        # From a pod, whose packets kube-proxy's rules meet as they come in, and by its own Service back to itself.
        machine.wait_until(f"{each} answers", partial(fetches, machine, each), SERVED_SECONDS)
        asked = f"import urllib.request as u; u.urlopen('http://{bracketed(each)}/healthz', timeout=20)"
        machine.run(["python3", "-c", asked])
    assert set(pods.ask(machine, "dns", NAME)["addresses"]) == set(given)
    assert fetches(machine, NAME)
    assert machine.failed_units() == []


def within(networks: str, addresses: list[str]) -> None:
    """Prove that there is an address of each network."""
    for each, network in zip(addresses, networks.split(","), strict=True):
        assert ip_address(each) in ip_network(network), addresses


def fetches(machine: Machine, host: str) -> bool:
    """Whether the pod gets an answer from there."""
    url = f"http://{bracketed(host)}/hostname"
    return bool(machine.kubectl("exec", "deployment/probe", "--", "/testpod", "fetch", url, check=False).ok)
