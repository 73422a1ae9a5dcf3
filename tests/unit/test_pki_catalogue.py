# SPDX-License-Identifier: Apache-2.0
"""The list of what a node holds: who each certificate is, who may read its key, and the page that says so."""

import re
from pathlib import Path

import pytest
import yaml

from firstboot.config import Config
from firstboot.pki.ca import Authority
from firstboot.pki.catalogue import Catalogue, catalogue, normalized
from firstboot.pki.kubeconfig import kubeconfig
from firstboot.pki.leaf import CertificateSpec, Usage
from firstboot.pki.tokens import TokenKeys

PAGE = Path(__file__).parents[2] / "docs" / "certificates.md"


def described(**document: object) -> Catalogue:
    return catalogue(
        Config.from_dict({"role": "control-plane", **document}), "node-1", ["192.0.2.7/24", "2001:db8::7"]
    )


def test_names_of_the_api_server() -> None:
    spec = described(cluster={"domain": "example.net", "api-address": "api.example.org"}).certificate(
        "apiserver"
    )
    assert spec.dns_names == (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.example.net",
        "node-1",
        "localhost",
        "api.example.org",
    )
    assert spec.ip_addresses == ("10.152.183.1", "192.0.2.7", "2001:db8::7", "127.0.0.1", "::1")
    assert spec.usages == (Usage.SERVER,)


@pytest.mark.parametrize("name", ["apiserver", "basalt-api"])
def test_api_address_may_be_an_address(name: str) -> None:
    spec = described(cluster={"api-address": "2001:DB8:0::1"}).certificate(name)
    assert spec.ip_addresses[-1] == "2001:db8::1"
    assert all(":" not in text for text in spec.dns_names)


@pytest.mark.parametrize(
    ("name", "common_name", "organizations", "user"),
    [
        ("admin", "kubernetes-admin", ("system:masters",), "root"),
        ("agent", "basalt-agent", ("system:masters",), "root"),
        ("kubelet", "system:node:node-1", ("system:nodes",), "root"),
        ("controller-manager", "system:kube-controller-manager", (), "kube-controller-manager"),
        ("scheduler", "system:kube-scheduler", (), "kube-scheduler"),
        ("kube-proxy", "system:kube-proxy", (), "kube-proxy"),
        ("flanneld", "flanneld", (), "flannel"),
        ("network-policy", "network-policy", (), "network-policy"),
        ("coredns", "coredns", (), "coredns"),
        ("traefik", "traefik", (), "traefik"),
        ("load-balancer", "load-balancer", (), "load-balancer"),
        ("load-balancer-allocator", "load-balancer-allocator", (), "load-balancer"),
    ],
)
def test_clients_of_the_api(name: str, common_name: str, organizations: tuple[str, ...], user: str) -> None:
    spec = described().kubeconfig(name)
    client = spec.client
    assert (client.common_name, client.organizations, client.owner) == (
        common_name,
        organizations,
        (user, user),
    )
    assert (client.usages, client.ca.name) == ((Usage.CLIENT,), "ca")
    assert (spec.path, spec.owner) == (Path(f"/etc/kubernetes/{name}.kubeconfig"), ("root", user))
    assert spec.embed is (name == "admin")


def test_only_administrator_and_agent_are_above_authorization() -> None:
    above = {spec.name for spec in described().certificates if "system:masters" in spec.organizations}
    assert above == {"admin", "agent"}


def test_no_key_is_readable_by_more_users_than_need_it() -> None:
    wanted = described(datastore={"type": "etcd"})
    shared = {"ca": ("root", "kube-controller-manager"), "sa": ("kube-apiserver", "kube-controller-manager")}
    made_once: list[Authority | TokenKeys] = [*wanted.authorities, *wanted.tokens]
    for entry in made_once:
        assert entry.owner == shared.get(entry.name, ("root", "root"))
        assert entry.mode == (0o640 if entry.name in shared else 0o600)
    assert {spec.mode for spec in wanted.certificates} == {0o600}


def test_every_file_belongs_to_one_entry() -> None:
    for store in ("dqlite", "etcd"):
        wanted = described(datastore={"type": store})
        paths = [path for authority in wanted.authorities for path in authority.paths]
        paths += [path for pair in wanted.tokens for path in pair.paths]
        paths += [path for spec in wanted.certificates for path in (spec.certificate, spec.key)]
        paths += [spec.path for spec in wanted.kubeconfigs]
        assert len(paths) == len(set(paths))
        assert {path.parent for path in paths} <= set(wanted.directories)


@pytest.mark.parametrize(
    ("store", "names"),
    [("dqlite", {"dqlite/member"}), ("etcd", {"etcd/server", "etcd/peer", "apiserver-etcd-client"})],
)
def test_datastore_has_an_authority_of_its_own(store: str, names: set[str]) -> None:
    wanted = described(datastore={"type": store})
    assert {spec.name for spec in wanted.certificates if spec.ca.name == f"{store}/ca"} == names
    for name in names - {"apiserver-etcd-client"}:
        spec = wanted.certificate(name)
        assert set(spec.usages) == {Usage.SERVER, Usage.CLIENT}
        assert {"192.0.2.7", "2001:db8::7"} <= set(spec.ip_addresses)
        assert spec.owner == ("datastore", "datastore")


def test_nothing_of_the_cluster_is_signed_by_the_authority_of_administrators() -> None:
    assert all(spec.ca.name != "admin-client-ca" for spec in described().certificates)


def test_worker_is_given_no_authority() -> None:
    config = Config.from_dict({"role": "worker", "cluster": {"api-address": "api.example.org"}})
    wanted = catalogue(config, "node-2", ["192.0.2.8", "198.51.100.8"])
    assert (wanted.authorities, wanted.tokens) == ((), ())
    names = {spec.name for spec in wanted.certificates}
    clients = {"agent", "kubelet-client", "kube-proxy", "flanneld", "coredns"}
    features = {"network-policy", "traefik", "load-balancer", "local-storage"}
    assert names == {"basalt-api", "kubelet", *clients, *features}
    for spec in wanted.certificates:
        assert set(spec.dns_names) <= {"node-2", "localhost"}, "never the API's names"
        assert set(spec.ip_addresses) <= {"192.0.2.8", "127.0.0.1", "::1"}, (
            "only the address that was checked"
        )
    assert wanted.certificate("agent").organizations == ("basalt:nodes",)
    assert wanted.certificate("basalt-api").common_name != described().certificate("basalt-api").common_name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["192.0.2.7/24", "192.0.2.7"], ("192.0.2.7",)),
        (["fe80::1%eth0/64", "2001:DB8::0:1"], ("fe80::1", "2001:db8::1")),
        ([], ()),
    ],
)
def test_normalized(given: list[str], expected: tuple[str, ...]) -> None:
    assert normalized(given) == expected


def test_kubeconfig_text_survives_odd_names() -> None:
    name = 'a "b": c\n#é'
    data = yaml.safe_load(kubeconfig("https://[2001:db8::1]:6443", b"ca", b"cert", b"key", "no", name))
    assert data == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": "https://[2001:db8::1]:6443", "certificate-authority-data": "Y2E="},
            }
        ],
        "users": [{"name": "no", "user": {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5"}}],
        "contexts": [{"name": f"no@{name}", "context": {"cluster": name, "user": "no"}}],
        "current-context": f"no@{name}",
    }


def subject(spec: CertificateSpec) -> str:
    parts = [f"CN={spec.common_name}", *(f"O={name}" for name in spec.organizations)]
    return ", ".join(parts).replace("node-1", "NODE")


def test_page_lists_every_file_with_its_subject_and_owner() -> None:
    """A table by hand reads better than a made one, and this keeps it true."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0]] = cells[1:]
    expected = {}
    for store in ("dqlite", "etcd"):
        wanted = described(datastore={"type": store})
        for authority in wanted.authorities:
            expected[f"{authority.name}.crt"] = (
                f"CN={authority.common_name}",
                authority.owner,
                authority.mode,
            )
        for spec in wanted.certificates:
            expected[f"{spec.name}.crt"] = (subject(spec), spec.owner, spec.mode)
        for pair in wanted.tokens:
            expected["sa.key"] = ("", pair.owner, pair.mode)
        for config in wanted.kubeconfigs:
            expected[config.path.name] = (
                config.client.common_name.replace("node-1", "NODE"),
                config.owner,
                config.mode,
            )
    for spec in described(role="worker").certificates:
        known = expected.get(f"{spec.name}.crt")
        if known is None or known[0] != subject(spec):
            expected[f"{spec.name}.crt on a worker"] = (subject(spec), spec.owner, spec.mode)
    assert set(rows) == set(expected)
    for name, (who, owner, mode) in expected.items():
        assert owner is not None
        text = " ".join(rows[name])
        assert who in text, name
        assert re.search(rf"\b{owner[0]}:{owner[1]} {mode:04o}\b", text), name
