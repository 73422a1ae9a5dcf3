# SPDX-License-Identifier: Apache-2.0
"""The rotation of a cluster's CA as an object in it: one ConfigMap, with certificates and no key.

trust   every node believes the old and the new authority; the old one signs
sign    every node has a certificate of the new one in place of each of the old one's; both are believed
done    the old one is forgotten

A stage begins when every node has said that it is through with the one before; the last when an administrator says so,
too, since what is outside of the cluster says nothing. Each node writes the newest stage down and boots by that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Self

from firstboot.cluster.records import NAMESPACE, machines, sent
from firstboot.failure import BasaltError
from firstboot.features.model import allow, bind_group_in, role
from firstboot.kube import Client, KubeError, Object
from firstboot.pki.catalogue import NODES
from firstboot.pki.overlap import Overlap
from firstboot.record import Record
from firstboot.report.status import now

NAME = "basalt-ca-rotation"
PATH = f"{NAMESPACE}/configmaps/{NAME}"
FILE = "ca-rotation.json"
"""Name of a node's own record, beside that of its membership."""
ANNOTATION = "basalt.io/ca-rotation"
"""On a Node object: the rotation that its machine follows, and the stage that it is through with."""

ROTATION_ID = re.compile(r"[0-9a-f]{10}")
"""What a rotation is called; files are named after it."""

ACCESS: tuple[Object, ...] = (
    role(
        "basalt:ca-rotation", "kube-system", [{**allow("core", "configmaps", "get"), "resourceNames": [NAME]}]
    ),
    bind_group_in("kube-system", "basalt:ca-rotation", NODES),
)
"""What agents of workers need: this one object."""


class Stage(StrEnum):
    """How far a rotation is."""

    TRUST = "trust"
    SIGN = "sign"
    DONE = "done"

    def includes(self, other: Stage) -> bool:
        """Whether who is through with this stage is through with the other one, too."""
        order = list(Stage)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Rotation(Record):
    """One authority takes the place of another.

    id:        names it; no other rotation of the cluster has the same
    begun:     when, and since when it is in its stage (RFC 3339, UTC)
    author:    common name of the administrator's certificate, or "root"
    old, new:  certificate that signs and those above it up to the root, PEM
    voucher:   by which the old authority vouches for the key of the new one, PEM
    chainable: whether servers and clients can show the voucher, see firstboot.pki.overlap
    """

    id: str
    stage: Stage
    begun: str
    since: str
    author: str
    old: str
    new: str
    voucher: str
    chainable: bool

    REMEDY = "Remove the file: the node takes it from its cluster again."

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data, or of a ConfigMap's, where all is text."""
        names = {each.name for each in fields(cls)} - {"stage", "chainable"}
        texts = {name: str(data[name]) for name in names}
        if not ROTATION_ID.fullmatch(texts["id"]):
            raise ValueError("no rotation has such a name")
        return cls(**texts, stage=Stage(data["stage"]), chainable=data["chainable"] in (True, "true"))

    @property
    def overlap(self) -> Overlap:
        """What a node that follows it has to have."""
        shown = self.voucher if self.chainable else ""
        match self.stage:
            case Stage.TRUST:
                return Overlap(self.old, self.new, "", self.id, awaits=True)
            case Stage.SIGN:
                return Overlap(self.new, self.old, shown, self.id, awaits=False)
            case Stage.DONE:
                return Overlap(self.new, "", "", self.id, awaits=False)

    def at(self, stage: Stage) -> Rotation:
        """Return the same in another stage, from now on."""
        return replace(self, stage=stage, since=now())

    def says(self, reached: Stage) -> str:
        """Return what a node says of itself that is through with a stage."""
        return f"{self.id} {reached}"

    def reached(self, node: Any) -> Stage | None:
        """Return the stage that a Node says its machine is through with; None before it says anything about this."""
        identity, _, stage = node["metadata"].get("annotations", {}).get(ANNOTATION, "").partition(" ")
        return Stage(stage) if identity == self.id and stage in tuple(Stage) else None

    def behind(self, reached: Iterable[tuple[str, Stage | None]]) -> tuple[str, ...]:
        """Return the names of those who are not through with the present stage.

        Of one that is done, who says nothing has joined later: it knows the new authority only.
        """
        done = self.stage is Stage.DONE
        return tuple(
            name for name, stage in reached if (not done if stage is None else not stage.includes(self.stage))
        )


async def reached(client: Client, rotation: Rotation) -> list[tuple[str, Stage | None]]:
    """Return how far each machine of the cluster is, by name; also one that has joined just now. Raises KubeError."""
    nodes = (await client.get("/api/v1/nodes"))["items"]
    said = {node["metadata"]["name"]: rotation.reached(node) for node in nodes}
    joined = {each.name for each in await machines(client)}
    return sorted((name, said.get(name)) for name in {*said, *joined})


@dataclass(frozen=True)
class Found:
    """A rotation as it was read; revision: of the object, so that nobody overwrites what he has not seen."""

    rotation: Rotation
    revision: str


async def read(client: Client) -> Found | None:
    """Return the newest rotation, None where there has been none. Raises KubeError, and BasaltError if damaged."""
    found = await client.get(PATH)
    if found is None:
        return None
    try:
        return Found(Rotation.read(found["data"]), found["metadata"]["resourceVersion"])
    except (ValueError, KeyError, TypeError) as error:
        raise BasaltError(
            f"ConfigMap {NAME} in kube-system is damaged: {error!r}",
            f"Remove it (`kubectl -n kube-system delete configmap {NAME}`): what nodes have of a rotation that is "
            "under way a control plane writes again.",
        ) from None


async def create(client: Client, rotation: Rotation) -> bool:
    """Write the first one; False when there is one already. Raises KubeError."""
    return await sent(client, "POST", f"{NAMESPACE}/configmaps", _object(rotation))


async def put(client: Client, rotation: Rotation, before: Found | None) -> bool:
    """Write it in the place of one that was read, or of none; False when somebody was quicker. Raises KubeError."""
    if before is None:
        return await create(client, rotation)
    try:
        return await sent(client, "PUT", PATH, _object(rotation, before.revision))
    except KubeError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise


async def withdraw(client: Client, before: Found) -> bool:
    """Remove it, unless it has changed meanwhile: then False. Raises KubeError."""
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"resourceVersion": before.revision},
    }
    return await sent(client, "DELETE", PATH, options)


def _object(rotation: Rotation, revision: str = "") -> Object:
    metadata = {"name": NAME, "namespace": "kube-system"}
    if revision:
        metadata["resourceVersion"] = revision
    texts = {name: str(value) for name, value in asdict(rotation).items()}
    data = {**texts, "chainable": "true" if rotation.chainable else "false"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
