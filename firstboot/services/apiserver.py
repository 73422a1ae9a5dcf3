# SPDX-License-Identifier: Apache-2.0
"""kube-apiserver."""

from __future__ import annotations

import json

from firstboot.datastores import Endpoint
from firstboot.files import File
from firstboot.kube import Trust
from firstboot.paths import KUBERNETES, PKI
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

OWNER = ("root", "kube-apiserver")
READYZ = "https://127.0.0.1:6443/readyz"
AUTHENTICATION = KUBERNETES / "apiserver-authentication.json"

# Health is open to load balancers; everything else asks who you are.
ANONYMOUS_PATHS = ("/livez", "/readyz", "/healthz")


def service(node: Node, datastore: Endpoint) -> Service:
    """Return the API server in front of a datastore."""
    cluster = node.config.cluster
    return Service(
        unit="kube-apiserver",
        probe=HttpProbe(READYZ, Trust.CLUSTER),
        needs=("datastore",),
        files=(authentication(), *datastore.files),
        arguments={
            "advertise-address": node.ip,
            "secure-port": "6443",
            "allow-privileged": "true",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "authentication-config": str(AUTHENTICATION),
            "client-ca-file": f"{PKI}/ca-trusted.crt",
            "tls-cert-file": f"{PKI}/apiserver.crt",
            "tls-private-key-file": f"{PKI}/apiserver.key",
            "tls-min-version": "VersionTLS12",
            "kubelet-client-certificate": f"{PKI}/apiserver-kubelet-client.crt",
            "kubelet-client-key": f"{PKI}/apiserver-kubelet-client.key",
            "kubelet-certificate-authority": f"{PKI}/ca-trusted.crt",
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": f"{PKI}/front-proxy-client.crt",
            "proxy-client-key-file": f"{PKI}/front-proxy-client.key",
            "service-account-issuer": f"https://kubernetes.default.svc.{cluster.domain}",
            "service-account-key-file": f"{PKI}/sa.pub",
            "service-account-signing-key-file": f"{PKI}/sa.key",
            "service-cluster-ip-range": cluster.service_cidr,
            "profiling": "false",
            # Without, one that is asked to stop waits a minute for watches that nobody ends.
            "shutdown-watch-termination-grace-period": "5s",
            **datastore.arguments,
        },
    )


def authentication() -> File:
    """Return the structured authentication settings: anonymous requests reach the health paths only."""
    settings = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": True, "conditions": [{"path": path} for path in ANONYMOUS_PATHS]},
    }
    return File(AUTHENTICATION, (json.dumps(settings, indent=2) + "\n").encode(), 0o640, OWNER)
