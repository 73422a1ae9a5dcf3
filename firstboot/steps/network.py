# SPDX-License-Identifier: Apache-2.0
"""The runtime's network configuration, made from what flannel found out at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstboot import files
from firstboot.features.network import cni_config
from firstboot.files import File
from firstboot.paths import CNI_CONFIG, FLANNEL_SUBNET
from firstboot.steps.model import Finding, Machine


@dataclass(frozen=True)
class CniConfig:
    """The configuration agrees with the pod network that flannel wrote."""

    name: str = "cni"
    needs: tuple[str, ...] = ("unit:flanneld",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Compare; without a pod network there is nothing to compare with yet."""
        wanted = _wanted()
        if wanted is None:
            return Finding(str(FLANNEL_SUBNET), "wait", "no pod network assigned to the node yet")
        return None if files.is_so(wanted) else Finding(str(CNI_CONFIG), "write", "differs or is missing")

    async def apply(self, machine: Machine) -> None:
        """Write it; the runtime watches the folder."""
        if wanted := _wanted():
            files.write_all([wanted])


def _wanted() -> File | None:
    text = files.read_or_none(FLANNEL_SUBNET)
    return cni_config(text.decode()) if text else None
