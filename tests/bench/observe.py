# SPDX-License-Identifier: Apache-2.0
"""A cluster seen from outside, by one program for whatever runs in the machine.

Inside, nothing runs for it but the tests' channel and requests to the API. All times are taken on this host's clock and
counted from the start of the guest's kernel.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..node import ADMIN_KUBECONFIG, READY_SECONDS, NodeFailed
from ..vm.machine import KUBERNETES_PORT, Machine
from .baseline import NODE

LOOK_SECONDS = 0.2
"""Between two looks; a look costs the API server a few milliseconds."""
ANSWER_SECONDS = 5.0

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "bench"},
    "spec": {
        # Part of every image and imported while it starts, so nothing is measured but what Kubernetes does.
        "containers": [{"name": "pause", "image": "basalt.local/pause:1", "imagePullPolicy": "Never"}],
        "terminationGracePeriodSeconds": 1,
    },
}
PODS = "/api/v1/namespaces/default/pods"
ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"

# `read` with a limit, on a pipe that stays empty, is a sleep that starts no process.
KUBECONFIG = f"""exec 9<> <(:)
until [ -s {ADMIN_KUBECONFIG} ]; do read -rt 0.2 -u 9; done
cat {ADMIN_KUBECONFIG}"""


class Api:
    """The Kubernetes API of a machine over one connection that stays open."""

    def __init__(self, port: int, kubeconfig: str, host: str = "127.0.0.1") -> None:
        """Prepare; raises KeyError, TypeError or YAMLError for a file that is not complete."""
        data = yaml.safe_load(kubeconfig)
        cluster, user = data["clusters"][0]["cluster"], data["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decode(cluster["certificate-authority-data"]))
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "pair.pem"
            pair.write_text(_decode(user["client-certificate-data"]) + _decode(user["client-key-data"]))
            context.load_cert_chain(pair)
        self._connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """GET, or POST a body; code 0 while nobody answers."""
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            self._connection.request(
                "POST" if body else "GET", path, json.dumps(body) if body else None, headers
            )
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            # The next request connects anew.
            self._connection.close()
            return 0, b""

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        return self.ask(path)[0] == http.client.OK

    def get(self, path: str) -> Any:
        """Return an object as the API server has it in its cache, or None."""
        code, body = self.ask(f"{path}?resourceVersion=0")
        return json.loads(body) if code == http.client.OK else None

    def node_is_ready(self) -> bool:
        """Whether the node says so."""
        node = self.get(f"/api/v1/nodes/{NODE}")
        conditions = node["status"].get("conditions", []) if node else []
        return any((item["type"], item["status"]) == ("Ready", "True") for item in conditions)

    def pod_is_made(self) -> bool:
        """Make the pod; not before its service account is there, for a refusal takes the API server a second."""
        return self.answers(ACCOUNT) and self.ask(PODS, POD)[0] == http.client.CREATED

    def pod_is_running(self) -> bool:
        """Whether the kubelet says so."""
        pod = self.get(f"{PODS}/{POD['metadata']['name']}")  # type: ignore[index]
        return bool(pod and pod["status"].get("phase") == "Running")


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()


class KernelStart:
    """When the guest's kernel started, on this host's clock: what several looks at its uptime agree on."""

    def __init__(self) -> None:
        self._earliest, self._latest = float("-inf"), float("inf")

    def look(self, machine: Machine) -> None:
        """Read the uptime; the answer was made between question and arrival."""
        asked = time.monotonic()
        uptime = float(machine.run("cat /proc/uptime").stdout.split()[0])
        self._earliest = max(self._earliest, asked - uptime)
        self._latest = min(self._latest, time.monotonic() - uptime)

    @property
    def moment(self) -> float:
        """Seconds of time.monotonic()."""
        return (self._earliest + self._latest) / 2

    @property
    def uncertainty(self) -> float:
        """Seconds by which it may be wrong; negative when the clocks do not run equally fast."""
        return (self._latest - self._earliest) / 2


def connect(machine: Machine) -> Api:
    """Wait until there is an administrator's kubeconfig in the machine, and use it."""
    while True:
        text = machine.run(["bash", "-c", KUBECONFIG], timeout=READY_SECONDS).stdout
        try:
            return Api(machine.port(KUBERNETES_PORT), text)
        except (KeyError, TypeError, yaml.YAMLError):
            # Seen while it was being written.
            time.sleep(LOOK_SECONDS)


def follow(machine: Machine, api: Api) -> dict[str, float]:
    """Return when the API was ready, the node Ready, the pod made and running, on time.monotonic()'s clock."""
    reached = {"api ready": _wait(machine, "the API is ready", lambda: api.answers("/readyz"))}
    looks = {"node Ready": api.node_is_ready, "pod made": api.pod_is_made, "pod running": api.pod_is_running}

    def look() -> bool:
        for name, holds in looks.items():
            due = name not in reached and (name != "pod running" or "pod made" in reached)
            if due and holds():
                reached[name] = time.monotonic()
        return len(reached) > len(looks)

    _wait(machine, "the node is Ready and the pod runs", look)
    return reached


def _wait(machine: Machine, what: str, condition: Callable[[], bool]) -> float:
    end = time.monotonic() + READY_SECONDS
    while not condition():
        machine.watch()
        if time.monotonic() > end:
            raise NodeFailed(f"not within {READY_SECONDS:g} s: {what}\n{machine.report()}")
        time.sleep(LOOK_SECONDS)
    return time.monotonic()
