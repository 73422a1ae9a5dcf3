# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects that more than one test makes, and what a test asks about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.node import Node

from . import pods
from .drives import POD_IMAGE
from .machine import Machine

SERVED_SECONDS = 300.0
"""From the switch of a feature to the first good answer, under emulation."""
ASKING = """\
import sys, urllib.request
url, times, host = sys.argv[1:]
for _ in range(int(times)):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    print(urllib.request.urlopen(request, timeout=10).read().decode().strip(), flush=True)
"""


def create(machine: Machine, *objects: dict[str, Any]) -> None:
    """Create objects."""
    machine.kubectl(
        "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )


def service(name: str, app: str, **spec: Any) -> dict[str, Any]:
    """Return a Service that gives port 80 to port 8080 of a program's pods."""
    ports = [{"port": 80, "targetPort": 8080}]
    described = {"selector": {"app": app}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": described}


def policy(name: str, app: str, allowed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a policy that isolates pods of a program from all but those allowed."""
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}
    if allowed:
        spec["ingress"] = [{"from": allowed, "ports": [{"port": 8080}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def route_to(machine: Machine, name: str, host: str) -> None:
    """Make a Gateway and a route by which a Service's pods are reached by a name, as soon as their kinds are known."""
    gateway = {"gatewayClassName": "basalt", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    rules = [{"backendRefs": [{"name": name, "port": 80}]}]
    route = {"parentRefs": [{"name": "edge"}], "hostnames": [host], "rules": rules}
    for kind, called, spec in (("Gateway", "edge", gateway), ("HTTPRoute", name, route)):
        described = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": called},
            "spec": spec,
        }
        text = json.dumps(described)
        machine.wait_until(f"{kind} is taken", partial(_is_taken, machine, text), SERVED_SECONDS)


def _is_taken(machine: Machine, text: str) -> bool:
    return machine.kubectl("apply", "-f", "-", stdin=text, check=False).ok


def claim(machine: Machine, name: str, size: str) -> None:
    """Make a claim of the default class."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    create(
        machine,
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec},
    )


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
    create(machine, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})


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
