# SPDX-License-Identifier: Apache-2.0
"""What pods use is measured, and the autoscaler acts on it."""

from __future__ import annotations

import json
from functools import partial

from firstboot.report.status import Phase

from . import pods, states
from .machine import Machine

MEASURED_SECONDS = 300.0
"""From the switch to figures of pods: a start, a certificate, and two looks at the kubelet 15 s apart."""
SCALED_SECONDS = 300.0
"""From figures to another pod that runs: the autoscaler looks every 15 s."""


def test_pods_are_measured_and_scaled(ready_machine: Machine) -> None:
    machine = ready_machine
    assert not machine.kubectl("top", "nodes", check=False).ok, "it is off"
    # It works in a cluster that nobody uses yet, too.
    machine.kubectl("scale", "deployment", "probe", "--replicas=0")
    machine.wait_until("there is no pod", lambda: not machine.get("pods")["items"], SCALED_SECONDS)
    assert (
        "features.metrics-server.enabled: false -> true" in machine.run("basalt enable metrics-server").stdout
    )
    machine.wait_until("it works", partial(machine.says_healthy, "metrics-server"), MEASURED_SECONDS)
    machine.kubectl("scale", "deployment", "probe", "--replicas=1")
    machine.wait_until("the pod is measured", partial(measures, machine, "probe"), MEASURED_SECONDS)
    assert machine.kubectl("top", "nodes", "--no-headers").stdout.split()[0] == "node-1"
    status = machine.wait_for_phase(Phase.READY)
    assert status.features["metrics-server"].state == "healthy"

    # Any program uses more than a tenth of a MiB, so there are to be as many pods as there may.
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "probe"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "probe"},
            "maxReplicas": 2,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "memory",
                        "target": {"type": "AverageValue", "averageValue": "100Ki"},
                    },
                }
            ],
        },
    }
    machine.kubectl("create", "-f", "-", stdin=json.dumps(scaler))
    machine.wait_until("there are two pods", lambda: len(pods.addresses(machine)) == 2, SCALED_SECONDS)

    refused = machine.run("basalt disable metrics-server", check=False)
    assert refused.code == 1 and "[feature-in-use]" in refused.stderr, refused
    assert "HorizontalPodAutoscaler default/probe" in refused.stderr
    machine.kubectl("delete", "horizontalpodautoscaler", "probe")
    machine.run("basalt disable metrics-server")
    machine.wait_until("it is gone", partial(is_gone, machine), MEASURED_SECONDS)
    machine.wait_for_phase(Phase.READY)
    states.check_furniture(machine)
    assert machine.failed_units() == []


def measures(machine: Machine, name: str) -> bool:
    """Whether it is known how much memory the deployment's pod uses."""
    told = machine.kubectl("top", "pods", "--no-headers", check=False)
    return told.ok and any(line.startswith(f"{name}-") for line in told.stdout.splitlines())


def is_gone(machine: Machine) -> bool:
    """Whether the service has stopped, and the API does not name it any more."""
    runs = machine.run("systemctl is-active metrics-server", check=False).ok
    return not runs and "metrics.k8s.io" not in machine.kubectl("get", "--raw", "/apis").stdout
