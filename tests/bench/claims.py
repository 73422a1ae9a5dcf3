# SPDX-License-Identifier: Apache-2.0
"""Measures what a volume adds to the start of a pod, on an emulated machine: a container's kernel has no quotas here.

Pods with and without a claim take turns on one Ready control plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from image.vm.arguments import Accelerator

from ..node import ADMIN_KUBECONFIG, READY_SECONDS
from ..objects import Object, service, text, volume_claim
from ..vm import pods
from ..vm.conftest import copy
from ..vm.machine import Machine
from .features import OWN
from .results import Start

TIMES = 3
ANSWER_SECONDS = 300.0
SIZE = "16Mi"
APPLY_AND_ASK = f"""\
import subprocess, sys, time, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
apply = ["kubectl", "--kubeconfig={ADMIN_KUBECONFIG}", "apply", "-f", "-"]
objects = sys.stdin.buffer.read()
begun = time.monotonic()
applying = subprocess.Popen(apply, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
applying.stdin.write(objects)
applying.stdin.close()
while True:
    try:
        urllib.request.urlopen(url, timeout=0.5).read()
    except OSError as error:
        if time.monotonic() > begun + seconds:
            sys.exit(f"no answer: {{error}}")
        time.sleep(0.1)
    else:
        print(time.monotonic() - begun)
        break
sys.exit(applying.wait())
"""
"""Prints how long it took from `kubectl apply` until a URL was answered."""


def measure(image: Path, accelerator: Accelerator) -> tuple[Start, ...]:
    """Measure pods in pairs; which of the two begins changes."""
    with copy("dqlite", image, accelerator) as machine:
        machine.run("basalt enable local-storage")
        machine.wait_until(
            "volumes can be made", partial(machine.says_healthy, "local-storage"), READY_SECONDS
        )
        return tuple(pair(machine, number) for number in range(TIMES))


def pair(machine: Machine, number: int) -> Start:
    """Start one pod with a claim and one without."""
    found = {}
    for claimed in (True, False) if number % 2 else (False, True):
        found[claimed] = first_answer(machine, 2 * number + claimed, claimed)
    return Start(alone=found[False], claimed=found[True])


def first_answer(machine: Machine, number: int, claimed: bool) -> float:
    """Apply a pod and return the seconds until it answered; its Service is there before it."""
    name = f"started-{number}"
    own = f"{OWN}.{4 + number}"
    machine.kubectl("apply", "-f", "-", stdin=text(service(name, name, clusterIP=own)))
    asking = ["python3", "-c", APPLY_AND_ASK, f"http://{own}/hostname", str(ANSWER_SECONDS)]
    objects = text(*pod(name, claimed))
    said = machine.run(asking, stdin=objects, timeout=ANSWER_SECONDS + 60).stdout
    machine.kubectl("delete", "--ignore-not-found", *(f"{kind}/{name}" for kind in ("service", "pod", "pvc")))
    return round(float(said), 2)


def pod(name: str, claimed: bool) -> Iterator[Object]:
    """Yield a pod, after its claim if it has one."""
    made = pods.template(name)
    if claimed:
        yield volume_claim(name, SIZE)
        made["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
        made["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    yield {"apiVersion": "v1", "kind": "Pod", **made}
