# SPDX-License-Identifier: Apache-2.0
"""What control planes remember in the cluster itself: tokens given out, and machines let in.

A one-time token is a Secret, a machine a ConfigMap, both in kube-system. Two control planes that are asked at
the same moment agree because the API server lets only one of them create an object or replace its version.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from firstboot.cluster.tokens import Token
from firstboot.kube import Client, KubeError, Object

NAMESPACE = "/api/v1/namespaces/kube-system"
TOKEN_LABEL, MACHINE_LABEL = "basalt.io/join-token", "basalt.io/machine"
ROLE_LABEL = "node-role.kubernetes.io/control-plane"
"""What the Node object of a control plane has."""
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
"""What a node of the cluster may be called."""


@dataclass(frozen=True)
class TokenRecord:
    """A token that this cluster takes.

    role:    which it lets in; empty: any
    expires: seconds of the epoch, None for never
    used_by: fingerprint and name of the machine that has used it, empty for none
    version: of the Secret; empty for a token that is in the document
    """

    token: Token
    role: str = ""
    expires: int | None = None
    used_by: str = ""
    used_name: str = ""
    version: str = ""

    @property
    def expired(self) -> bool:
        """Whether its lifetime is over."""
        return self.expires is not None and time.time() >= self.expires


@dataclass(frozen=True)
class Machine:
    """A machine that was let in; fingerprint: of its agent's key, by which it is known again."""

    name: str
    role: str
    ip: str
    fingerprint: str


async def find_token(client: Client, identifier: str) -> TokenRecord | None:
    """Return the one-time token of that id, None where there is none. Raises KubeError."""
    found = await client.get(f"{NAMESPACE}/secrets/{_token_name(identifier)}")
    return None if found is None else _token_record(identifier, found)


async def add_token(client: Client, record: TokenRecord) -> None:
    """Remember a new one-time token; sweep away those that have expired. Raises KubeError."""
    await _sweep(client)
    await client.send("POST", f"{NAMESPACE}/secrets", _secret(record))


async def use_token(client: Client, record: TokenRecord, machine: Machine) -> bool:
    """Mark a one-time token as used by the machine; False when another was quicker. Raises KubeError."""
    used = TokenRecord(
        record.token, record.role, record.expires, machine.fingerprint, machine.name, record.version
    )
    path = f"{NAMESPACE}/secrets/{_token_name(record.token.id)}"
    return await sent(client, "PUT", path, _secret(used))


async def claim(client: Client, machine: Machine) -> bool:
    """Enter a machine under its name; False when the name belongs to another one. Raises KubeError."""
    if await sent(client, "POST", f"{NAMESPACE}/configmaps", machine_object(machine)):
        return True
    found = await find_machine(client, machine.name)
    return found is not None and found.fingerprint == machine.fingerprint


async def find_machine(client: Client, name: str) -> Machine | None:
    """Return the machine of that name, None where there is none. Raises KubeError."""
    found = await client.get(f"{NAMESPACE}/configmaps/{_machine_name(name)}")
    return None if found is None else Machine(**found["data"])


async def forget(client: Client, name: str) -> None:
    """Remove the machine of that name, if there is one: another may have its name and address. Raises KubeError."""
    await _forget(client, f"configmaps/{_machine_name(name)}")


async def machines(client: Client) -> list[Machine]:
    """Return all machines that were let in. Raises KubeError."""
    found = await client.get(f"{NAMESPACE}/configmaps?labelSelector={MACHINE_LABEL}")
    return [Machine(**item["data"]) for item in found["items"]]


def internal_addresses(node: Any) -> tuple[str, ...]:
    """Return by which addresses other machines reach the one of a Node object; none before its kubelet has said."""
    addresses = node.get("status", {}).get("addresses", ())
    return tuple(str(each["address"]) for each in addresses if each["type"] == "InternalIP")


def internal_address(node: Any) -> str | None:
    """Return the first of them: that by which the cluster's own services reach it."""
    return next(iter(internal_addresses(node)), None)


def machine_object(machine: Machine) -> Object:
    """Return the ConfigMap of a machine."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": _machine_name(machine.name),
            "namespace": "kube-system",
            "labels": {MACHINE_LABEL: ""},
        },
        "data": {
            "name": machine.name,
            "role": machine.role,
            "ip": machine.ip,
            "fingerprint": machine.fingerprint,
        },
    }


async def sent(client: Client, method: str, path: str, obj: Object) -> bool:
    """Send an object; False when there is one already, or another version of it. Raises KubeError."""
    try:
        await client.send(method, path, obj)
    except KubeError as error:
        if error.status == HTTPStatus.CONFLICT:
            return False
        raise
    return True


async def _sweep(client: Client) -> None:
    found = await client.get(f"{NAMESPACE}/secrets?labelSelector={TOKEN_LABEL}")
    for item in found["items"]:
        identifier = item["metadata"]["name"].removeprefix(_token_name(""))
        if _token_record(identifier, item).expired:
            await _forget(client, f"secrets/{item['metadata']['name']}")


async def _forget(client: Client, path: str) -> None:
    try:
        await client.send("DELETE", f"{NAMESPACE}/{path}")
    except KubeError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def _token_name(identifier: str) -> str:
    return f"basalt-join-token-{identifier}"


def _machine_name(name: str) -> str:
    return f"basalt-machine-{name}"


def _secret(record: TokenRecord) -> Object:
    content = {
        "secret": record.token.secret,
        "pin": record.token.pin,
        "role": record.role,
        "expires": record.expires,
        "used_by": record.used_by,
        "used_name": record.used_name,
    }
    metadata: dict[str, Any] = {
        "name": _token_name(record.token.id),
        "namespace": "kube-system",
        "labels": {TOKEN_LABEL: ""},
    }
    if record.version:
        metadata["resourceVersion"] = record.version
    encoded = base64.b64encode(json.dumps(content).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": TOKEN_LABEL,
        "metadata": metadata,
        "data": {"token": encoded},
    }


def _token_record(identifier: str, found: Any) -> TokenRecord:
    content = json.loads(base64.b64decode(found["data"]["token"]))
    return TokenRecord(
        Token(identifier, content["secret"], content["pin"]),
        content["role"],
        content["expires"],
        content["used_by"],
        content["used_name"],
        found["metadata"]["resourceVersion"],
    )
