# SPDX-License-Identifier: Apache-2.0
"""What control planes do for ingress and gateway beyond plain objects: definitions of kinds, and where nodes serve."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from firstboot.features import ingress
from firstboot.kube import Object, object_path
from firstboot.loadbalancer.objects import member
from firstboot.probes import is_ready
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied

VERSION = "gateway.networking.k8s.io/bundle-version"
DEFINED_SECONDS = 90.0
"""How long the API server may take with one definition: the largest has 400 KB, and is merged field by field."""


@dataclass(frozen=True)
class Definitions:
    """Kinds that the API server learns, out of files named GROUP_PLURAL.yaml with one definition each.

    Those of a newer release, which somebody else has installed, stay. They are not removed: that would remove all
    objects of these kinds, whoever serves them.
    """

    name: str
    folder: Path
    applied: Applied = field(compare=False, hash=False)
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Look for each that was not seen lately."""
        for path in sorted(self.folder.glob("*.yaml")):
            if self.applied.fresh(_named(path)):
                continue
            found = await machine.client.get(object_path(_named(path)))
            if _lacks(found, path.read_text()):
                return Finding(object_path(_named(path)), "apply", "the API server does not know it")
            if not _established(found):
                return Finding(object_path(_named(path)), "wait", "the API server is about to learn it")
            self.applied.note(_named(path))
        return None

    async def apply(self, machine: Machine) -> None:
        """Apply those that are missing or older."""
        for path in sorted(self.folder.glob("*.yaml")):
            found = await machine.client.get(object_path(_named(path)))
            text = path.read_text()
            if _lacks(found, text):
                definition = await asyncio.to_thread(_load, text)
                await machine.client.apply(definition, seconds=DEFINED_SECONDS)


@dataclass(frozen=True)
class Published:
    """Where the nodes serve: in the endpoints of the Service, and as its addresses.

    balanced: whether a load balancer gives the Service an address of its own
    """

    applied: Applied = field(compare=False, hash=False)
    balanced: bool = False
    name: str = "ingress-addresses"
    needs: tuple[str, ...] = ("apiserver",)
    lasts: ClassVar[bool] = False

    async def check(self, machine: Machine) -> Finding | None:
        """Compare with the nodes that are ready."""
        nodes = await self._nodes(machine)
        if not self.applied.fresh(ingress.endpoints(nodes.items())):
            return Finding(ingress.PUBLISHED, "apply", "the nodes that serve are others")
        if self.balanced:
            return None
        found: Any = await machine.client.get(object_path(ingress.service()))
        if found is None:
            return Finding(ingress.PUBLISHED, "wait", "there is no Service yet")
        if _addresses(found) != _addresses(ingress.status(nodes.values())):
            return Finding(ingress.PUBLISHED, "apply", "its addresses are not those of the nodes")
        return None

    async def apply(self, machine: Machine) -> None:
        """Write both."""
        nodes = await self._nodes(machine)
        slices = ingress.endpoints(nodes.items())
        await machine.client.apply(slices)
        if not self.balanced:
            await machine.client.apply_status(ingress.status(nodes.values()))
        self.applied.note(slices)

    async def _nodes(self, machine: Machine) -> Mapping[str, str]:
        """Return name and address of each node that serves, those of the IP version of the first."""
        found: dict[str, str] = {}
        for node in (await machine.client.get("/api/v1/nodes"))["items"]:
            read = member(node)
            if read is not None and not read.excluded and is_ready(node):
                found[node["metadata"]["name"]] = read.address
        return found


def _named(path: Path) -> Object:
    group, _, plural = path.stem.rpartition("_")
    metadata = {"name": f"{plural}.{group}"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata}


def _lacks(found: Any, text: str) -> bool:
    """Whether the API server does not know a kind, or knows it as an older release than that of a file had it."""
    if found is None:
        return True
    told = f"{VERSION}: {found['metadata'].get('annotations', {}).get(VERSION, '')}"
    return _release(told) < _release(text)


def _release(text: str) -> tuple[int, ...]:
    """Return the release that a definition says it is of, e.g. (1, 6, 1); empty where it says none."""
    told = re.search(rf"{re.escape(VERSION)}: v(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, told.groups())) if told else ()


def _established(found: Any) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def _load(text: str) -> Any:
    import yaml

    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _addresses(service: Any) -> list[str]:
    told = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    return sorted(str(each.get("ip")) for each in told)
