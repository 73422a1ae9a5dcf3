# SPDX-License-Identifier: Apache-2.0
"""How a cluster's control planes reach an etcd that somebody else runs: each knows it from another one.

The control plane that started the cluster has it from its document. One that joins is given it with the authorities,
and later finds in a Secret of kube-system what that document has become. Its own document, if it says something, goes
first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from firstboot.config import Config, DatastoreType, External
from firstboot.failure import BasaltError
from firstboot.kube import Client, Object

SECRET = "basalt-datastore"
PATH = f"/api/v1/namespaces/kube-system/secrets/{SECRET}"
GIVEN = "datastore/external"
"""Its name among the secrets that a control plane is given when it joins."""
KEY = "external"


def give(config: Config) -> dict[str, str]:
    """Return what a control plane that joins is given besides the authorities."""
    if config.datastore.type is not DatastoreType.EXTERNAL:
        return {}
    return {GIVEN: json.dumps(config.datastore.external.to_dict())}


def take(settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any] | None:
    """Return `datastore.external` out of what a control plane was given, None where there is no such datastore.

    settings: of the cluster
    """
    theirs = settings["datastore"]["type"] == DatastoreType.EXTERNAL
    return _read(secrets.get(GIVEN, "")) if theirs else None


def secret(external: External) -> Object:
    """Return the Secret that tells the other control planes."""
    content = json.dumps(external.to_dict()).encode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "basalt.io/datastore",
        "metadata": {"name": SECRET, "namespace": "kube-system"},
        "data": {KEY: base64.b64encode(content).decode()},
    }


async def told(client: Client) -> dict[str, Any] | None:
    """Return what the Secret tells, None where there is none yet. Raises BasaltError."""
    found = await client.get(PATH)
    if found is None:
        return None
    try:
        return _read(base64.b64decode(found["data"][KEY]).decode())
    except (ValueError, KeyError, TypeError):
        raise _unusable() from None


def _read(text: str) -> dict[str, Any]:
    """Return the section, whose values are what `External` says. Raises BasaltError, which does not repeat the text."""
    try:
        read: dict[str, Any] = json.loads(text)
        whole = External.from_dict(read).to_dict() == read and read["endpoints"]
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _unusable()
    return read


def _unusable() -> BasaltError:
    return BasaltError(
        "what another control plane tells of the external etcd cannot be used",
        "Write `datastore.external` in this node's document, too.",
    )
