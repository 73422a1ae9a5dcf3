# SPDX-License-Identifier: Apache-2.0
"""Every key, certificate and kubeconfig of a node: a pure description made from the document and the facts.

File names are those kubeadm has made known, wherever kubeadm has the same file. docs/certificates.md is the
same list for readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from pathlib import Path
from typing import NamedTuple

from firstboot import files
from firstboot.config import Config, DatastoreType
from firstboot.pki.ca import Authority, Given
from firstboot.pki.kubeconfig import KubeconfigSpec
from firstboot.pki.leaf import CertificateSpec, Usage
from firstboot.pki.tokens import TokenKeys
from firstboot.pki.trusted import Trusted
from firstboot.values import parse_ip

ROOT = Path("/etc/kubernetes")

LOCAL_API = "https://127.0.0.1:6443"
"""How services reach the API: the API server or, on a worker, the balancer of their own machine."""

ADMINISTRATORS = "system:masters"
"""The group no authorizer refuses: for break-glass access and for the agent, which has to repair RBAC."""

KUBELET_CLIENT = "kube-apiserver-kubelet-client"
"""User the API server is at kubelets; needs a binding to the ClusterRole system:kubelet-api-admin."""

CONTROL_PLANE_API = "basalt-api"
"""Common name by which the agent of a control plane is known, whatever host name it is reached by."""

CONTROL_PLANE_AGENT = "basalt-agent"
"""Common name of a control plane's agent as a client."""

METRICS_SERVER_NAME = "metrics-server.kube-system.svc"
"""By which API servers know it: the name of its Service."""

NODES = "basalt:nodes"
"""Group of the agents of workers: they read nodes, and may ask a control plane for certificates."""

LOCAL_STORAGE = "basalt:local-storage"
"""Group of the services that make volumes; each is known by the name of its node besides."""

LOOPBACK = ("127.0.0.1", "::1")

BOTH = (Usage.SERVER, Usage.CLIENT)


class Identity(NamedTuple):
    """A service of the node as a client of the API.

    file: of its certificate and kubeconfig
    user: of the system, under which it runs
    """

    file: str
    common_name: str
    organizations: tuple[str, ...] = ()
    user: str = "root"


@dataclass(frozen=True)
class Catalogue:
    """All that has to exist on a node, in the order in which it is made."""

    directories: tuple[Path, ...]
    authorities: tuple[Authority, ...]
    tokens: tuple[TokenKeys, ...]
    trusted: tuple[Trusted, ...]
    certificates: tuple[CertificateSpec, ...]
    kubeconfigs: tuple[KubeconfigSpec, ...]

    def authority(self, name: str) -> Authority:
        """Return the authority of that name. Raises KeyError."""
        return {entry.name: entry for entry in self.authorities}[name]

    @property
    def foreign(self) -> tuple[Authority, ...]:
        """Authorities that have signed certificates of the node and whose keys are elsewhere: a worker's."""
        signed = dict.fromkeys(spec.ca for spec in self.certificates)
        return tuple(each for each in signed if each not in self.authorities)

    def certificate(self, name: str) -> CertificateSpec:
        """Return the certificate of that name. Raises KeyError."""
        return {entry.name: entry for entry in self.certificates}[name]

    def kubeconfig(self, name: str) -> KubeconfigSpec:
        """Return the kubeconfig of that name. Raises KeyError."""
        return {entry.name: entry for entry in self.kubeconfigs}[name]

    def unowned(self) -> Catalogue:
        """Return the same with all files left to the present user, who need not be root."""

        def free(spec: CertificateSpec) -> CertificateSpec:
            return replace(spec, owner=None, ca=replace(spec.ca, owner=None))

        return replace(
            self,
            authorities=tuple(replace(entry, owner=None) for entry in self.authorities),
            tokens=tuple(replace(entry, owner=None) for entry in self.tokens),
            certificates=tuple(free(entry) for entry in self.certificates),
            kubeconfigs=tuple(
                replace(entry, owner=None, client=free(entry.client)) for entry in self.kubeconfigs
            ),
        )


def catalogue(config: Config, node_name: str, node_ips: Iterable[str], root: Path = ROOT) -> Catalogue:
    """Describe the node.

    node_ips: addresses of the node that others may reach it by; prefix lengths and scopes are dropped
    A worker holds no authority: its certificates are described, and a control plane has to issue them, for its
    first address only, which no other node has. A certificate for any address it names could be another node's.
    """
    addresses = normalized(node_ips)
    if not config.role.has_control_plane:
        addresses = addresses[:1]
    authorities = _authorities(config, root / "pki")
    certificates = _node_certificates(authorities["ca"], node_name, addresses)
    clients = list(_node_identities(node_name))
    if config.role.has_control_plane:
        certificates = (
            *_control_plane_certificates(config, authorities, node_name, addresses),
            *certificates,
        )
        clients = [*_control_plane_identities(), *clients]
    else:
        # Not by the name of a control plane's: who wants to join there must not be talked to by a worker.
        api = _rest_api("basalt-worker-api", authorities["ca"], (node_name,), addresses)
        certificates = (api, *certificates)
        clients = [Identity("agent", f"basalt:node:{node_name}", (NODES,)), *clients]
    by_file = {identity.file: _client(authorities["ca"], identity) for identity in clients}
    return Catalogue(
        directories=_directories(config, root),
        authorities=tuple(authorities.values()) if config.role.has_control_plane else (),
        tokens=(_tokens(root / "pki"),) if config.role.has_control_plane else (),
        trusted=_trusted(config, authorities["ca"]),
        certificates=(*certificates, *by_file.values()),
        kubeconfigs=tuple(
            _kubeconfig(config, root, identity, by_file[identity.file]) for identity in clients
        ),
    )


def service_names(config: Config) -> tuple[str, ...]:
    """Return the names by which pods know the API."""
    service = "kubernetes.default.svc"
    return ("kubernetes", "kubernetes.default", service, f"{service}.{config.cluster.domain}")


def normalized(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return each address once, in canonical form, without prefix length and scope."""
    plain = (str(ip_interface(address.partition("%")[0]).ip) for address in addresses)
    return tuple(dict.fromkeys(plain))


def _directories(config: Config, root: Path) -> tuple[Path, ...]:
    pki = root / "pki"
    ours = config.role.has_control_plane and config.datastore.type.is_ours
    return (root, pki, pki / config.datastore.type) if ours else (root, pki)


def _authorities(config: Config, pki: Path) -> dict[str, Authority]:
    def authority(
        name: str, common_name: str, owner: files.Owner = ("root", "root"), mode: int = 0o600
    ) -> Authority:
        return Authority(name, common_name, pki / f"{name}.crt", pki / f"{name}.key", owner, mode)

    # The controller manager signs certificate requests of the cluster, for example those of kubelets.
    cluster = replace(
        authority("ca", "kubernetes", ("root", "kube-controller-manager"), 0o640), given=_given(config)
    )
    kind = config.datastore.type
    return {
        "ca": cluster,
        "front-proxy-ca": authority("front-proxy-ca", "front-proxy-ca"),
        **({"datastore": authority(f"{kind}/ca", f"{kind}-ca")} if kind.is_ours else {}),
        "admin-client-ca": authority("admin-client-ca", "basalt-admin-client-ca"),
    }


def _trusted(config: Config, ca: Authority) -> tuple[Trusted, ...]:
    believed = Trusted(ca)
    return (believed, Trusted(ca, alone=True)) if config.role.has_control_plane else (believed,)


def _given(config: Config) -> Given | None:
    given = config.certificates.ca
    if given.certificate is None or given.key is None:
        return None
    return Given(given.certificate.encode(), given.key.encode())


def _tokens(pki: Path) -> TokenKeys:
    # Two services read it and have no group in common: one does as the owner, the other as the group.
    owner = ("kube-apiserver", "kube-controller-manager")
    return TokenKeys("sa", pki / "sa.key", pki / "sa.pub", owner, 0o640)


def _control_plane_certificates(
    config: Config, authorities: dict[str, Authority], node_name: str, addresses: tuple[str, ...]
) -> tuple[CertificateSpec, ...]:
    pki = authorities["ca"].certificate.parent
    owner = ("kube-apiserver", "kube-apiserver")
    api_names, api_addresses = _split(config.cluster.api_hosts)
    return (
        _apiserver(config, authorities["ca"], node_name, addresses),
        CertificateSpec(
            "apiserver-kubelet-client", authorities["ca"], KUBELET_CLIENT, owner=owner, directory=pki
        ),
        CertificateSpec(
            "front-proxy-client",
            authorities["front-proxy-ca"],
            "front-proxy-client",
            owner=owner,
            directory=pki,
        ),
        _rest_api(
            CONTROL_PLANE_API,
            authorities["ca"],
            (node_name, *api_names),
            (*addresses, *LOOPBACK, *api_addresses),
        ),
        _own_server("controller-manager", authorities["ca"], "kube-controller-manager"),
        _own_server("scheduler", authorities["ca"], "kube-scheduler"),
        _own_server("metrics-server", authorities["ca"], "metrics-server", METRICS_SERVER_NAME),
        *_datastore(config, authorities, node_name, addresses, pki),
    )


def _apiserver(config: Config, ca: Authority, node_name: str, addresses: tuple[str, ...]) -> CertificateSpec:
    extra_names, extra_addresses = _split(config.cluster.api_hosts)
    return CertificateSpec(
        "apiserver",
        ca,
        "kube-apiserver",
        dns_names=_unique(*service_names(config), node_name, "localhost", *extra_names),
        ip_addresses=_unique(config.cluster.api_service_ip, *addresses, *LOOPBACK, *extra_addresses),
        usages=(Usage.SERVER,),
        owner=("kube-apiserver", "kube-apiserver"),
        directory=ca.certificate.parent,
    )


def _own_server(file: str, ca: Authority, user: str, name: str = "") -> CertificateSpec:
    """Return what a service shows to those who ask for its health and metrics; user: of the system.

    It is for a name of its own, the user's without another, and no address: with one for 127.0.0.1 it could pose as
    the API server.
    """
    return CertificateSpec(
        f"{file}-server",
        ca,
        user,
        dns_names=(name or user,),
        usages=(Usage.SERVER,),
        owner=(user, user),
        directory=ca.certificate.parent,
    )


def _rest_api(
    common_name: str, ca: Authority, names: tuple[str, ...], addresses: tuple[str, ...]
) -> CertificateSpec:
    return CertificateSpec(
        "basalt-api",
        ca,
        common_name,
        dns_names=_unique(*names, "localhost"),
        ip_addresses=_unique(*addresses, *LOOPBACK),
        usages=(Usage.SERVER,),
        directory=ca.certificate.parent,
    )


def _datastore(
    config: Config, authorities: dict[str, Authority], node_name: str, addresses: tuple[str, ...], pki: Path
) -> tuple[CertificateSpec, ...]:
    def member(name: str) -> CertificateSpec:
        # Members are clients of each other, and etcd shows its server certificate to itself as a client.
        return CertificateSpec(
            name,
            authorities["datastore"],
            node_name,
            dns_names=_unique(node_name, "localhost"),
            ip_addresses=_unique(*addresses, *LOOPBACK),
            usages=BOTH,
            owner=("datastore", "datastore"),
            directory=pki,
        )

    match config.datastore.type:
        case DatastoreType.DQLITE:
            return (member("dqlite/member"),)
        case DatastoreType.ETCD:
            client = CertificateSpec(
                "apiserver-etcd-client",
                authorities["datastore"],
                "kube-apiserver-etcd-client",
                owner=("kube-apiserver", "kube-apiserver"),
                directory=pki,
            )
            return (member("etcd/server"), member("etcd/peer"), client)
        case DatastoreType.EXTERNAL:
            # Its owner has made the client's certificate, which comes with the document.
            return ()


def _node_certificates(
    ca: Authority, node_name: str, addresses: tuple[str, ...]
) -> tuple[CertificateSpec, ...]:
    kubelet = CertificateSpec(
        "kubelet",
        ca,
        f"system:node:{node_name}",
        ("system:nodes",),
        dns_names=(node_name,),
        ip_addresses=addresses,
        usages=(Usage.SERVER,),
        directory=ca.certificate.parent,
    )
    return (kubelet,)


def _control_plane_identities() -> tuple[Identity, ...]:
    return (
        Identity("admin", "kubernetes-admin", (ADMINISTRATORS,)),
        Identity("agent", CONTROL_PLANE_AGENT, (ADMINISTRATORS,)),
        Identity("controller-manager", "system:kube-controller-manager", user="kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler", user="kube-scheduler"),
        Identity("metrics-server", "metrics-server", user="metrics-server"),
        Identity("load-balancer-allocator", "load-balancer-allocator", user="load-balancer"),
    )


def _node_identities(node_name: str) -> tuple[Identity, ...]:
    return (
        Identity("kubelet", f"system:node:{node_name}", ("system:nodes",)),
        Identity("kube-proxy", "system:kube-proxy", user="kube-proxy"),
        Identity("flanneld", "flanneld", user="flannel"),
        Identity("network-policy", "network-policy", user="network-policy"),
        Identity("coredns", "coredns", user="coredns"),
        Identity("traefik", "traefik", user="traefik"),
        Identity("local-storage", f"{LOCAL_STORAGE}:{node_name}", (LOCAL_STORAGE,), user="local-storage"),
        Identity("load-balancer", "load-balancer", user="load-balancer"),
    )


def _client(ca: Authority, identity: Identity) -> CertificateSpec:
    # kubelet.crt is the certificate kubelet serves with, as kubeadm has it.
    name = "kubelet-client" if identity.file == "kubelet" else identity.file
    return CertificateSpec(
        name,
        ca,
        identity.common_name,
        identity.organizations,
        owner=(identity.user, identity.user),
        directory=ca.certificate.parent,
    )


def _kubeconfig(config: Config, root: Path, identity: Identity, client: CertificateSpec) -> KubeconfigSpec:
    embed = identity.file == "admin"
    return KubeconfigSpec(
        name=identity.file,
        path=root / f"{identity.file}.kubeconfig",
        server=LOCAL_API,
        cluster_name=config.cluster.name,
        client=client,
        embed=embed,
        # A service reads where its API is and must not be able to choose another one.
        owner=("root", identity.user),
        mode=0o600 if identity.user == "root" else 0o640,
    )


def _split(hosts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (names, addresses) of hosts that may be either."""
    addresses = {host: str(address) for host in hosts if (address := parse_ip(host)) is not None}
    return tuple(host for host in hosts if host not in addresses), tuple(addresses.values())


def _unique(*values: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
