# SPDX-License-Identifier: Apache-2.0
"""A pod of the test image: run, asked what it sees, looked for after a restart."""

from __future__ import annotations

import json
from typing import Any

from .drives import POD_IMAGE
from .machine import Machine

POD_SECONDS = 240
"""From kubectl to a running container under emulation, image already there."""


def manifest(name: str) -> dict[str, Any]:
    """Return a pod that serves HTTP on 8080 and survives restarts of its node."""
    container = {"name": name, "image": POD_IMAGE, "imagePullPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": 1},
    }


def start(machine: Machine, name: str = "probe") -> None:
    """Run a pod and wait until it is Ready; the image must have been imported."""
    machine.kubectl("create", "-f", "-", stdin=json.dumps(manifest(name)))
    wait_ready(machine, name)


def wait_ready(machine: Machine, name: str = "probe") -> None:
    """Wait until the pod is Ready; raises CommandFailed with what kubectl says."""
    limit = f"--timeout={POD_SECONDS}s"
    machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", limit, timeout=POD_SECONDS + 30)


def ask(machine: Machine, *question: str, name: str = "probe") -> dict[str, Any]:
    """Run the test program's `dns NAME` or `fetch [-cluster] URL` inside the pod and return its answer."""
    answer: dict[str, Any] = json.loads(machine.kubectl("exec", name, "--", "/testpod", *question).stdout)
    return answer


def sandboxes(machine: Machine, name: str = "probe") -> str:
    """Return the pod's uid, which is another one after it was made anew."""
    return str(machine.get("pod", name)["metadata"]["uid"])
