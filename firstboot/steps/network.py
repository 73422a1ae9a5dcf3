# SPDX-License-Identifier: Apache-2.0
"""The node's pod networks, and the runtime's configuration made from what flannel found out about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

from firstboot import files
from firstboot.features.network import Subnet, cni_config
from firstboot.files import File
from firstboot.kube import KubeError
from firstboot.paths import CNI_CONFIG, FLANNEL_SUBNET
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class PodNetwork:
    """A cluster's first node has its first pod networks.

    The controller manager would give it the same, half a minute later on a slow machine, and without them the node is
    not Ready. Where there is another node, only the controller manager knows what is free.
    """

    node: str
    networks: tuple[str, ...]
    name: str = "pod-network"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = True

    async def check(self, machine: Machine) -> Finding | None:
        """Look whether this is the only node, and without a network."""
        nodes = (await machine.client.get("/api/v1/nodes?limit=2"))["items"]
        if not nodes:
            return Finding(f"node/{self.node}", "wait", "not registered yet")
        if [node["metadata"]["name"] for node in nodes] != [self.node] or nodes[0]["spec"].get("podCIDR"):
            return None
        first = " and ".join(self.networks)
        return Finding(f"node/{self.node}", "assign", f"has no pod network; the first is {first}")

    async def apply(self, machine: Machine) -> None:
        """Assign it, unless the controller manager was quicker."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node},
            "spec": {"podCIDR": self.networks[0], "podCIDRs": list(self.networks)},
        }
        try:
            # Under a name of its own: what a manager leaves out of a later apply is taken away, and this must stay.
            await machine.client.apply(node, manager="basalt-pod-network")
        except KubeError as error:
            # The node has got another pod network meanwhile, which may not change.
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise


@dataclass(frozen=True)
class CniConfig:
    """The configuration agrees with the pod network that flannel wrote.

    expected: what flannel will write, where that is known before; pods can then be made while flannel starts
    """

    expected: Callable[[], Subnet | None] = field(default=lambda: None, compare=False)
    name: str = "cni"
    needs: tuple[str, ...] = ()
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Compare; without a pod network there is nothing to compare with yet."""
        wanted = await asyncio.to_thread(self._wanted)
        if wanted is None:
            return Finding(str(FLANNEL_SUBNET), "wait", "no pod network assigned to the node yet")
        return None if files.is_so(wanted) else Finding(str(CNI_CONFIG), "write", "differs or is missing")

    async def apply(self, machine: Machine) -> None:
        """Write it; the runtime watches the folder."""
        if wanted := await asyncio.to_thread(self._wanted):
            files.write_all([wanted])

    def _wanted(self) -> File | None:
        if text := files.read_or_none(FLANNEL_SUBNET):
            return cni_config(Subnet.parse(text.decode()))
        # After a restart the configuration of before is there, and right whatever is expected.
        subnet = None if CNI_CONFIG.exists() else self.expected()
        return cni_config(subnet) if subnet else None
