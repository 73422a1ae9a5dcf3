# SPDX-License-Identifier: Apache-2.0
"""A node's servers for tests: real sockets and certificates; only what stands behind the API is made up."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firstboot import kube
from firstboot.api.node import JoinToken, NotYet, PlannedStep
from firstboot.api.server import ApiServer
from firstboot.backup.custodian import Custodian
from firstboot.client import Client, Endpoint, UnixConnection
from firstboot.cluster.removal import Progress, Stage
from firstboot.cluster.rotator import Rotator
from firstboot.cluster.steward import Steward
from firstboot.codes import Code
from firstboot.config import Role
from firstboot.failure import Failure, Refused
from firstboot.moving.mover import Mover
from firstboot.pki.validity import Validity
from firstboot.report.status import Document, Image, Node, Part, Phase, Rotation, Settings, State, Status

READY = Status(
    phase=Phase.READY,
    node=Node("node-1", "control-plane", ("192.0.2.7", "2001:db8::7")),
    image=Image("1.2.3", "A"),
    kubernetes="v1.37.2",
    components={
        name: Part(State.HEALTHY)
        for name in (
            "k8s-dqlite",
            "kube-apiserver",
            "containerd",
            "kubelet",
            "kube-controller-manager",
            "kube-scheduler",
        )
    },
    features={"network": Part(State.HEALTHY, version="0.28"), "dns": Part(State.OFF)},
    timings={"agent": 7.5, "ready": 41.25},
    document=Document("cloud-init", "sha256:" + "0a" * 32),
    certificates={"apiserver": "2027-11-23T09:00:00Z"},
    settings=Settings(3, "2026-11-23T08:30:00Z"),
    backup="2026-11-23T08:00:00Z",
    rotation=Rotation("trust", "2026-11-23T08:15:00Z", ("w-1",)),
    updated="2026-11-23T09:00:00Z",
)

BROKEN = Failure("component-failed", "kubelet", "exit code 1", "See `basalt logs kubelet`.")

SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)

DEGRADED = replace(
    READY,
    phase=Phase.DEGRADED,
    components={**READY.components, "kubelet": Part(State.FAILED, "exit code 1")},
    failures=(BROKEN,),
)


CERTIFICATES = (
    Validity(
        "ca",
        "/etc/kubernetes/pki/ca.crt",
        "CN=kubernetes",
        "CN=kubernetes",
        "2026-11-23T11:00:00Z",
        "2036-11-22T11:00:00Z",
    ),
    Validity("kubelet", "/etc/kubernetes/pki/kubelet.crt", problem="kubelet.crt is missing"),
)


class Unused(kube.Client):
    """A cluster without an object."""

    async def get(self, path: str) -> None:
        return None


@dataclass
class MadeUpNode:
    """What the API asks, with answers that a test can set."""

    current: Status = READY
    steps: Sequence[PlannedStep] = ()
    has_authority: bool = True
    trouble: Exception | None = None
    asked: list[str | None] = field(default_factory=list)
    keeper: Custodian | None = None
    steward: Steward | None = None
    rotating: Rotator | None = None

    @property
    def rotator(self) -> Rotator:
        if self.rotating is None:
            return Rotator(Unused(), NotImplemented, lambda: None, lambda: None, lambda: None)
        return self.rotating

    moves: Mover | None = None

    @property
    def mover(self) -> Mover:
        if self.moves is None:
            raise NotYet("a worker has no datastore", "Ask a control plane.")
        return self.moves

    @property
    def settings(self) -> Steward:
        assert self.steward is not None
        return self.steward

    @property
    def datastore(self) -> Custodian:
        if self.keeper is None:
            raise NotYet("a worker has no datastore", "Ask a control plane.")
        return self.keeper

    def status(self) -> Status:
        return self.current

    async def plan(self) -> Sequence[PlannedStep]:
        return self.steps

    async def kubeconfig(self, server: str | None) -> str:
        if not self.has_authority:
            raise NotYet("there is no certificate yet", "Ask again later.")
        self.asked.append(server)
        return f"server: {server or 'https://192.0.2.7:6443'}\n"

    async def certificates(self) -> Sequence[Validity]:
        if not self.has_authority:
            raise NotYet("there is no valid document yet", "Ask again later.")
        return CERTIFICATES

    async def join_token(self, role: Role | None, lifetime: int) -> JoinToken:
        if not self.has_authority:
            raise NotYet("a worker gives out no tokens", "Ask a control plane.")
        self.asked.append(f"{role} {lifetime}")
        return JoinToken("basalt1.id.secret.pin", role or "", 1_800_000_000)

    async def remove_node(self, name: str, force: bool, timeout: int) -> AsyncIterator[Progress]:
        if not self.has_authority:
            raise NotYet("a worker removes no other nodes", "Ask a control plane.")
        self.asked.append(f"{name} {force} {timeout}")
        return self._removal(name)

    async def _removal(self, name: str) -> AsyncIterator[Progress]:
        yield Progress(Stage.CORDON, f"{name} gets no new pods")
        if self.trouble:
            raise self.trouble
        yield Progress(Stage.NODE, f"{name} is out")

    async def reset(self, force: bool) -> str:
        if not (self.has_authority or force):
            raise Refused(
                [Failure(Code.RESET_REFUSED, "reset", "node-1 is a member of a cluster", "Remove it first.")]
            )
        self.asked.append(f"reset {force}")
        return "node-1"


@contextmanager
def loop_in_thread() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run an event loop beside the test; the value runs a coroutine in it and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        # A handler whose client has gone may still be ending a program.
        if left := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(left, timeout=5))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path, name: str, parent: Authority | None = None) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = (parent.certificate.subject, parent.key) if parent else (_name(name), key)
        certificate = (
            _builder(name, issuer, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(SIGNS, critical=True)
            .sign(issuer[1], hashes.SHA256())
        )
        authority = cls(folder, name, key, certificate)
        authority.file.write_text(authority.pem)
        return authority

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def issue(self, name: str, *, server: bool = False, days: int = 1) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        certificate = (
            _builder(name, (self.certificate.subject, self.key), key, days)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: str,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey],
    key: ec.EllipticCurvePrivateKey,
    days: int = 1,
) -> x509.CertificateBuilder:
    """Begin a certificate with all that Python 3.13 wants to see in one."""
    now = datetime.now(UTC)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(above, critical=False)
    )


@dataclass
class Served:
    node: MadeUpNode
    server: ApiServer
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    socket: Path

    def local(self) -> Client:
        return Client(Endpoint(socket=self.socket))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Return HTTP status and body, parsed where it is JSON; no header may tell what serves it."""
        with closing(UnixConnection(self.socket)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
            assert "Server" not in response.headers
            is_json = response.headers["Content-Type"].startswith("application/json")
            return response.status, json.loads(text) if is_json else text


@contextmanager
def serve(path: Path) -> Iterator[Served]:
    """Serve the API on a unix socket, for the present user."""
    node = MadeUpNode()
    with loop_in_thread() as run:
        server = ApiServer(node, users=(os.getuid(),))
        run(server.listen_local(path))
        yield Served(node, server, run, path)
        run(server.close())
