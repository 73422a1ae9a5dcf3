# SPDX-License-Identifier: Apache-2.0
"""Pods under policies: forbidden, allowed by a selector, an old connection cut; test_workers.py cuts the power."""

from __future__ import annotations

import shlex
from functools import partial

from firstboot.report.status import Phase
from tests.objects import policy

from . import pods, states
from .machine import Machine
from .objects import create

NOTICED_SECONDS = 120.0
"""Until the first policy is enforced: a round of the agent, and a Python program that starts."""
FOLLOWED_SECONDS = 60.0
"""Until a change is enforced by a service that runs."""
RESENT_SECONDS = 240.0
"""Until TCP tries again what has not arrived for some minutes."""
LIMIT_MIB = 64
"""Of memory, for the service."""
COUNTED = "/run/answers"
ASKING = """
import socket, sys, time
asked = socket.create_connection((sys.argv[1], 8080), 30)
asked.settimeout(None)
number = 0
while True:
    asked.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: probe\\r\\n\\r\\n")
    answer = b""
    while not answer.endswith(b"ok\\n"):
        piece = asked.recv(4096)
        if not piece:
            sys.exit("the connection was closed")
        answer += piece
    number += 1
    open(sys.argv[2], "w").write(str(number))
    time.sleep(0.2)
"""
"""Asks again and again over one connection, and counts the answers."""


def test_policies_decide_who_reaches_a_pod(ready_machine: Machine) -> None:
    machine = ready_machine
    pods.start(machine, "other")
    [probe] = pods.addresses(machine, "probe")
    assert reaches(machine, probe), "there are no policies"
    assert not machine.run("systemctl is-active network-policy", check=False).ok
    ask_for_ever(machine, "other", probe)

    create(machine, policy("deny", "probe"))
    machine.wait_until("it is forbidden", lambda: not reaches(machine, probe), NOTICED_SECONDS)
    counted = answers(machine)
    # The kubelet's probes come from the node.
    assert reaches_from_node(machine, probe)
    assert answers(machine) == counted, "the old connection goes on"
    used = int(machine.run("systemctl show -p MemoryCurrent --value network-policy").stdout) >> 20
    print(f"network-policy.service uses {used} MiB")
    assert used < LIMIT_MIB

    create(machine, policy("allow", "probe", [{"podSelector": {"matchLabels": {"app": "other"}}}]))
    machine.wait_until("it is allowed", lambda: reaches(machine, probe), FOLLOWED_SECONDS)
    machine.wait_until("so is the old connection", lambda: answers(machine) > counted, RESENT_SECONDS)
    machine.kubectl("expose", "deployment", "probe", "--port=80", "--target-port=8080")
    machine.wait_until("so is the Service", lambda: reaches(machine, "probe", 80), FOLLOWED_SECONDS)
    machine.run("systemctl stop asking")

    machine.kubectl("delete", "networkpolicy", "allow")
    machine.wait_until("it is forbidden", lambda: not reaches(machine, probe), FOLLOWED_SECONDS)
    machine.kubectl("delete", "networkpolicy", "deny")
    machine.wait_until("nothing is left", partial(is_gone, machine), NOTICED_SECONDS)
    assert reaches(machine, probe)
    machine.wait_for_phase(Phase.READY)
    states.check_furniture(machine)
    assert machine.failed_units() == []


def reaches(machine: Machine, host: str, port: int = 8080) -> bool:
    """Whether the pod `other` gets an answer, over a new connection."""
    url = f"http://{host}:{port}/healthz"
    arguments = ("exec", "deployment/other", "--", "/testpod", "fetch", url)
    return machine.kubectl(*arguments, check=False).ok


def reaches_from_node(machine: Machine, host: str) -> bool:
    """Whether the node itself gets an answer."""
    asking = f"import urllib.request as r; r.urlopen('http://{host}:8080/healthz', timeout=20)"
    return machine.run(["python3", "-c", asking], check=False).ok


def ask_for_ever(machine: Machine, name: str, target: str) -> None:
    """Have a program of the node ask from a pod's network over one connection."""
    [pod] = machine.get("pods", "-l", f"app={name}")["items"]
    machine.write("/run/asking.py", ASKING)
    command = [*pods.network(machine, pod), "python3", "/run/asking.py", target, COUNTED]
    machine.run(f"systemd-run --unit=asking {shlex.join(command)}")
    machine.wait_until("it is answered", lambda: answers(machine) > 0, FOLLOWED_SECONDS)


def answers(machine: Machine) -> int:
    """Return how many answers the program has got."""
    assert machine.run("systemctl show -p ActiveState --value asking").stdout.strip() == "active"
    return int(machine.run(f"cat {COUNTED}", check=False).stdout or 0)


def is_gone(machine: Machine) -> bool:
    """Whether neither the service runs, nor its table is there."""
    runs = machine.run("systemctl is-active network-policy", check=False).ok
    return not runs and not machine.run("nft list table inet network-policy", check=False).ok
