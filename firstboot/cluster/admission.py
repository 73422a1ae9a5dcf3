# SPDX-License-Identifier: Apache-2.0
"""The side of the control plane: it proves who it is, judges a machine that wants in, and signs for it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Protocol

from firstboot import files
from firstboot.cluster import credentials, records, settings
from firstboot.cluster.messages import (
    AUTHORITY,
    Heard,
    Hello,
    Introduction,
    Key,
    Malformed,
    Partner,
    Renewal,
    Renewed,
    Request,
    Standing,
    Verdict,
    Wanted,
    Welcome,
)
from firstboot.cluster.records import Machine, TokenRecord
from firstboot.cluster.rotation import ROTATION_ID
from firstboot.cluster.tokens import BadToken, Token, fingerprint, same
from firstboot.codes import Code
from firstboot.config import Config, Role
from firstboot.failure import DocumentError, Failure
from firstboot.kube import Client
from firstboot.pki import ca, handover, keys, overlap, requests
from firstboot.pki.ca import Authority
from firstboot.pki.catalogue import Catalogue, catalogue, service_names
from firstboot.services import virtualaddress
from firstboot.services.model import Node
from firstboot.values import parse_ip

log = logging.getLogger(__name__)

REMEMBERED = 600.0
"""Seconds for which a refusal is shown in the status of the control plane."""
MOST_REMEMBERED = 5
OLDEST = 3
"""Minor versions of Kubernetes by which a kubelet may be behind its API server; none by which it may be ahead."""
ONE_TIME_ID = re.compile(r"[0-9a-f]{10}")
AGENT = "agent"
"""The certificate whose key a machine is known by."""

TOKEN_PATH = "basalt.cluster.token"
NEW_TOKEN = "Get a new one with `basalt get-join-token` on a control plane."


class Datastore(Protocol):
    """The datastore's side of letting in another control plane."""

    async def ready_for(self, machine: Machine) -> str | None:
        """Get ready for another member; return what is still to be waited for."""
        ...

    async def admit(self, machine: Machine) -> list[str]:
        """Make the machine a member that may start; return the members as it has to be told them."""
        ...


@dataclass
class Admission:
    """One control plane's gate.

    node:         what this node is
    addresses:    all that this machine has
    certificates: those of this node, its authorities among them
    serves:       whether the node has been ready, and its datastore and API server work now
    kubernetes:   version in this image
    find_anew:    has this node look for the cluster's control planes at once
    """

    client: Client
    node: Callable[[], Node]
    addresses: Callable[[], tuple[str, ...]]
    certificates: Callable[[], Catalogue]
    datastore: Datastore
    serves: Callable[[], bool]
    kubernetes: Callable[[], str | None]
    find_anew: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _refused: deque[tuple[float, Failure]] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))

    @property
    def refusals(self) -> tuple[Failure, ...]:
        """Whom this control plane has refused lately, for its status."""
        now = self.clock()
        return tuple(failure for when, failure in self._refused if now - when < REMEMBERED)

    async def introduce(self, hello: Hello, peer: str) -> Introduction:
        """Prove to a stranger that this is the cluster of his token. Raises DocumentError."""
        try:
            nonce = bytes.fromhex(hello.nonce)
        except ValueError:
            raise Malformed("the nonce is not hexadecimal") from None
        if not 16 <= len(nonce) <= 64:
            raise Malformed("the nonce has not 16 to 64 bytes")
        record = await self._record(hello.token, peer)
        pem, der = await asyncio.to_thread(self._certificate)
        if record.token.pin is not None and not same(record.token.pin, fingerprint(der)):
            found = "the token is from before the cluster's CA was replaced"
            raise self._refusal(peer, Code.TOKEN_EXPIRED, TOKEN_PATH, found, NEW_TOKEN)
        now = int(self.wall())
        return Introduction(pem, now, record.token.proof(nonce, der, now))

    async def admit(self, request: Request, peer: str) -> Welcome:
        """Let a machine in, or say why not. Raises DocumentError."""
        record = await self._record(request.token, peer)
        who = f"{request.name[:63]} ({peer})"
        if not same(record.token.secret, request.secret):
            raise self._refusal(who, Code.TOKEN_UNKNOWN, TOKEN_PATH, "its secret is another one", NEW_TOKEN)
        machine = self._judged(request, record, who)
        if failure := await self._taken(machine):
            raise self._refuse(who, failure)
        partner = machine.role == Role.CONTROL_PLANE
        if not self.serves():
            # What nodes may do is not in the cluster yet, and the datastore must not move while it is written.
            raise _waits("the control plane is starting")
        if partner and (reason := await self.datastore.ready_for(machine)):
            raise _waits(reason)
        if (
            not record.token.shared
            and not record.used_by
            and not await records.use_token(self.client, record, machine)
        ):
            # Somebody else was quicker with it, maybe the same machine in an attempt whose answer was lost.
            return await self.admit(request, peer)
        if not await records.claim(self.client, machine):
            raise self._refuse(who, _name_taken(machine.name))
        welcome = Welcome(
            certificates={} if partner else await asyncio.to_thread(self._given, machine, request.requests),
            settings=settings.of(self.node().config),
            control_planes=await self._control_planes(),
            peers=await self.datastore.admit(machine) if partner else [],
            secrets=await asyncio.to_thread(self._secrets) if partner else {},
        )
        log.info("%s joins as %s", who, machine.role)
        return welcome

    async def renew(self, name: str, renewal: Renewal) -> Renewed:
        """Sign anew for a machine that is still one of the cluster's. Raises DocumentError."""
        machine = await records.find_machine(self.client, name)
        if machine is None or machine.fingerprint != _fingerprint(renewal.requests):
            raise DocumentError(
                [
                    Failure(
                        Code.JOIN_REFUSED,
                        "",
                        f"{name} is no machine of this cluster",
                        "Reset it and join again.",
                    )
                ]
            )
        return Renewed(await asyncio.to_thread(self._sign, machine, renewal.requests))

    async def judge(self, standing: Standing, peer: str) -> Verdict:
        """Tell another control plane whether the cluster was recovered without it. Raises BasaltError."""
        since = await asyncio.to_thread(self._succeeded, standing.authority)
        if since is None:
            return Verdict("")
        told = f"{standing.name[:63]} ({peer}) runs, and the cluster was recovered without it"
        remedy = "It has been told, and stops. Reset it: `basalt reset --yes` on it."
        self._note(Failure(Code.LEFT_BEHIND, standing.name[:63], told, remedy))
        return Verdict(f"{since:%Y-%m-%dT%H:%M:%SZ}")

    async def hand_over(self, wanted: Wanted, peer: str) -> Key:
        """Give another control plane a key of the cluster's CA that this one has. Raises BasaltError."""
        if not ROTATION_ID.fullmatch(wanted.rotation):
            raise Malformed("no rotation has such a name")
        key = await asyncio.to_thread(overlap.key_of, self.authority, wanted.public, wanted.rotation)
        if key is not None:
            log.info("%s is given the key of the cluster's CA of rotation %s", peer, wanted.rotation)
        return Key("" if key is None else key.decode())

    async def hear(self, partner: Partner) -> Heard:
        """Tell another control plane whether it is told who carries the API's address; one that is not soon will be."""
        told = await asyncio.to_thread(virtualaddress.tells, self.node(), partner.ip)
        if not told:
            self.find_anew()
        return Heard(told)

    def _succeeded(self, theirs: str) -> datetime | None:
        """Return since when the datastore's authority has had the place of another one, None where it has not."""
        kind = self.node().config.datastore.type
        if not kind.is_ours:
            return None
        datastore = self.certificates().authority(f"{kind}/ca")
        ours = files.read_or_none(datastore.certificate)
        try:
            return None if ours is None else ca.succeeded(theirs.encode(), ours)
        except keys.Unreadable as error:
            raise Malformed(f"the authority {error}") from None

    async def new_token(self, role: Role | None, lifetime: int) -> TokenRecord:
        """Make a one-time token and remember it; lifetime in seconds. Raises KubeError."""
        _, der = await asyncio.to_thread(self._certificate)
        expires = int(self.wall()) + lifetime
        record = TokenRecord(Token.new(der), role.value if role else "", expires)
        await records.add_token(self.client, record)
        return record

    async def _record(self, identifier: str, peer: str) -> TokenRecord:
        """Return the token of that id. Raises DocumentError when there is none or its time is over."""
        own = _shared(self.node().config)
        if own is not None and own.id == identifier:
            return TokenRecord(own)
        found = (
            await records.find_token(self.client, identifier) if ONE_TIME_ID.fullmatch(identifier) else None
        )
        if found is None:
            raise self._refusal(
                peer, Code.TOKEN_UNKNOWN, TOKEN_PATH, "the cluster does not know this token", NEW_TOKEN
            )
        if found.expired and not found.used_by:
            raise self._refusal(
                peer, Code.TOKEN_EXPIRED, TOKEN_PATH, "the token's lifetime is over", NEW_TOKEN
            )
        return found

    def _judged(self, request: Request, record: TokenRecord, who: str) -> Machine:
        """Return the machine if token, role, version and names go together. Raises DocumentError."""
        fingerprint = _fingerprint(request.requests)
        if record.used_by and record.used_by != fingerprint:
            found = f"the token has been used by {record.used_name}"
            raise self._refusal(who, Code.TOKEN_USED, TOKEN_PATH, found, NEW_TOKEN)
        if record.role and record.role != request.role:
            found = f"the token is for a {record.role}, and this is a {request.role}"
            raise self._refusal(
                who, Code.TOKEN_ROLE, TOKEN_PATH, found, "Get one for this role, or change `role`."
            )
        if failure := version_failure(request.kubernetes, self.kubernetes()):
            raise self._refuse(who, failure)
        if request.role not in tuple(Role) or not records.NODE_NAME.fullmatch(request.name):
            raise Malformed("role or name is none that a joining node can have")
        if parse_ip(request.ip) is None:
            raise Malformed("the address is none")
        return Machine(request.name, request.role, request.ip, fingerprint)

    async def _taken(self, machine: Machine) -> Failure | None:
        """Return why name or address cannot be had; a machine that asks again has what it was given."""
        if failure := self._reserved(machine):
            return failure
        known = await records.machines(self.client)
        nodes = (await self.client.get("/api/v1/nodes"))["items"]
        if any(each.fingerprint == machine.fingerprint and each.name == machine.name for each in known):
            return None
        if machine.name in {each.name for each in known} | {node["metadata"]["name"] for node in nodes}:
            return _name_taken(machine.name)
        owners = {each.ip: each.name for each in known}
        for node in nodes:
            for address in node.get("status", {}).get("addresses", ()):
                owners.setdefault(address["address"], node["metadata"]["name"])
        if owner := owners.get(machine.ip):
            return Failure(
                Code.ADDRESS_TAKEN,
                "basalt.node.ip",
                f"{machine.ip} is the address of {owner}",
                f"Give the machine another address, or remove {owner} first if it is gone for good.",
            )
        return None

    def _reserved(self, machine: Machine) -> Failure | None:
        """Return why nobody may have the name or address: a certificate for it would be one for the API."""
        config = self.node().config
        api = config.cluster.api_hosts
        if machine.name in (*service_names(config), "localhost", *api):
            found, remedy = f"{machine.name} is a name of the API itself", "Give the machine another name."
            return Failure(Code.NAME_TAKEN, "basalt.node.name", found, remedy)
        address = ip_address(machine.ip)
        networks = (*config.cluster.service_networks, *config.cluster.pod_networks)
        inside = any(address in ip_network(each) for each in networks)
        if inside or machine.ip in (*self.addresses(), *api) or address.is_loopback or address.is_unspecified:
            remedy = "Give the machine an address of its own."
            return Failure(
                Code.ADDRESS_TAKEN, "basalt.node.ip", f"{machine.ip} is an address of the cluster", remedy
            )
        return None

    def _secrets(self) -> dict[str, str]:
        return {**handover.give(self.certificates()), **credentials.give(self.node().config)}

    def _sign(self, machine: Machine, signing: dict[str, str]) -> dict[str, str]:
        config = replace(self.node().config, role=Role(machine.role))
        described = catalogue(config, machine.name, [machine.ip], self.authority.certificate.parent.parent)
        wanted = [spec for spec in described.certificates if spec.name in signing]
        return requests.sign(wanted, signing)

    def _given(self, machine: Machine, signing: dict[str, str]) -> dict[str, str]:
        """Return what a worker begins with: its certificates and the cluster's CA with all above it."""
        authority = (files.read_or_none(self.authority.certificate) or b"").decode()
        return {AUTHORITY: authority, **self._sign(machine, signing)}

    async def _control_planes(self) -> list[str]:
        """Return the addresses of all control planes, this one first."""
        others = [each.ip for each in await records.machines(self.client) if each.role == Role.CONTROL_PLANE]
        return list(dict.fromkeys([self.node().ip, *others]))

    @property
    def authority(self) -> Authority:
        """The cluster's CA."""
        return self.certificates().authority("ca")

    def _certificate(self) -> tuple[str, bytes]:
        """Return the cluster's CA certificate as PEM and as DER."""
        from cryptography.hazmat.primitives.serialization import Encoding

        pem = files.read_or_none(self.authority.certificate)
        if pem is None:
            raise Malformed("there is no CA yet", "Ask again when the control plane is ready.")
        first = keys.read_certificates(pem)[0]
        return keys.certificate_pem(first).decode(), first.public_bytes(Encoding.DER)

    def _refusal(self, who: str, code: Code, path: str, found: str, remedy: str) -> DocumentError:
        return self._refuse(who, Failure(code, path, found, remedy))

    def _refuse(self, who: str, failure: Failure) -> DocumentError:
        """Return the error for the machine, having noted it for the people on this side."""
        log.warning("%s may not join: %s", who, failure)
        told = f"{who} may not join: {failure.found}"
        noted = Failure(Code.JOIN_REFUSED, who, told, f"On that machine: {failure.remedy}")
        self._note(noted)
        return DocumentError([failure])

    def _note(self, noted: Failure) -> None:
        kept = [(when, each) for when, each in self._refused if each != noted]
        self._refused = deque([*kept, (self.clock(), noted)], maxlen=MOST_REMEMBERED)


def version_failure(theirs: str, ours: str | None) -> Failure | None:
    """Return why a node of that version of Kubernetes cannot join an API server of ours."""
    node, server = minor(theirs), minor(ours or "")
    if node is None or server is None or server - OLDEST <= node <= server:
        return None
    side = "newer than" if node > server else f"more than {OLDEST} minor versions behind"
    return Failure(
        Code.VERSION_APART,
        "image",
        f"Kubernetes {theirs} is {side} the cluster's {ours}",
        "Flash the image of the cluster's version." if node > server else "Flash a newer image.",
    )


def minor(version: str) -> int | None:
    """Return the minor version of a version of Kubernetes, None for what is none."""
    match = re.match(r"v?1\.(\d+)\.", version)
    return int(match[1]) if match else None


def _shared(config: Config) -> Token | None:
    """Return the token of the control plane's own document, if it is one for many machines."""
    if config.cluster.token is None:
        return None
    try:
        token = Token.parse(config.cluster.token)
    except BadToken:
        return None
    return token if token.shared else None


def _fingerprint(signing: dict[str, str]) -> str:
    """Return by what a machine is known again: the digest of its agent's public key."""
    return hashlib.sha256(keys.public_pem(requests.public_key(AGENT, signing.get(AGENT)))).hexdigest()


def _waits(reason: str) -> DocumentError:
    remedy = "Nothing: it goes on by itself in some seconds."
    return DocumentError([Failure(Code.JOIN_WAITS, "basalt.cluster", reason, remedy)])


def _name_taken(name: str) -> Failure:
    return Failure(
        Code.NAME_TAKEN,
        "basalt.node.name",
        f"the cluster has a node {name}",
        "Give the machine another name, or remove that node first if it is gone for good: "
        f"`kubectl delete node {name}`, `kubectl -n kube-system delete configmap basalt-machine-{name}`.",
    )
