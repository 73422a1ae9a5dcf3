# SPDX-License-Identifier: Apache-2.0
"""What more than one test makes on machines, and asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.node import Node
from tests.objects import Object, described, gateway, http_route, text, volume_claim

from . import pods
from .drives import POD_IMAGE
from .machine import Machine

SERVED_SECONDS = 600.0
"""From the switch of features to the first good answer, under emulation: the Gateway API alone is a minute's work."""
ASKING = """\
import sys, urllib.request
url, times, host = sys.argv[1:]
for _ in range(int(times)):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    print(urllib.request.urlopen(request, timeout=10).read().decode().strip(), flush=True)
"""


def create(machine: Machine, *objects: Object) -> None:
    """Create objects.

    Unless told so, kubectl has the API server describe all it knows first, half a minute's work under emulation.
    """
    machine.kubectl("create", "--validate=ignore", "-f", "-", stdin=text(*objects))


def route_to(machine: Machine, name: str, host: str) -> None:
    """Make a Gateway and a route by which a Service's pods are reached by a name, as soon as their kinds are known."""
    for each in (gateway(), http_route(name, host, name)):
        machine.wait_until(
            f"{each['kind']} is taken", partial(_is_taken, machine, text(each)), SERVED_SECONDS
        )


def _is_taken(machine: Machine, described: str) -> bool:
    return machine.kubectl("apply", "--validate=ignore", "-f", "-", stdin=described, check=False).ok


def claim(machine: Machine, name: str, size: str) -> None:
    """Make a claim of the default class."""
    create(machine, volume_claim(name, size))


def mounted(machine: Machine, name: str, claim: str, *, node: str | None = None) -> None:
    """Create a deployment of one pod that has a claim's volume in /data, and is not root."""
    container = {
        "name": name,
        "image": POD_IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            **pods.placed(node),
        },
    }
    # Two at once would not share it.
    spec = {
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": {"app": name}},
        "template": template,
    }
    create(machine, described("apps/v1", "Deployment", name, spec=spec))


def write_or_read(machine: Machine, name: str, *question: str) -> dict[str, Any]:
    """Have the test program write or read in a pod; what it answers to what it cannot do is an answer, too."""
    said = machine.kubectl("exec", f"deployment/{name}", "--", "/testpod", *question, check=False)
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer


def answers(node: Node, url: str, times: int = 1, *, host: str = "", inside: Sequence[str] = ()) -> list[str]:
    """Return what a URL answers to a node, each time over a new connection; fewer where one fails.

    host:   name that is asked for
    inside: what a command begins with that runs elsewhere, see pods.network
    """
    asking = [*inside, "python3", "-c", ASKING, url, str(times), host]
    return node.run(asking, timeout=120, check=False).stdout.split()
