# SPDX-License-Identifier: Apache-2.0
"""kube-controller-manager and kube-scheduler: the control plane's loops."""

from __future__ import annotations

from firstboot.kube import Trust
from firstboot.paths import KUBERNETES, PKI
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service


def health(name: str, port: int) -> HttpProbe:
    """Return how a loop is asked whether it works."""
    return HttpProbe(f"https://127.0.0.1:{port}/healthz", Trust.CLUSTER, f"kube-{name}")


def server_arguments(name: str, address: str) -> dict[str, str]:
    """Return how a service built like an API server reaches the API, where it listens, and whom it answers."""
    kubeconfig = f"{KUBERNETES}/{name}.kubeconfig"
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": address,
        # Without them it makes an RSA key at each start, which takes a small machine seconds.
        "tls-cert-file": f"{PKI}/{name}-server.crt",
        "tls-private-key-file": f"{PKI}/{name}-server.key",
        "tls-min-version": "VersionTLS12",
        "client-ca-file": f"{PKI}/ca-trusted.crt",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "profiling": "false",
    }


def loop_arguments(node: Node, name: str) -> dict[str, str]:
    """Return what both loops have in common."""
    return {
        **server_arguments(name, "127.0.0.1"),
        # With one control plane there is nobody to elect, and a lease left by a power cut would cost its duration.
        "leader-elect": "true" if node.control_planes else "false",
    }


def controller_manager(node: Node) -> Service:
    """Return the controller manager; it signs kubelet certificates and hands out pod networks."""
    cluster = node.config.cluster
    return Service(
        unit="kube-controller-manager",
        probe=health("controller-manager", 10257),
        needs=("apiserver",),
        # It gives pods the CA that it has read when it started.
        environment=node.ca_mark,
        arguments={
            **loop_arguments(node, "controller-manager"),
            "cluster-name": cluster.name,
            "allocate-node-cidrs": "true",
            "cluster-cidr": cluster.pod_cidr,
            "service-cluster-ip-range": cluster.service_cidr,
            # It does not start with a file of several certificates.
            "cluster-signing-cert-file": f"{PKI}/ca-signing.crt",
            "cluster-signing-key-file": f"{PKI}/ca.key",
            "root-ca-file": f"{PKI}/ca.crt",
            "service-account-private-key-file": f"{PKI}/sa.key",
            "use-service-account-credentials": "true",
            # Some two hundred requests for those accounts come before the first node gets its pod network; the default
            # of 20 a second spreads them over ten seconds.
            "kube-api-qps": "100",
            "kube-api-burst": "200",
            # /usr is read-only; the default folder lies in it.
            "flex-volume-plugin-dir": "/var/lib/kubelet/volumeplugins",
        },
    )


def scheduler(node: Node) -> Service:
    """Return the scheduler."""
    return Service(
        unit="kube-scheduler",
        probe=health("scheduler", 10259),
        needs=("apiserver",),
        arguments=loop_arguments(node, "scheduler"),
    )
