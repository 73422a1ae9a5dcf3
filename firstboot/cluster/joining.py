# SPDX-License-Identifier: Apache-2.0
"""The side of the machine that wants in: it finds a control plane that proves itself, and asks for certificates.

An attempt that fails leaves nothing behind but the machine's own keys, by which it is known again when it
tries once more: certificates and the record of membership are written when everything is there.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from firstboot import files
from firstboot.client import Client, Endpoint, Unreachable, split_url
from firstboot.clocks import TOLERANCE, apart
from firstboot.cluster import credentials
from firstboot.cluster.membership import Membership
from firstboot.cluster.messages import (
    AUTHORITY,
    CA_KEY,
    CERTIFICATES,
    FENCE,
    HELLO,
    JOIN,
    PARTNER,
    PORT,
    Heard,
    Hello,
    Introduction,
    Key,
    Message,
    Partner,
    Renewal,
    Renewed,
    Standing,
    Verdict,
    Wanted,
    Welcome,
)
from firstboot.cluster.messages import Request as JoinRequest
from firstboot.cluster.tokens import BadToken, Token, fingerprint, same
from firstboot.codes import Code
from firstboot.config import Config, Datastore
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.files import File
from firstboot.pki import handover, keys, requests, trusted
from firstboot.pki.catalogue import CONTROL_PLANE_API, Catalogue
from firstboot.pki.leaf import CertificateSpec
from firstboot.services.model import Node
from firstboot.values import split_port

SECONDS = 20.0
"""How long a control plane may take to answer a connection; one that is starting is slow."""
TOKEN_PATH, ENDPOINTS_PATH = "basalt.cluster.token", "basalt.cluster.endpoints"


Describe = Callable[[Config], Catalogue]
"""From a document to the keys and certificates of the machine."""


def join(node: Node, describe: Describe, kubernetes: str) -> Membership:
    """Make the machine a member: ask, and write certificates. The caller records the membership.

    kubernetes: version in this image

    Raises DocumentError, whose failures say what to do about it, and BasaltError.
    """
    token, described = _token(node), describe(node.config)
    for folder in described.directories:
        files.directory(folder)
    agent = described.certificate("agent")
    signed = (agent,) if node.config.role.has_control_plane else described.certificates
    request = JoinRequest(
        token=token.id,
        secret=token.secret,
        name=node.name,
        ip=node.ip,
        role=node.config.role.value,
        kubernetes=kubernetes,
        requests=requests.prepare(signed),
    )
    authority, welcome = _welcomed(node, token, request)
    if node.config.role.has_control_plane:
        # It signs for itself from now on.
        _take_authorities(node, describe, welcome)
    else:
        above = _with_those_above(authority, welcome.certificates.get(AUTHORITY))
        files.write_all([File(agent.ca.certificate, above), *requests.accept(signed, welcome.certificates)])
    return Membership(
        welcome.settings,
        tuple(welcome.control_planes),
        tuple(welcome.peers),
        credentials.take(welcome.settings, welcome.secrets) if node.config.role.has_control_plane else None,
    )


def _take_authorities(node: Node, describe: Describe, welcome: Welcome) -> None:
    """Write the authorities; which they are depends on the cluster's datastore, not on the document's."""
    datastore = Datastore.from_dict(welcome.settings["datastore"])
    described = describe(replace(node.config, datastore=datastore))
    for folder in described.directories:
        files.directory(folder)
    files.write_all(handover.take(described, welcome.secrets))


def _with_those_above(proven: str, told: object) -> bytes:
    """Return the cluster's CA and what is above it; the proof was about the CA itself. Raises BasaltError."""
    if not isinstance(told, str):
        return proven.encode()
    if _der(told) != _der(proven):
        raise BasaltError(
            "the control plane has proved one CA and given another",
            "It is tried again by itself; is something between the nodes?",
        )
    return told.encode()


def renew(
    specs: Sequence[CertificateSpec], agent: CertificateSpec, control_planes: Iterable[str]
) -> list[File]:
    """Return certificates signed anew by any control plane, asked with the agent's own. Raises BasaltError."""
    authority = _believed(agent)
    # The agent's key goes along every time: it is what the cluster knows the machine by.
    asked = dict.fromkeys((agent, *specs))
    renewal = Renewal(requests.prepare(asked))
    reasons = []
    for address in control_planes:
        endpoint = Endpoint(_url(address), agent.certificate, agent.key)
        try:
            renewed = Renewed.from_dict(_ask(_pinned(endpoint, authority), CERTIFICATES, renewal))
        except Unreachable as error:
            reasons.append(str(error))
            continue
        return requests.accept(specs, renewed.certificates)
    raise BasaltError(
        f"no control plane signs certificates: {'; '.join(reasons) or 'none is known'}",
        "It is tried again by itself once a control plane is up.",
    )


def standing(node: Node, described: Catalogue, host: str) -> str:
    """Return since when the cluster goes on without this control plane, by what another one says; empty: it does not.

    node: one whose datastore is the cluster's own
    host: address of the other one. Raises BasaltError where it does not answer.
    """
    datastore = described.authority(f"{node.config.datastore.type}/ca")
    asked = Standing(node.name, (files.read_or_none(datastore.certificate) or b"").decode())
    return Verdict.from_dict(ask(described, host, FENCE, asked)).since


def told_by(node: Node, described: Catalogue, host: str) -> bool:
    """Return whether another control plane tells this one when it carries the API's address. Raises BasaltError."""
    return Heard.from_dict(ask(described, host, PARTNER, Partner(node.ip))).told


def ask(described: Catalogue, host: str, path: str, message: Message) -> Any:
    """Return what another control plane answers to one that shows its agent's certificate. Raises BasaltError."""
    agent = described.certificate("agent")
    endpoint = Endpoint(_url(host), agent.certificate, agent.key)
    return _ask(_pinned(endpoint, _believed(agent)), path, message)


def ca_key(described: Catalogue, control_planes: Iterable[str], wanted: Wanted) -> str:
    """Return a key of the cluster's CA that this control plane lacks, from any that has it. Raises BasaltError.

    control_planes: addresses of the others
    """
    agent, reasons = described.certificate("agent"), []
    for host in control_planes:
        endpoint = Endpoint(_url(host), agent.certificate, agent.key)
        try:
            answer = Key.from_dict(_ask(_pinned(endpoint, _believed(agent)), CA_KEY, wanted))
        except BasaltError as error:
            reasons.append(str(error))
            continue
        if answer.key:
            return answer.key
        reasons.append(f"{host} does not have it either")
    raise BasaltError(
        f"nobody gives this node the key of the cluster's next CA: {'; '.join(reasons) or 'it has no partners'}",
        "It is tried again by itself. If the control plane that began the rotation is lost, cancel that: "
        "`basalt certificates rotate-ca --cancel`.",
    )


def _believed(agent: CertificateSpec) -> str:
    """Return the CA of whom the machine believes to be a control plane: those that sign, and none above them."""
    return (trusted.believed(agent.ca) or b"").decode()


def _token(node: Node) -> Token:
    text = node.config.cluster.token
    try:
        return Token.parse(text or "")
    except BadToken as error:
        remedy = "Get one with `basalt get-join-token` on a control plane."
        raise DocumentError([Failure(Code.BAD_TOKEN, TOKEN_PATH, str(error), remedy)]) from None


def _welcomed(node: Node, token: Token, request: JoinRequest) -> tuple[str, Welcome]:
    """Return the CA and the answer of the first control plane that lets the machine in.

    Each endpoint is asked: one may be down or starting, and what one refuses another may not.
    Raises DocumentError when none does.
    """
    reasons: list[str] = []
    failures: list[Failure] = []
    for host in node.config.cluster.join_endpoints:
        endpoint = Endpoint(_url(host))
        try:
            authority = _introduce(endpoint, token)
            return authority, Welcome.from_dict(_ask(_pinned(endpoint, authority), JOIN, request))
        except DocumentError as error:
            failures += error.failures
        except BasaltError as error:
            reasons.append(str(error))
    if failures:
        # That one waits says less than that another has refused.
        raise DocumentError(sorted(failures, key=lambda failure: failure.code == Code.JOIN_WAITS)[:1])
    found = "; ".join(reasons) or "the document names none"
    remedy = "It is tried again by itself. Is a control plane up, and port 6401 of it open to this node?"
    raise DocumentError([Failure(Code.CLUSTER_UNREACHABLE, ENDPOINTS_PATH, found, remedy)])


def _introduce(endpoint: Endpoint, token: Token) -> str:
    """Return the CA of a control plane that has proved to know the token, PEM. Raises DocumentError."""
    nonce = secrets.token_bytes(32)
    asked = time.time()
    answer = _ask(Client(endpoint, _unproven), HELLO, Hello(token.id, nonce.hex()))
    introduction = Introduction.from_dict(answer)
    der = _der(introduction.authority)
    host = split_url(endpoint.url or "")[0]
    if token.pin is not None and not same(token.pin, fingerprint(der)):
        found, remedy = (
            f"{host} is another cluster than the one the token was made by",
            "Compare token and endpoints.",
        )
        raise DocumentError([Failure(Code.CLUSTER_NOT_TRUSTED, TOKEN_PATH, found, remedy)])
    if not same(introduction.proof, token.proof(nonce, der, introduction.time)):
        found = f"{host} does not prove to know the token"
        remedy = "Something between the nodes may be pretending to be the cluster, or the tokens differ."
        raise DocumentError([Failure(Code.CLUSTER_NOT_TRUSTED, TOKEN_PATH, found, remedy)])
    if failure := _clocks(host, introduction.time, asked):
        raise DocumentError([failure])
    return introduction.authority


def _clocks(host: str, theirs: int, asked: float) -> Failure | None:
    """Compare the clocks; what passed between question and answer is not held against them."""
    now = time.time()
    ahead = now - theirs if theirs > now else asked - theirs if theirs < asked else 0.0
    if abs(ahead) <= TOLERANCE:
        return None
    remedy = "Name time servers that both nodes reach, or set the wrong clock; then it goes on by itself."
    return apart(ahead, host, remedy=remedy)


def _ask(client: Client, path: str, message: Message) -> Any:
    return client.post_json(path, json.dumps(message.to_dict()))


def _url(host: str) -> str:
    """Return the URL of an endpoint as a document has it: an address or name, with or without a port."""
    name, port = split_port(host, PORT)
    return f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"


def _unproven(endpoint: Endpoint) -> http.client.HTTPSConnection:
    """Connect to whoever answers: nothing secret is said, and the answer carries its own proof."""
    context = _context()
    context.verify_mode = ssl.CERT_NONE
    host, port = split_url(endpoint.url or "")
    return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Who it is stands in the proof, later in the common name: the host's name may be that of a balancer.
    context.check_hostname = False
    return context


def _pinned(endpoint: Endpoint, authority: str) -> Client:
    """Return a client that talks to control planes of the CA only."""

    def connect(endpoint: Endpoint) -> http.client.HTTPSConnection:
        context = _context()
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=authority)
        if endpoint.certificate:
            context.load_cert_chain(endpoint.certificate, endpoint.key)
        host, port = split_url(endpoint.url or "")
        return _ControlPlaneConnection(host, port, timeout=SECONDS, context=context)

    return Client(endpoint, connect)


class _ControlPlaneConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        certificate: Mapping[str, Any] = self.sock.getpeercert() or {}
        names = [
            value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"
        ]
        if names != [CONTROL_PLANE_API]:
            raise BasaltError(f"{self.host} is a node of the cluster, but no control plane")


def _der(pem: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return keys.read_certificates(pem.encode())[0].public_bytes(Encoding.DER)
    except keys.Unreadable as error:
        raise BasaltError(f"the control plane's CA {error}") from error
