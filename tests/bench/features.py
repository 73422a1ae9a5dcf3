# SPDX-License-Identifier: Apache-2.0
"""Measures features on a control plane in a container: what they use when idle, and how quickly they serve.

All are on together. The server behind them and the client before them are on the node's network, beside it, and share
the host's processors with it. What a volume adds to the start of a pod is measured on a machine (claims.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from firstboot.report.status import State
from image import components, declaration
from image.vm.fleet import address

from ..node import JOIN_TOKEN, NodeFailed
from ..nspawn.cluster import CONTROL_PLANES, JOINED_SECONDS
from ..nspawn.container import Container, Tree
from ..nspawn.host import empty
from ..nspawn.web import running
from ..objects import Object, endpoints, gateway, http_route, ingress, policy, service, text
from . import memory
from .availability import Load
from .boots import rest
from .results import Features, Host, Idle

BACKEND, CLIENT = address(60), address(70)
PORT = 8080
HOST_NAME = "ingress.example.org"
POOL = f"{address(200)}-{address(219)}"
SETTINGS = {
    "ingress": {"enabled": True},
    "gateway": {"enabled": True},
    "load-balancer": {"enabled": True, "l2-mode": True, "cidrs": [POOL]},
    "local-storage": {"enabled": True},
    "metrics-server": {"enabled": True},
}
UNITS = ("traefik", "load-balancer", "load-balancer-l2", "local-storage", "metrics-server", "network-policy")
"""Services of features that are not on in every cluster."""
LACKING = frozenset({"local-storage", "metrics-server"})
"""Features that run all the same in a container which may lack quotas, and has no pods to measure."""
OWN = "10.152.183"
"""The service network; of its addresses only the first sixteen are given to nobody who has not asked for one."""
TIMES = 5
LOAD_SECONDS, LOAD_CONNECTIONS, LOADS = 10, 8, 3
ANSWER_SECONDS = 60.0
FIRST_ANSWER = """\
import sys, time, urllib.request
url, host, seconds = sys.argv[1:]
end = time.time() + float(seconds)
print("asking", flush=True)
while time.time() < end:
    try:
        request = urllib.request.Request(url, headers={"Host": host} if host else {})
        urllib.request.urlopen(request, timeout=0.5).read()
    except OSError:
        time.sleep(0.02)
    else:
        print(time.time())
        break
"""
"""Asks until there is a good answer, and says when that was: nodes in containers have the host's clock."""
PROCESSOR = """\
import os, pathlib, subprocess, sys
def ticks(number):
    folder = pathlib.Path("/proc", str(number))
    own = (folder / "stat").read_text().rpartition(")")[2].split()
    children = (each for task in folder.glob("task/*/children") for each in task.read_text().split())
    return int(own[11]) + int(own[12]) + sum(map(ticks, children))
for unit in sys.argv[1:]:
    shown = subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", unit], capture_output=True, text=True)
    print(unit, ticks(int(shown.stdout)) / os.sysconf("SC_CLK_TCK"))
"""
"""Prints the seconds of a processor that the processes of services have used; see proc_pid_stat(5)."""


def measure(tree: Tree, host: Host, settle: float) -> Features:
    """Measure them all in one container."""
    program = components.build(declaration.load("testpod")).folder / "testpod"
    with empty("dqlite", tree) as cluster, ExitStack() as stack:
        founds = {"token": JOIN_TOKEN, "bootstrap": True}
        document = {"version": 1, "role": "control-plane", "cluster": founds, "features": SETTINGS}
        node = cluster.add(CONTROL_PLANES[0], document)
        server = cluster.wires.place("server", BACKEND).namespace
        stack.enter_context(running(program, server, f"{BACKEND}:{PORT}"))
        client = ["ip", "netns", "exec", cluster.wires.place("client", CLIENT).namespace]
        node.wait_until("all features work", partial(works, node), JOINED_SECONDS)
        apply(
            node,
            policy("nobody", "nobody"),
            gateway(),
            *backend("web"),
            ingress("web", HOST_NAME, "web"),
        )
        node.wait_until("policies are enforced", partial(runs, node, "network-policy"), JOINED_SECONDS)
        idle = weigh(node, settle)
        answers = {kind: tuple(firsts) for kind, firsts in first_answers(node, client)}
        direct, through = (f"http://{each}/hostname" for each in (f"{BACKEND}:{PORT}", node.address))
        rates = [
            [rate([*client, str(program)], url, HOST_NAME) for url in (direct, through)] for _ in range(LOADS)
        ]
        straight, proxied = zip(*rates, strict=True)
        return Features(host, idle, answers, straight, proxied)


def works(node: Container) -> bool:
    """Whether all features do that can in a container."""
    status = node.status()
    found = status.features if status else {}
    return bool(found) and all(found[name].state == State.HEALTHY for name in SETTINGS if name not in LACKING)


def runs(node: Container, unit: str) -> bool:
    """Whether a service does."""
    return node.run(["systemctl", "is-active", unit], check=False).ok


def weigh(node: Container, settle: float) -> dict[str, Idle]:
    """Return what each service uses of memory and of a processor while nobody asks it anything."""
    rest(node, settle)
    begun, before = time.monotonic(), processor(node)
    rest(node, settle)
    seconds, after = time.monotonic() - begun, processor(node)
    services = memory.measure(node).services
    return {unit: Idle(services[unit].pss, (after[unit] - before[unit]) / seconds) for unit in UNITS}


def processor(node: Container) -> dict[str, float]:
    """Return the seconds of a processor that each service has used so far."""
    lines = node.run(["python3", "-c", PROCESSOR, *UNITS]).stdout.splitlines()
    return {unit: float(seconds) for unit, seconds in map(str.split, lines)}


def first_answers(node: Container, client: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    """Return for each kind of object the seconds from `kubectl apply` to the first good answer."""
    there = f"http://{node.address}/hostname"
    services = [(f"service-{number}", f"{OWN}.{11 + number}") for number in range(TIMES)]
    yield (
        "Service",
        [
            first_answer(node, node.beside, f"http://{own}/hostname", "", *backend(name, clusterIP=own))
            for name, own in services
        ],
    )
    # The first address has the Service of Ingress and Gateway.
    balanced = [(f"balanced-{number}", address(201 + number)) for number in range(TIMES)]
    wanted = {"type": "LoadBalancer"}
    yield (
        "LoadBalancer",
        [
            first_answer(
                node,
                client,
                f"http://{own}/hostname",
                "",
                *backend(name, loadBalancerIP=own, **wanted),
            )
            for name, own in balanced
        ],
    )
    for kind, made in (("Ingress", ingress), ("HTTPRoute", http_route)):
        hosts = [
            (f"{kind.lower()}-{number}", f"{number}.{kind.lower()}.example.org") for number in range(TIMES)
        ]
        yield kind, [first_answer(node, client, there, host, made(name, host, "web")) for name, host in hosts]


def first_answer(node: Container, enter: Sequence[str], url: str, host: str, *objects: Object) -> float:
    """Apply objects and return after how many seconds a URL had its first good answer."""
    asking = [*enter, sys.executable, "-c", FIRST_ANSWER, url, host, str(ANSWER_SECONDS)]
    with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.time()
        apply(node, *objects)
        answered = process.stdout.readline()
    if not answered:
        raise NodeFailed(f"{url} ({host}) has no good answer within {ANSWER_SECONDS:g} s\n{node.report()}")
    return round(float(answered) - begun, 2)


def rate(program: Sequence[str], url: str, host: str) -> Load:
    """Ask for a URL over several connections for a while."""
    argv = [*program, "load", url, host, str(LOAD_SECONDS), str(LOAD_CONNECTIONS)]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=LOAD_SECONDS + 60)
    said = json.loads(done.stdout)
    if said["failed"]:
        raise NodeFailed(f"{said['failed']} requests for {url} failed")
    return Load(said["count"] / said["seconds"], said["p50"], said["p99"])


def apply(node: Container, *objects: Object) -> None:
    """Apply objects."""
    node.kubectl("apply", "-f", "-", stdin=text(*objects))


def backend(name: str, **spec: Any) -> tuple[Object, Object]:
    """Return a Service and its endpoint: the server on the node's network."""
    return service(name, target=PORT, **spec), endpoints(name, [BACKEND], PORT)
