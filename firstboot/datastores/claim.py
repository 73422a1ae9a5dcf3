# SPDX-License-Identifier: Apache-2.0
"""Whose data somebody else's etcd has under this cluster's prefix: one key says so, written before the first object.

An API server that starts on another cluster's objects takes them for its own, and rules over pods and secrets that it
never made. So the control plane that starts a cluster claims the prefix while nothing is under it, and from then on
each control plane compares the key with its own authority, which is what makes a cluster that cluster.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from firstboot import files
from firstboot.codes import Code
from firstboot.config import External
from firstboot.datastores.external import Login, complaint, etcdctl
from firstboot.failure import BasaltError, Failure
from firstboot.pki import keys
from firstboot.record import Record

NAME = "basalt-cluster"
"""Below the prefix, where no kind of object is called so."""
PREFIX_PATH, ENDPOINTS_PATH = (
    "basalt.datastore.external.prefix",
    "basalt.datastore.external.endpoints",
)
RETRIED = "It is tried again by itself."


class Whose(Enum):
    """To whom the data under the prefix belongs."""

    OURS = "to this cluster"
    NOBODYS = "there is none"
    UNUSABLE = "somebody has to decide"


@dataclass(frozen=True)
class Data:
    """What was found; failure: why it is not usable; owner: fingerprint of the CA that claimed it, empty for none."""

    whose: Whose
    failure: Failure | None = None
    owner: str = ""


@dataclass(frozen=True)
class Claimed(Record):
    """The node's own record that the prefix was its cluster's once; authority: fingerprint of the cluster's CA."""

    authority: str

    REMEDY: ClassVar[str] = "Remove it: it is written again when the datastore has the cluster's data."


def fingerprint(authority: Path) -> str:
    """Return by what a cluster is known: the digest of its CA's public key. Raises BasaltError where there is no CA."""
    try:
        first = keys.read_certificates(files.read_or_none(authority) or b"")[0]
    except keys.Unreadable as error:
        raise BasaltError(f"{authority} {error}") from error
    return hashlib.sha256(keys.public_pem(first.public_key())).hexdigest()


def fingerprints(authority: Path, beside: Path) -> tuple[str, ...]:
    """Return by what the cluster is known while its CA is replaced: that which signs first. Raises BasaltError."""
    return tuple(
        dict.fromkeys(fingerprint(each) for each in (authority, beside) if each == authority or each.exists())
    )


async def look(external: External, login: Login, endpoints: Sequence[str], own: Sequence[str]) -> Data:
    """Return whose data there is; each of the endpoints, which have to work, is asked with a quorum's consent.

    own: fingerprints of this cluster's CAs
    """
    clusters: dict[str, str] = {}
    owner: str | None = None
    for endpoint in endpoints:
        found = await _get(login, endpoint, _key(external))
        if isinstance(found, Failure):
            return Data(Whose.UNUSABLE, found)
        clusters.setdefault(str(found["header"].get("cluster_id")), endpoint)
        owner = next((base64.b64decode(each["value"]).decode() for each in found.get("kvs", ())), None)
    if len(clusters) > 1:
        return Data(Whose.UNUSABLE, _mixed(tuple(clusters.values())))
    if owner is not None:
        authority, _, name = owner.partition(" ")
        if authority in own:
            return Data(Whose.OURS, owner=authority)
        return Data(Whose.UNUSABLE, _other(external, name))
    any_key = await _get(login, endpoints[0], f"{external.prefix}/", "--prefix", "--keys-only", "--limit=1")
    if isinstance(any_key, Failure):
        return Data(Whose.UNUSABLE, any_key)
    if any_key.get("kvs"):
        return Data(Whose.UNUSABLE, _objects(external, base64.b64decode(any_key["kvs"][0]["key"]).decode()))
    return Data(Whose.NOBODYS)


async def claim(
    external: External, login: Login, endpoints: Sequence[str], own: str, name: str, *, anew: bool = False
) -> None:
    """Write whose the prefix is, unless somebody else was quicker. Raises BasaltError.

    name: of the cluster, for people
    anew: the prefix is the cluster's already, by the CA before
    """
    key, sign = _key(external), ">" if anew else "="
    transaction = f'create("{key}") {sign} "0"\n\nput "{key}" "{own} {name}"\n\n\n'
    answer = await etcdctl(login, endpoints, "txn", input=transaction, check=False)
    if not answer.ok:
        raise BasaltError(f"the prefix {external.prefix} cannot be claimed: {complaint(answer.stderr)}")
    if not json.loads(answer.stdout).get("succeeded"):
        raise BasaltError(f"somebody else has claimed the prefix {external.prefix} just now")


def lost(external: External) -> Failure:
    """Return that a cluster's data was there and is not any more, or is elsewhere."""
    return Failure(
        Code.DATASTORE_EMPTY,
        PREFIX_PATH,
        f"nothing is stored under {external.prefix}, where this cluster's data has to be",
        "Compare endpoints and prefix with those the cluster was started with, or have its data brought back. "
        "Nothing is written until then; to begin anew, reset the node.",
    )


def _key(external: External) -> str:
    return f"{external.prefix}/{NAME}"


async def _get(login: Login, endpoint: str, *what: str) -> dict[str, Any] | Failure:
    answer = await etcdctl(login, [endpoint], "get", "--consistency=l", *what, check=False)
    if answer.ok:
        told: dict[str, Any] = json.loads(answer.stdout)
        return told
    reason = complaint(answer.stderr)
    if "permission denied" in reason or "user name is empty" in reason or "authentication failed" in reason:
        remedy = (
            "Have the client certificate's user given the rights to read and write all keys below the prefix, and "
            "the key `compact_rev_key`."
        )
        return Failure(Code.DATASTORE_REFUSES, ENDPOINTS_PATH, f"{endpoint}: {reason}", f"{remedy} {RETRIED}")
    return Failure(Code.DATASTORE_NO_QUORUM, ENDPOINTS_PATH, f"{endpoint} cannot read: {reason}", RETRIED)


def _mixed(endpoints: tuple[str, ...]) -> Failure:
    return Failure(
        Code.DATASTORE_MIXED,
        ENDPOINTS_PATH,
        f"{' and '.join(endpoints)} are members of different etcd clusters",
        "Write the endpoints of one etcd cluster only.",
    )


def _other(external: External, name: str) -> Failure:
    return Failure(
        Code.DATASTORE_FOREIGN,
        PREFIX_PATH,
        f"the data under {external.prefix} belongs to another cluster, called {name or 'nothing'}",
        "To join that cluster, write its token and endpoints and no `bootstrap`. For one of its own, write another "
        "prefix, or, if that cluster is gone for good, have its data removed: "
        f"`etcdctl del --prefix {external.prefix}/`.",
    )


def _objects(external: External, key: str) -> Failure:
    return Failure(
        Code.DATASTORE_FOREIGN,
        PREFIX_PATH,
        f"there is data under {external.prefix} that is not this cluster's, e.g. {key[:120]}",
        "Write another prefix, or, if nobody needs that data any more, have it removed: "
        f"`etcdctl del --prefix {external.prefix}/`.",
    )
