# SPDX-License-Identifier: Apache-2.0
"""A machine joins over real TLS with real certificates; only the Kubernetes API behind the gate is a dictionary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from firstboot import files, pki
from firstboot.api import nodes
from firstboot.api.access import Tls
from firstboot.api.server import TlsDoor
from firstboot.client import Endpoint
from firstboot.cluster import joining, records, settings
from firstboot.cluster.admission import Admission, version_failure
from firstboot.cluster.membership import Membership
from firstboot.cluster.tokens import Token
from firstboot.config import Config, Datastore, External, Role
from firstboot.failure import BasaltError, DocumentError
from firstboot.kube import Client, KubeError
from firstboot.pki import handover, keys
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.leaf import CertificateSpec
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node

from .support_pki import Company
from .support_web import loop_in_thread

SHARED = "0123456789abcdef0123456789abcdef"
VIRTUAL = "192.0.2.100"
VERSION = "v1.37.2"
KUBE_SYSTEM = "/api/v1/namespaces/kube-system"


class Objects(Client):
    """Objects by path, with the two answers on which the records rely: exists already, has changed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 0

    async def get(self, path: str) -> Any:
        base, _, query = path.partition("?labelSelector=")
        if base.endswith(("/nodes", "/secrets", "/configmaps")):
            inside = [each for at, each in self.objects.items() if at.startswith(f"{base}/")]
            return {
                "items": [each for each in inside if not query or query in each["metadata"].get("labels", {})]
            }
        return self.objects.get(base)

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        if method == "DELETE":
            return self.objects.pop(path)
        at = f"{path}/{obj['metadata']['name']}" if method == "POST" else path
        found = self.objects.get(at)
        if method == "POST" and found:
            raise KubeError(method, path, 409, "exists")
        if (
            method == "PUT"
            and found
            and obj["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]
        ):
            raise KubeError(method, path, 409, "has changed")
        self.version += 1
        copied = json.loads(json.dumps(obj))
        copied["metadata"]["resourceVersion"] = str(self.version)
        self.objects[at] = copied
        return copied


@dataclass
class Partners:
    """A datastore as the gate sees it: what it waits for, and whom it has taken in."""

    waits: str | None = None
    serves: bool = True
    members: list[str] = field(default_factory=lambda: ["192.0.2.1:9000"])

    async def ready_for(self, machine: records.Machine) -> str | None:
        return self.waits

    async def admit(self, machine: records.Machine) -> list[str]:
        return list(self.members)


@dataclass
class Gate:
    """A control plane that can be joined, and what a test changes about it."""

    run: Callable[[Any], Any]
    admission: Admission
    objects: Objects
    partners: Partners
    catalogue: Catalogue
    door: TlsDoor
    folder: Path

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.door.port}"

    def token(self, role: Role | None = None, lifetime: int = 60) -> str:
        made: str = self.run(self.admission.new_token(role, lifetime)).token.text
        return made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    config = Config.from_dict({"role": "control-plane"})
    made = catalogue(config, "cp-1", ["192.0.2.1", "127.0.0.1"], tmp_path_factory.mktemp("cp")).unowned()
    pki.apply(made, Ledger())
    return made


@pytest.fixture
def gate(authority: Catalogue, tmp_path: Path) -> Iterator[Gate]:
    with opened(authority, tmp_path) as gate:
        yield gate


@contextmanager
def opened(authority: Catalogue, tmp_path: Path) -> Iterator[Gate]:
    """Open the gate of a control plane with these authorities."""
    cluster = {"bootstrap": True, "token": SHARED, "virtual-address": VIRTUAL}
    config = Config.from_dict({"role": "control-plane", "cluster": cluster})
    node = Node(config, "cp-1", "192.0.2.1")
    with loop_in_thread() as run:
        objects, partners = Objects(), Partners()
        made = Admission(
            objects,
            node=lambda: node,
            addresses=lambda: ("192.0.2.1", "198.51.100.1"),
            certificates=lambda: authority,
            datastore=partners,
            serves=lambda: partners.serves,
            kubernetes=lambda: VERSION,
            find_anew=lambda: None,
        )
        door = TlsDoor(lambda: nodes.application(made))
        own = authority.certificate("basalt-api")
        pem = authority.authority("ca").trusted.read_text()
        run(door.listen(Tls(own.certificate, own.key, (pem,), required=False), "127.0.0.1:0"))
        yield Gate(run, made, objects, partners, authority, door, tmp_path)
        run(door.close())


def worker(
    gate: Gate, token: str = SHARED, name: str = "w-1", ip: str = "192.0.2.50", **cluster: Any
) -> Node:
    cluster = {"token": token, "endpoints": [gate.endpoint], **cluster}
    return Node(Config.from_dict({"role": "worker", "cluster": cluster}), name, ip)


def described(gate: Gate, node: Node, folder: str = "") -> Catalogue:
    return catalogue(node.config, node.name, [node.ip], gate.folder / (folder or node.name)).unowned()


def join(gate: Gate, node: Node, folder: str = "", kubernetes: str = VERSION) -> Membership:
    def describe(config: Config) -> Catalogue:
        return catalogue(config, node.name, [node.ip], gate.folder / (folder or node.name)).unowned()

    return joining.join(node, describe, kubernetes)


def refused(gate: Gate, node: Node, folder: str = "", kubernetes: str = VERSION) -> tuple[str, str]:
    """Try to join; return code and path of the only failure, which the control plane has noted too."""
    with pytest.raises(DocumentError) as raised:
        join(gate, node, folder, kubernetes)
    [failure] = raised.value.failures
    assert failure.found and failure.remedy
    assert SHARED not in str(failure)
    return failure.code, failure.path


def test_a_worker_joins_with_the_shared_token_and_has_all_its_certificates(gate: Gate) -> None:
    node = worker(gate)
    membership = join(gate, node)
    found = [finding.name for finding in pki.check(described(gate, node), Ledger())]
    assert all(name.endswith(".kubeconfig") for name in found if name != "ca-trusted.crt"), (
        "certificates are complete"
    )
    assert membership.settings == settings.of(gate.admission.node().config)
    assert membership.control_planes == ("192.0.2.1",)
    assert gate.admission.refusals == ()
    kubelet = described(gate, node).certificate("kubelet-client")
    assert kubelet.common_name == "system:node:w-1"


def test_a_control_plane_is_given_the_authorities_once_the_datastore_is_ready(gate: Gate) -> None:
    node = replace(worker(gate), config=replace(worker(gate).config, role=Role.CONTROL_PLANE))
    gate.partners.waits = "being opened"
    assert refused(gate, node) == ("join-waits", "basalt.cluster")
    assert gate.admission.refusals == (), "waiting is no refusal"
    assert not list(gate.folder.rglob("ca.key"))
    gate.partners.waits = None
    membership = join(gate, node)
    assert (membership.control_planes, membership.peers) == (("192.0.2.1", "192.0.2.50"), ("192.0.2.1:9000",))
    mine = described(gate, node)
    assert handover.give(mine) == handover.give(gate.catalogue)
    assert mine.authority("ca").key.stat().st_mode & 0o777 == 0o640
    pki.apply(mine, Ledger())
    assert pki.check(mine, Ledger()) == ()


def test_only_a_control_plane_is_told_how_to_reach_an_etcd_of_somebody_else(gate: Gate) -> None:
    section = {**External(("https://192.0.2.5:2379",), "a", "b").to_dict(), "client-key": "s3cret"}
    external = Datastore.from_dict({"type": "external", "external": section})
    known = gate.admission.node()
    outside = replace(known, config=replace(known.config, datastore=external))
    gate.admission.node = lambda: outside
    gate.admission.certificates = lambda: replace(
        gate.catalogue,
        authorities=tuple(each for each in gate.catalogue.authorities if each.name != "dqlite/ca"),
    )
    gate.partners.members = []
    partner = replace(worker(gate), config=replace(worker(gate).config, role=Role.CONTROL_PLANE))
    membership = join(gate, partner)
    assert (membership.external, membership.peers) == (section, ())
    assert membership.settings["datastore"] == {"type": "external"}
    told = join(gate, worker(gate, name="w-2", ip="192.0.2.51"))
    assert told.external is None and "s3cret" not in str(told.settings)


def test_a_cluster_whose_ca_has_others_above_it(tmp_path: Path) -> None:
    """Its pin and its proof are about the CA that signs; what is above comes with the welcome."""
    company = Company.make("Company CA", Company.make("Company Root"))
    document = {"role": "control-plane", "certificates": company.document}
    given = catalogue(
        Config.from_dict(document), "cp-1", ["192.0.2.1", "127.0.0.1"], tmp_path / "cp"
    ).unowned()
    pki.apply(given, Ledger())
    with opened(given, tmp_path) as gate:
        node = worker(gate, gate.token())
        join(gate, node)
        mine = described(gate, node)

        def issue(due: Sequence[CertificateSpec]) -> list[files.File]:
            return joining.renew(due, mine.certificate("agent"), [gate.endpoint])

        kubelet = mine.certificate("kubelet")
        first = kubelet.certificate.read_bytes()
        kubelet.certificate.unlink()
        pki.apply(mine, Ledger(), issue=issue)
        assert pki.check(mine, Ledger()) == ()
        assert kubelet.certificate.read_bytes() != first
        assert kubelet.ca.certificate.read_text() == company.pem
        assert kubelet.ca.trusted.read_bytes() == keys.certificate_pem(company.path[0])
        assert not list((tmp_path / "w-1").rglob("ca.key"))
        plain = worker(gate, name="cp-2", ip="192.0.2.60")
        partner = replace(plain, config=replace(plain.config, role=Role.CONTROL_PLANE))
        join(gate, partner)
        assert handover.give(described(gate, partner)) == handover.give(given)


def test_a_worker_is_given_no_authority(gate: Gate) -> None:
    join(gate, worker(gate))
    assert not [path for path in gate.folder.rglob("*.key") if path.stem in ("ca", "sa", "front-proxy-ca")]


def test_a_control_plane_that_is_not_up_yet_is_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(path: str) -> None:
        raise KubeError("GET", path, 0, "127.0.0.1:6443 cannot be reached")

    monkeypatch.setattr(gate.objects, "get", nobody)
    assert refused(gate, worker(gate)) == ("join-waits", "basalt.cluster")
    assert gate.admission.refusals == ()


def test_nobody_is_let_in_while_the_control_plane_is_starting(gate: Gate) -> None:
    gate.partners.serves = False
    assert refused(gate, worker(gate)) == ("join-waits", "basalt.cluster")
    assert gate.admission.refusals == ()
    assert not [path for path in gate.objects.objects if "/configmaps/" in path]


def test_what_one_endpoint_refuses_the_next_one_is_asked_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [False, True]
    monkeypatch.setattr(gate.admission, "serves", lambda: answers.pop(0))
    join(gate, worker(gate, endpoints=[gate.endpoint, gate.endpoint.replace("127.0.0.1", "localhost")]))
    assert answers == []


def test_several_machines_join_with_a_shared_token_and_one_with_a_one_time_token(gate: Gate) -> None:
    join(gate, worker(gate, name="w-1", ip="192.0.2.51"))
    join(gate, worker(gate, name="w-2", ip="192.0.2.52"))
    token = gate.token()
    node = worker(gate, token, name="w-3", ip="192.0.2.53")
    join(gate, node)
    join(gate, node)
    assert refused(gate, worker(gate, token, name="w-4", ip="192.0.2.54")) == (
        "token-used",
        "basalt.cluster.token",
    )
    [noted] = gate.admission.refusals
    assert (noted.code, "used by w-3" in noted.found) == ("join-refused", True)


def test_a_token_is_refused_that_is_of_another_role_unknown_or_too_old(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = gate.token(Role.CONTROL_PLANE)
    assert refused(gate, worker(gate, token))[0] == "token-role"
    assert refused(gate, worker(gate, SHARED[::-1]))[0] == "token-unknown"
    foreign = Token.new(b"another cluster")
    assert refused(gate, worker(gate, foreign.text))[0] == "token-unknown"
    token = gate.token(lifetime=60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert refused(gate, worker(gate, token))[0] == "token-expired"
    gate.token()
    assert len([path for path in gate.objects.objects if "/secrets/" in path]) == 1, (
        "the old ones are swept away"
    )


def test_a_cluster_is_not_trusted_that_has_another_ca_or_does_not_know_the_secret(gate: Gate) -> None:
    known = Token.parse(gate.token())
    other_ca = replace(known, pin="0" * 64)
    assert refused(gate, worker(gate, other_ca.text)) == ("cluster-not-trusted", "basalt.cluster.token")
    other_secret = replace(known, secret="0" * 40)
    assert refused(gate, worker(gate, other_secret.text))[0] == "cluster-not-trusted"
    assert not list(gate.folder.rglob("*.crt")), "nothing is left of a failed attempt but keys"


def test_names_and_addresses_are_had_only_once(gate: Gate) -> None:
    join(gate, worker(gate))
    again = worker(gate, ip="192.0.2.60")
    assert refused(gate, again, folder="elsewhere") == ("name-taken", "basalt.node.name")
    assert refused(gate, worker(gate, name="w-2"))[0] == "address-taken"
    gate.objects.objects["/api/v1/nodes/cp-1"] = {
        "metadata": {"name": "cp-1", "labels": {}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    }
    assert refused(gate, worker(gate, name="cp-1"))[0] == "name-taken"
    assert refused(gate, worker(gate, name="w-5", ip="192.0.2.1"))[0] == "address-taken"


@pytest.mark.parametrize(
    ("name", "ip", "code"),
    [
        ("kubernetes.default.svc", "192.0.2.70", "name-taken"),
        ("localhost", "192.0.2.70", "name-taken"),
        ("w-9", "10.152.183.1", "address-taken"),
        ("w-9", "198.51.100.1", "address-taken"),
        ("w-9", VIRTUAL, "address-taken"),
        ("w-9", "127.0.0.1", "address-taken"),
    ],
)
def test_nobody_gets_a_certificate_for_the_api_itself(gate: Gate, name: str, ip: str, code: str) -> None:
    assert refused(gate, worker(gate, name=name, ip=ip))[0] == code


@pytest.mark.parametrize(("hours", "side"), [(2, "behind"), (-2, "ahead of")])
def test_clocks_that_are_apart_are_named_with_the_difference(gate: Gate, hours: int, side: str) -> None:
    gate.admission.wall = lambda: time.time() + hours * 3600
    with pytest.raises(DocumentError, match=rf"7\d\d\d seconds {side} that of 127\.0\.0\.1") as raised:
        join(gate, worker(gate))
    assert raised.value.failures[0].code == "clocks-apart"


@pytest.mark.parametrize(
    ("node", "cluster", "apart"),
    [
        ("v1.37.0", "v1.37.2", False),
        ("v1.34.9", "v1.37.2", False),
        ("v1.33.9", "v1.37.2", True),
        ("v1.38.0", "v1.37.2", True),
        ("", "v1.37.2", False),
    ],
)
def test_versions(node: str, cluster: str, apart: bool) -> None:
    assert (version_failure(node, cluster) is not None) is apart


def test_a_newer_machine_is_refused(gate: Gate) -> None:
    assert refused(gate, worker(gate), kubernetes="v1.38.0") == ("version-apart", "image")


def test_an_endpoint_where_nobody_is_costs_nothing_if_another_answers(gate: Gate) -> None:
    nobody = "127.0.0.1:1"
    join(gate, worker(gate, endpoints=[nobody, gate.endpoint]))
    with pytest.raises(DocumentError, match=r"127\.0\.0\.1:1 cannot be reached") as raised:
        join(gate, worker(gate, name="w-2", endpoints=[nobody]))
    assert raised.value.failures[0].code == "cluster-unreachable"


def test_a_member_has_its_certificates_renewed_and_a_stranger_has_not(gate: Gate) -> None:
    node = worker(gate)
    join(gate, node)
    mine = described(gate, node)
    agent, kubelet = mine.certificate("agent"), mine.certificate("kubelet")
    before, key = kubelet.certificate.read_bytes(), kubelet.key.read_bytes()
    files.write_all(joining.renew([kubelet], agent, ["127.0.0.1:1", gate.endpoint]))
    assert kubelet.certificate.read_bytes() != before
    assert kubelet.key.read_bytes() == key
    stolen = replace(agent, name="kube-proxy", common_name="system:kube-proxy")
    with pytest.raises(BasaltError, match="only a node of the cluster may ask"):
        joining.renew([kubelet], stolen, [gate.endpoint])
    del gate.objects.objects[f"{KUBE_SYSTEM}/configmaps/basalt-machine-w-1"]
    with pytest.raises(DocumentError, match="w-1 is no machine of this cluster"):
        joining.renew([kubelet], agent, [gate.endpoint])


def test_a_token_used_by_two_at_the_same_moment_lets_in_one(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = gate.token()
    quicker = records.Machine("w-0", "worker", "192.0.2.9", "0" * 64)
    original = records.use_token

    async def late(client: Client, record: records.TokenRecord, machine: records.Machine) -> bool:
        monkeypatch.setattr(records, "use_token", original)
        assert await original(client, record, quicker)
        return await original(client, record, machine)

    monkeypatch.setattr(records, "use_token", late)
    assert refused(gate, worker(gate, token))[0] == "token-used"


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"token": 1, "nonce": "00"}', '{"token": "x", "nonce": "zz"}']
)
def test_what_is_no_message_is_refused_in_order(gate: Gate, body: str) -> None:
    client = joining._pinned(Endpoint(f"https://{gate.endpoint}"), _authority(gate))
    with pytest.raises(BasaltError):
        client.post_json("/v1/join/hello", body)
    assert gate.admission.refusals == ()


def test_a_worker_that_pretends_to_be_a_control_plane_is_not_talked_to(gate: Gate) -> None:
    node = worker(gate)
    join(gate, node)
    own = described(gate, node).certificate("basalt-api")
    door = TlsDoor(lambda: nodes.application(gate.admission))
    gate.run(door.listen(Tls(own.certificate, own.key, (_authority(gate),), required=False), "127.0.0.1:0"))
    try:
        with pytest.raises(BasaltError, match="no control plane"):
            join(gate, worker(gate, name="w-2", ip="192.0.2.52", endpoints=[f"127.0.0.1:{door.port}"]))
    finally:
        gate.run(door.close())


def _authority(gate: Gate) -> str:
    return gate.catalogue.authority("ca").certificate.read_text()
