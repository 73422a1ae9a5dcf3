# SPDX-License-Identifier: Apache-2.0
"""Pods of the test image: run, asked what they see, looked for after a restart."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from tests.node import CommandFailed

from .drives import POD_IMAGE
from .machine import Machine

POD_SECONDS = 240
"""From kubectl to a running container under emulation, image already there."""


def template(name: str) -> dict[str, Any]:
    """Return metadata and spec of a pod that serves HTTP on 8080."""
    container = {"name": name, "image": POD_IMAGE, "imagePullPolicy": "Never"}
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


def start(machine: Machine, name: str = "probe", *, node: str | None = None) -> None:
    """Run a deployment of one pod and wait until that answers; the node must have the image.

    Not a bare pod: Kubernetes counts one that an orderly shutdown ends as failed and never starts it again.
    """
    pod = template(name)
    pod["metadata"].pop("name")
    pod["spec"] |= placed(node)
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
    # Unless told so, kubectl has the API server describe all it knows first.
    machine.kubectl("create", "--validate=ignore", "-f", "-", stdin=json.dumps(deployment))
    wait_answers(machine, name)


def placed(node: str | None) -> dict[str, Any]:
    """Return what of a pod's spec has it run on a node; None: anywhere."""
    return {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}


def wait_answers(machine: Machine, name: str = "probe") -> None:
    """Wait until a command runs in the pod: its condition Ready may be one from before a restart."""
    machine.wait_until(f"{name} answers", partial(_answers, machine, name), POD_SECONDS)


def _answers(machine: Machine, name: str) -> bool:
    try:
        return machine.kubectl("exec", f"deployment/{name}", "--", "/testpod", "sleep", "0s", check=False).ok
    except CommandFailed:
        # On an emulated machine that has much to do one in some hundreds does not end.
        return False


def ask(machine: Machine, *question: str, name: str = "probe") -> dict[str, Any]:
    """Run the test program's `dns NAME` or `fetch [-cluster] URL` inside the pod and return its answer."""
    said = machine.kubectl("exec", f"deployment/{name}", "--", "/testpod", *question).stdout
    answer: dict[str, Any] = json.loads(said)
    return answer


def network(machine: Machine, pod: dict[str, Any]) -> list[str]:
    """Return what a command begins with that the pod's node is to run in its network."""
    return ["nsenter", "-t", process(machine, pod), "-n"]


def process(machine: Machine, pod: dict[str, Any]) -> str:
    """Return the number that the pod's program has on its node."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    tasks = dict(line.split()[:2] for line in machine.run("ctr -n k8s.io tasks ls").stdout.splitlines())
    return tasks[container]


def addresses(machine: Machine, name: str = "probe") -> list[str]:
    """Return the addresses of the deployment's pods that run."""
    running = "--field-selector=status.phase=Running"
    found = machine.get("pods", "-l", f"app={name}", running)["items"]
    return [pod["status"]["podIP"] for pod in found]
