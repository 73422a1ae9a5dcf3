# SPDX-License-Identifier: Apache-2.0
"""Machines of one cluster with real keys, certificates and TLS between them; only the Kubernetes API is a dictionary.

Each does what its agent would do about authorities and certificates, one pass at a time and when a test says so.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

from firstboot import pki
from firstboot.api import nodes
from firstboot.api.access import Tls
from firstboot.api.server import TlsDoor
from firstboot.cluster import joining, rotation
from firstboot.cluster.admission import Admission
from firstboot.cluster.records import machine_object
from firstboot.cluster.rotation import FILE, Rotation, Stage
from firstboot.cluster.rotator import Rotator
from firstboot.config import Config
from firstboot.kube import KubeError, Trust
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import Memory, _machine, plan, wanted
from firstboot.services.model import Node
from firstboot.steps.certificates import Certificates
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied
from firstboot.steps.rotation import HELD, AdvanceRotation, Authorities, FollowRotation, TellRotation

from .support_pki import handshake
from .support_web import loop_in_thread
from .test_cluster_joining import SHARED, Objects, Partners

LOCAL = "127.0.0.1"


class Api(Objects):
    """The cluster's objects; what happens just before one of them is written a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[Callable[[], None]] = []

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        if rotation.NAME in str((path, obj)) and self.between:
            self.between.pop(0)()
        if method == "DELETE" and obj is not None:
            wanted, found = obj["preconditions"]["resourceVersion"], self.objects[path]["metadata"]
            if wanted != found["resourceVersion"]:
                raise KubeError(method, path, 409, "has changed")
        return await super().send(method, path, obj)

    async def apply(
        self, obj: Any, manager: str = "", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        assert trust is Trust.KUBELET and manager == "basalt-ca-rotation"
        name = obj["metadata"]["name"]
        self.objects[f"/api/v1/nodes/{name}"]["metadata"]["annotations"] = dict(
            obj["metadata"]["annotations"]
        )

    def stage(self) -> Stage | None:
        """Return the stage of the cluster's rotation."""
        found = asyncio.run(rotation.read(self))
        return found.rotation.stage if found else None


@dataclass
class Member:
    """One machine; later: seconds by which its clock is ahead when it looks whether programs have read their files."""

    api: Api
    node: Node
    root: Path
    later: float = HELD
    ledger: Ledger = field(default_factory=Ledger)
    told: Applied = field(default_factory=Applied)

    @cached_property
    def certificates(self) -> Catalogue:
        address = LOCAL if self.node.config.role.has_control_plane else self.node.ip
        return catalogue(self.node.config, self.node.name, [address], self.root / "kubernetes").unowned()

    @property
    def record(self) -> Path:
        return self.root / FILE

    @property
    def present(self) -> Node:
        """The node as its next round sees it."""
        return replace(self.node, rotation=Rotation.load(self.record))

    def go(self, passes: int = 1) -> list[str]:
        """Make passes, each as if the agent had just started; return which steps have done something."""
        return [name for _ in range(passes) for name in asyncio.run(self._pass())]

    async def _pass(self) -> list[str]:
        node, memory = self.present, Memory(self.ledger, Applied(), self.root / "membership.json", self.told)
        machine = Machine(cast(Any, None), self.api, {})
        kinds = (Authorities, Certificates, FollowRotation, TellRotation, AdvanceRotation)
        done = []
        for step in plan(node, wanted(node), self.certificates, memory):
            if not isinstance(step, kinds):
                continue
            if isinstance(step, TellRotation):
                step = replace(step, wall=lambda: time.time() + self.later)
            if await step.check(machine):
                await step.apply(machine)
                done.append(step.name)
        return done

    def believed(self, *, signing: str) -> bool:
        """Whether an authority of that subject signs here, and has signed all that the machine has."""
        from cryptography import x509

        agent = x509.load_pem_x509_certificate(
            self.certificates.certificate("agent").certificate.read_bytes()
        )
        return agent.issuer.rfc4514_string() == signing and not pki.check(self.certificates, self.ledger)


@dataclass
class Client:
    """What a program has read when it started, and does not read again."""

    authorities: str
    certificate: tuple[Path, Path]

    @classmethod
    def of(cls, member: Member, copy: Path) -> Client:
        """Take a node's administrator's credentials away to a folder of one's own."""
        spec = member.certificates.certificate("admin")
        copy.mkdir()
        for path in (spec.certificate, spec.key):
            (copy / path.name).write_bytes(path.read_bytes())
        pair = copy / spec.certificate.name, copy / spec.key.name
        return cls(spec.ca.certificate.read_text(), pair)

    def reaches(self, server: Member) -> bool:
        """Whether both sides believe each other; a refusal is the server's."""
        return connects(self.authorities, self.certificate, server)

    def believes(self, server: Member) -> bool:
        """Whether the client believes the server, whoever it is itself."""
        spec = server.certificates.certificate("apiserver")
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        there.load_cert_chain(spec.certificate, spec.key)
        handshake(ssl.create_default_context(cadata=self.authorities), there, LOCAL)
        return True


def connects(authorities: str, certificate: tuple[Path, Path], server: Member) -> bool:
    """Whether a client with these files is believed by a control plane's API server, and believes it."""
    spec = server.certificates.certificate("apiserver")
    files = (*certificate, spec.certificate, spec.key, spec.ca.trusted)
    return _connects(authorities, files, tuple(path.read_bytes() for path in files))


@cache
def _connects(authorities: str, files: tuple[Path, ...], contents: tuple[bytes, ...]) -> bool:
    """Try it once for the same contents."""
    certificate, key, own, own_key, believed = files
    there = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(believed))
    there.verify_mode = ssl.CERT_REQUIRED
    there.load_cert_chain(own, own_key)
    here = ssl.create_default_context(cadata=authorities)
    here.load_cert_chain(certificate, key)
    for context in (here, there):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        handshake(here, there, LOCAL)
    except ssl.SSLError:
        return False
    return True


@dataclass
class Cluster:
    """Two control planes and a worker; later ones join through the first."""

    api: Api
    run: Callable[[Any], Any]
    folder: Path
    doors: dict[str, TlsDoor] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def control_planes(self) -> list[Member]:
        return [each for each in self.members.values() if each.node.config.role.has_control_plane]

    def found(self, **document: Any) -> Member:
        """Make the first control plane."""
        config = Config.from_dict(
            {"role": "control-plane", "cluster": {"bootstrap": True, "token": SHARED}, **document}
        )
        return self._add(Member(self.api, Node(config, "cp-1", LOCAL), self.folder / "cp-1"))

    def join(self, name: str, role: str = "worker", token: str = SHARED) -> Member:
        """Let another machine in."""
        first = f"{LOCAL}:{self.doors['cp-1'].port}"
        config = Config.from_dict({"role": role, "cluster": {"token": token, "endpoints": [first]}})
        number = len(self.members) + 10
        new = Member(self.api, Node(config, name, f"192.0.2.{number}"), self.folder / name)
        new.root.mkdir(exist_ok=True)
        joining.join(
            new.node, lambda given: replace(new, node=replace(new.node, config=given)).certificates, ""
        )
        return self._add(new)

    def _add(self, new: Member) -> Member:
        new.root.mkdir(exist_ok=True)
        self.members[new.node.name] = new
        self.api.objects[f"/api/v1/nodes/{new.node.name}"] = {"metadata": {"name": new.node.name, "uid": "1"}}
        if new.node.config.role.has_control_plane:
            pki.apply(new.certificates, new.ledger)
            record = machine_object(_machine(new.node))
            place = f"/api/v1/namespaces/kube-system/configmaps/{record['metadata']['name']}"
            self.api.objects[place] = cast(dict[str, Any], record)
            self._add_door(new)
        self._introduce()
        new.go()
        self.open()
        return new

    def _add_door(self, new: Member) -> None:
        self.doors[new.node.name] = TlsDoor(lambda: nodes.application(self._admission(new)))

    def _introduce(self) -> None:
        """Tell all where the control planes are."""
        self.open()
        known = tuple(f"{LOCAL}:{door.port}" for door in self.doors.values())
        for each in self.members.values():
            own = self.doors.get(each.node.name)
            address = f"{LOCAL}:{own.port}" if own else each.node.ip
            each.node = replace(each.node, ip=address, control_planes=known)

    def _admission(self, member: Member) -> Admission:
        return Admission(
            self.api,
            node=lambda: replace(member.node, ip="192.0.2.1"),
            addresses=tuple,
            certificates=lambda: member.certificates,
            datastore=Partners(),
            serves=lambda: True,
            kubernetes=lambda: "",
            find_anew=lambda: None,
        )

    def copy(self, template: Cluster) -> None:
        """Become the same as another one, which has to lie in rest."""
        shutil.copytree(template.folder, self.folder, dirs_exist_ok=True)
        self.api.objects = copy.deepcopy(template.api.objects)
        self.api.version = template.api.version
        for name, each in template.members.items():
            new = Member(self.api, each.node, self.folder / name)
            self.members[name] = new
            if new.node.config.role.has_control_plane:
                self._add_door(new)
        self._introduce()

    def open(self) -> None:
        """Have every control plane listen with what it has now."""
        for name, door in self.doors.items():
            own = self.members[name].certificates.certificate("basalt-api")
            tls = Tls(own.certificate, own.key, (own.ca.trusted.read_text(),), required=False)
            self.run(door.listen(tls, f"{LOCAL}:{door.port or 0}"))

    def shut(self, name: str) -> None:
        """Have a control plane listen no more."""
        self.run(self.doors.pop(name).close())

    def go(self, *names: str) -> bool:
        """Make a pass of each machine in turn, by default of all; after each everybody has to reach everybody.

        Return whether there was anything to do.
        """
        done = [self._one(name) for name in names or self.members]
        return any(done)

    def settle(self, *names: str) -> None:
        """Go on until nobody has anything to do any more."""
        for _ in range(12):
            if not self.go(*names):
                return
        raise AssertionError("it does not come to rest")

    def _one(self, name: str) -> bool:
        done = self.members[name].go()
        self.open()
        assert self.strangers() == [], name
        return bool(done)

    def strangers(self) -> list[str]:
        """Return which machines and control planes do not believe each other now."""
        return [
            f"{client.node.name} -> {server.node.name}"
            for server in self.control_planes
            for client in self.members.values()
            if not connects(*_kubelet(client), server)
        ]

    def rotator(self, name: str = "cp-1") -> Rotator:
        member = self.members[name]
        return Rotator(
            self.api,
            authority=lambda: member.certificates.certificate("agent").ca,
            known=lambda: member.present.rotation,
            may=lambda: None,
            changed=lambda: None,
        )


def _kubelet(member: Member) -> tuple[str, tuple[Path, Path]]:
    spec = member.certificates.certificate("kubelet-client")
    return spec.ca.trusted.read_text(), (spec.certificate, spec.key)


@contextmanager
def clusters(folder: Path, template: Cluster | None = None) -> Iterator[Cluster]:
    """Make a cluster without a machine, or a copy of one: to make keys and to join takes longest."""
    with loop_in_thread() as run:
        made = Cluster(Api(), run, folder)
        if template is not None:
            made.copy(template)
        try:
            yield made
        finally:
            for name in list(made.doors):
                made.shut(name)
