# SPDX-License-Identifier: Apache-2.0
"""From an image and a document to a Ready node, in a network that is closed to the outside."""

from __future__ import annotations

import json
import re

from firstboot.report.status import Phase, State
from image.vm.status import get
from tests.node import DATASTORE_UNITS

from . import pods, states
from .machine import STATUS_PORT, Machine

OURS = (
    "basalt",
    "containerd",
    "coredns",
    "etcd",
    "flanneld",
    "k8s-dqlite",
    "kube-",
    "kubelet",
    "cloud-",
)
"""Beginnings of the names of units that this project answers for."""


def test_clean_boot(shared_each: Machine) -> None:
    machine = shared_each
    assert machine.failed_units() == []
    assert machine.run("systemctl is-system-running", check=False).stdout.strip() == "running"
    lines = machine.run("journalctl -b -p warning -o json --no-pager").stdout.splitlines()
    warnings = [
        f"{entry.get('UNIT') or entry.get('_SYSTEMD_UNIT')}: {entry.get('MESSAGE')}"
        for entry in map(json.loads, lines)
        if str(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT", "")).startswith(OURS)
    ]
    assert warnings == []
    assert machine.run("cloud-init status --long", check=False).code == 0


def output_of(machine: Machine, name: str, *arguments: str) -> str:
    """Run a pod to its end and return what it wrote, by way of the kubelet's logs."""
    manifest = {"apiVersion": "v1", "kind": "Pod", **pods.template(name)}
    manifest["spec"]["restartPolicy"] = "Never"
    manifest["spec"]["containers"][0]["args"] = list(arguments)
    machine.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    ended, seconds = "--for=jsonpath={.status.phase}=Succeeded", pods.POD_SECONDS
    machine.kubectl("wait", ended, f"pod/{name}", f"--timeout={seconds}s", timeout=seconds + 30)
    return machine.kubectl("logs", name).stdout


def test_ready_with_a_pod_that_resolves_names_and_reaches_the_api(shared_each: Machine) -> None:
    machine = shared_each
    for name in ("kubernetes.default.svc.cluster.local", "kubernetes.default", "kubernetes"):
        assert pods.ask(machine, "dns", name)["addresses"] == [states.API_SERVICE]
    answer = pods.ask(machine, "fetch", "-cluster", "https://kubernetes.default.svc/version")
    assert (answer["status"], json.loads(answer["body"])["major"]) == (200, "1")
    assert json.loads(output_of(machine, "once", "dns", "kubernetes"))["addresses"] == [states.API_SERVICE]
    assert machine.resolve("kubernetes.default.svc.cluster.local") == states.API_SERVICE
    [address] = pods.addresses(machine)
    fetched = machine.run(
        f"python3 -c \"import urllib.request as u; print(u.urlopen('http://{address}:8080/hostname').read())\""
    )
    assert "probe" in fetched.stdout


def test_status_tells_the_same_over_every_door(shared_each: Machine) -> None:
    machine = shared_each
    status = machine.status()
    assert status and status.phase is Phase.READY and not status.failures
    assert all(part.state in (State.HEALTHY, State.OFF) for part in status.components.values())
    assert status.features["dns"].state is State.HEALTHY
    assert status.features["network"].state is State.HEALTHY
    port = machine.port(STATUS_PORT)
    codes = {path: (get(port, path) or (0, b""))[0] for path in ("/", "/healthz", "/readyz", "/metrics")}
    assert codes == {"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200}
    assert status.document.origin and "cloud-init" in status.document.origin
    told = json.loads(machine.run("basalt status --json").stdout)
    assert (told["phase"], told["node"]) == ("ready", status.to_dict()["node"])
    [node] = machine.get("nodes")["items"]
    assert node["metadata"]["name"] == status.node.name == "node-1"


def test_what_starts_collects_little_of_its_garbage(shared_machine: Machine) -> None:
    asked = "systemd-run --quiet --pipe --wait -p Environment=GODEBUG=gctrace=1 kube-scheduler --version"
    told = shared_machine.run(asked)
    assert "Kubernetes v" in told.stdout
    assert len(re.findall("^gc ", told.stdout + told.stderr, re.MULTILINE)) < 5, "eleven without"


def test_the_nodes_own_programs_may_wake_late_and_pods_may_not(shared_each: Machine, datastore: str) -> None:
    """The default of the kernel, which pods have, is 50 microseconds."""
    machine = shared_each

    def late(processes: str) -> set[int]:
        """Return by how many nanoseconds late the kernel may wake each of the processes that a command names."""
        told = machine.run(f"for process in $({processes}); do cat /proc/$process/timerslack_ns; done").stdout
        return set(map(int, told.split()))

    own = ("kube-apiserver", "kube-controller-manager", "kubelet", "coredns", "flanneld", "basalt")
    for unit in (*own, DATASTORE_UNITS[datastore]):
        assert late(f"systemctl show --property=MainPID --value {unit}") == {4_000_000}, unit
    assert late("find /sys/fs/cgroup/kubepods.slice -name cgroup.procs -exec cat {} +") == {50_000}


def test_ready_without_a_way_out(shared_each: Machine) -> None:
    """QEMU's closed network hands out no default route, and the machine with etcd was not even given an address."""
    machine = shared_each
    assert machine.run("ip -json route show default").stdout.strip() == "[]"
    assert machine.run("ip -json address show").stdout.count("10.0.2.15") == 1
    # From the node itself, too, there is a way to Services.
    assert machine.kubectl(f"--server=https://{states.API_SERVICE}", "get", "--raw", "/livez").stdout == "ok"


def test_nobody_can_log_in(shared_each: Machine) -> None:
    machine = shared_each
    shadow = machine.run("getent shadow").stdout.splitlines()
    assert all(line.split(":")[1].startswith(("!", "*")) for line in shadow)
    assert machine.run("systemctl list-units --plain --no-legend '*getty*' 'ssh*'").stdout == ""
    assert machine.run("touch /usr/x", check=False).code != 0
