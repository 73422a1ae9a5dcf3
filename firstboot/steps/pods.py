# SPDX-License-Identifier: Apache-2.0
"""What the API server and the kubelet want to see in a namespace before a pod of it can run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from firstboot import files
from firstboot.kube import KubeError, Object, object_path
from firstboot.paths import PKI
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied

NAMESPACE = "default"

EXISTS = 409
"""The API server's answer when the controller manager was quicker."""


@dataclass(frozen=True)
class FirstPods:
    """The namespace ``default`` has its service account and the cluster's CA, without which no pod runs.

    The controller manager makes both for every namespace; starting, it needs a small machine's two processors for a
    quarter of a minute before it does. Until then the API refuses pods, and a Ready node that does so would be a lie.
    """

    applied: Applied = field(compare=False, hash=False)
    authority: Path = PKI / "ca.crt"
    name: str = "first-pods"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look for what was not found lately."""
        due = [obj for obj in self._objects() if not self.applied.fresh(obj)]
        if due and await machine.client.get(f"/api/v1/namespaces/{NAMESPACE}") is None:
            return Finding(f"namespace/{NAMESPACE}", "wait", "not made by the API server yet")
        for obj in due:
            if await machine.client.get(object_path(obj)) is None:
                return Finding(object_path(obj), "create", "pods need it")
            self.applied.note(obj)
        return None

    async def apply(self, machine: Machine) -> None:
        """Make what is missing. What is there belongs to the controller manager and stays as it is."""
        for obj in self._objects():
            path, _, _ = object_path(obj).rpartition("/")
            try:
                await machine.client.send("POST", path, obj)
            except KubeError as error:
                if error.status != EXISTS:
                    raise
            self.applied.note(obj)

    def _objects(self) -> tuple[Object, Object]:
        authority = files.read_or_none(self.authority) or b""
        return (
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": NAMESPACE},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "kube-root-ca.crt", "namespace": NAMESPACE},
                "data": {"ca.crt": authority.decode()},
            },
        )
