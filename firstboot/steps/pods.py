# SPDX-License-Identifier: Apache-2.0
"""What has to be there before a first pod can run, and would otherwise wait until the controller manager works.

That starts forty loops, which keep a small machine's two processors busy for a quarter of a minute. It finds these
things done then, and looks after them from there on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

from firstboot import files
from firstboot.kube import KubeError, Object, object_path
from firstboot.paths import PKI
from firstboot.probes import is_ready
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied

NAMESPACE = "default"


UNREADY = "node.kubernetes.io/not-ready"
"""The API server gives this taint to every node that registers."""


@dataclass(frozen=True)
class FirstPods:
    """The namespace ``default`` has its service account and the cluster's CA, without which no pod runs.

    Until then the API refuses pods, and a Ready node that does so would be a lie. The controller manager makes both for
    every namespace.
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
                # The controller manager may have been quicker.
                if error.status != HTTPStatus.CONFLICT:
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


@dataclass(frozen=True)
class Schedulable:
    """A cluster's first node takes pods as soon as it is Ready: the taint of a node that is not is removed.

    Where there are several control planes, the controller manager of another one does that at once.
    """

    node: str
    name: str = "schedulable"
    needs: tuple[str, ...] = ("node",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Compare the taint with what the kubelet says."""
        found = await self._found(machine)
        if found is None or not _marked(found):
            return None
        if not is_ready(found):
            return Finding(f"node/{self.node}", "wait", "not Ready yet")
        return Finding(f"node/{self.node}", "untaint", "is Ready, and tainted as if it were not")

    async def apply(self, machine: Machine) -> None:
        """Remove the taint from the very object that said Ready; whoever has changed it since is heeded next time."""
        found = await self._found(machine)
        if found is None or not _marked(found) or not is_ready(found):
            return
        found["spec"]["taints"] = [each for each in found["spec"]["taints"] if each["key"] != UNREADY]
        try:
            await machine.client.send("PUT", self._path, found)
        except KubeError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise

    async def _found(self, machine: Machine) -> Any:
        return await machine.client.get(self._path)

    @property
    def _path(self) -> str:
        return f"/api/v1/nodes/{self.node}"


def _marked(node: Any) -> bool:
    return any(each["key"] == UNREADY for each in node["spec"].get("taints", ()))
