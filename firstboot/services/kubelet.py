# SPDX-License-Identifier: Apache-2.0
"""The kubelet."""

from __future__ import annotations

import json

from firstboot.files import File
from firstboot.paths import CONTAINERD_SOCKET, KUBERNETES, PKI, RESOLV_CONF
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

CONFIG = KUBERNETES / "kubelet.json"


def service(node: Node) -> Service:
    """Return the kubelet of this node."""
    return Service(
        unit="kubelet",
        probe=HttpProbe("http://127.0.0.1:10248/healthz"),
        # It needs none of the roles that the API server makes before it calls itself ready.
        needs=("containerd", "apiserver-listens"),
        files=(configuration(node),),
        arguments={
            "config": str(CONFIG),
            "kubeconfig": f"{KUBERNETES}/kubelet.kubeconfig",
            "hostname-override": node.name,
            "node-ip": ",".join(node.ips),
            **({"node-labels": _labels(node)} if node.config.node.labels else {}),
        },
    )


def configuration(node: Node) -> File:
    """Return the KubeletConfiguration."""
    config = node.config
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI}/ca-trusted.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{PKI}/kubelet.key",
        "tlsMinVersion": "VersionTLS12",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "systemd",
        "clusterDomain": config.cluster.domain,
        "clusterDNS": [config.features.dns.service_ip] if config.features.dns.enabled else [],
        "resolvConf": str(RESOLV_CONF),
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "registerWithTaints": [_taint(taint) for taint in config.node.taints],
        "protectKernelDefaults": True,
        "failSwapOn": False,
        "serializeImagePulls": False,
        "enableProfilingHandler": False,
        "shutdownGracePeriod": "30s",
        "shutdownGracePeriodCriticalPods": "10s",
        "systemReserved": {"cpu": "100m", "memory": "256Mi"},
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "5%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "5%",
        },
    }
    return File(CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def _labels(node: Node) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(node.config.node.labels.items()))


def _taint(text: str) -> dict[str, str]:
    key_value, _, effect = text.rpartition(":")
    key, _, value = key_value.partition("=")
    return {"key": key, "value": value, "effect": effect}
