# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments that the document may not set, each with the reason.

Anything else may be given in `services.<name>.extra-args` and then replaces what Basalt would set.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_PKI = "certificates and keys are made and renewed by Basalt"
_AUTH = "who may do what is decided by files that Basalt writes"
_FILE = "the configuration file is written by Basalt"
_PORT = "other parts of the node rely on this address"
_PLACE = "the place is part of the image's layout"
_DATA = "the datastore is chosen by `datastore.type`"
_MEMBER = "membership of the datastore is Basalt's"
_END = "the program would print something and end"
_PODS = "set by `cluster.pod-cidr`"
_SERVICES = "set by `cluster.service-cidr`"
_NAME = "set by `node.name`"
_IP = "set by `node.ip`"
_IPV6 = "set by `node.ipv6`"
_LOSS = "acknowledged writes could be lost"

EVERYWHERE = {"help": _END, "h": _END, "version": _END}

OWNED: dict[str, dict[str, str]] = {
    "kube-apiserver": {
        "etcd-servers*": _DATA,
        "etcd-*file": _DATA,
        "etcd-prefix": _DATA,
        "storage-backend": _DATA,
        "tls-cert-file": _PKI,
        "tls-private-key-file": _PKI,
        "client-ca-file": _PKI,
        "cert-dir": _PKI,
        "kubelet-client-*": _PKI,
        "kubelet-certificate-authority": _PKI,
        "proxy-client-*": _PKI,
        "requestheader-*": _PKI,
        "service-account-issuer": _PKI,
        "service-account-key-file": _PKI,
        "service-account-signing-key-file": _PKI,
        "service-cluster-ip-range": _SERVICES,
        "advertise-address": _IP,
        "bind-address": _PORT,
        "secure-port": _PORT,
        "authentication-config": _AUTH,
        "anonymous-auth": _AUTH,
        "oidc-*": _AUTH,
        "authorization-*": _AUTH,
    },
    "kube-controller-manager": {
        "kubeconfig": _AUTH,
        "authentication-*": _AUTH,
        "authorization-*": _AUTH,
        "use-service-account-credentials": _AUTH,
        "master": _PORT,
        "bind-address": _PORT,
        "secure-port": _PORT,
        "cluster-name": "set by `cluster.name`",
        "cluster-cidr": _PODS,
        "allocate-node-cidrs": _PODS,
        "service-cluster-ip-range": _SERVICES,
        "cluster-signing-*": _PKI,
        "root-ca-file": _PKI,
        "service-account-private-key-file": _PKI,
        "tls-cert-file": _PKI,
        "tls-private-key-file": _PKI,
        "client-ca-file": _PKI,
        "cert-dir": _PKI,
        "requestheader-*": _PKI,
        "flex-volume-plugin-dir": _PLACE,
    },
    "kube-scheduler": {
        "config": _FILE,
        "write-config-to": _END,
        "kubeconfig": _AUTH,
        "authentication-*": _AUTH,
        "authorization-*": _AUTH,
        "master": _PORT,
        "bind-address": _PORT,
        "secure-port": _PORT,
        "tls-cert-file": _PKI,
        "tls-private-key-file": _PKI,
        "client-ca-file": _PKI,
        "cert-dir": _PKI,
        "requestheader-*": _PKI,
    },
    "kubelet": {
        "config": _FILE,
        "config-dir": _FILE,
        "kubeconfig": _AUTH,
        "bootstrap-kubeconfig": _AUTH,
        "anonymous-auth": _AUTH,
        "authentication-*": _AUTH,
        "authorization-*": _AUTH,
        "client-ca-file": _PKI,
        "tls-cert-file": _PKI,
        "tls-private-key-file": _PKI,
        "cert-dir": _PKI,
        "rotate-*": _PKI,
        "hostname-override": _NAME,
        "node-ip": _IP,
        "node-labels": "set by `node.labels`",
        "register-with-taints": "set by `node.taints`",
        "cluster-dns": "set by `features.dns.service-ip`",
        "cluster-domain": "set by `cluster.domain`",
        "address": _PORT,
        "port": _PORT,
        "healthz-*": _PORT,
        "container-runtime-endpoint": _PLACE,
        "image-service-endpoint": _PLACE,
        "root-dir": _PLACE,
        "volume-plugin-dir": _PLACE,
        "cgroup-driver": _PLACE,
    },
    "kube-proxy": {
        "config": _FILE,
        "write-config-to": _END,
        "cleanup": _END,
        "init-only": _END,
        "kubeconfig": _AUTH,
        "master": _PORT,
        "healthz-bind-address": _PORT,
        "cluster-cidr": _PODS,
        "hostname-override": _NAME,
        "proxy-mode": "the image has only what the nftables mode needs",
    },
    "containerd": {
        "config": _FILE,
        "c": _FILE,
        "address": _PLACE,
        "a": _PLACE,
        "root": _PLACE,
        "state": _PLACE,
        "v": _END,
    },
    "etcd": {
        "config-file": _FILE,
        "name": _NAME,
        "data-dir": _PLACE,
        "wal-dir": _PLACE,
        "listen-*": _PORT,
        "advertise-*": _PORT,
        "initial-*": _MEMBER,
        "discovery*": _MEMBER,
        "force-new-cluster*": _MEMBER,
        "client-cert-*": _PKI,
        "trusted-ca-file": _PKI,
        "cert-file": _PKI,
        "key-file": _PKI,
        "auto-tls": _PKI,
        "peer-*": _PKI,
        "unsafe-no-fsync": _LOSS,
    },
    "k8s-dqlite": {
        "storage-dir": _PLACE,
        "control": _PLACE,
        "listen": _PORT,
        "address": _PORT,
        "cluster": _MEMBER,
        "failure-domain": "set by the label `topology.kubernetes.io/zone` of `node.labels`",
        "tls*": _PKI,
        "cert*": _PKI,
        "key*": _PKI,
    },
    "flanneld": {
        "kube-subnet-mgr": _DATA,
        "etcd-*": _DATA,
        "kubeconfig-file": _AUTH,
        "kube-api-url": _PORT,
        "net-config-path": _FILE,
        "subnet-file": _PLACE,
        "public-ip": _IP,
        "public-ipv6": _IPV6,
        "healthz-*": _PORT,
    },
    "coredns": {
        "conf": _FILE,
        "dns.port": _PORT,
        "p": _PORT,
        "pidfile": _PLACE,
        "plugins": _END,
    },
    "metrics-server": {
        "kubeconfig": _AUTH,
        "authentication-*": _AUTH,
        "authorization-*": _AUTH,
        "bind-address": _PORT,
        "secure-port": _PORT,
        "tls-cert-file": _PKI,
        "tls-private-key-file": _PKI,
        "client-ca-file": _PKI,
        "cert-dir": _PKI,
        "requestheader-*": _PKI,
        "kubelet-certificate-authority": _PKI,
        "kubelet-client-*": _PKI,
        "kubelet-insecure-tls": _AUTH,
        "deprecated-kubelet-completely-insecure": _AUTH,
    },
}


def reason(service: str, argument: str) -> str | None:
    """Return why the document may not set the argument of the service, None when it may."""
    # Kubernetes' programs take an underscore for a hyphen, and Go's own flags have no case to ignore.
    name = argument.replace("_", "-")
    table = {**EVERYWHERE, **OWNED.get(service, {})}
    return next((why for pattern, why in table.items() if fnmatchcase(name, pattern)), None)
