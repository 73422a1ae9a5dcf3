# SPDX-License-Identifier: Apache-2.0
"""Feature metrics-server: what pods and nodes use, for `kubectl top` and the HorizontalPodAutoscaler.

A metrics server runs on each control plane and asks all kubelets. An API server has to reach the one of its own
machine only, so nothing is lost with another: the Service has the traffic policy Local, and each control plane adds
itself to its endpoints.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from firstboot.features.model import Feature, allow, bind_user, cluster_role
from firstboot.kube import Object, Trust
from firstboot.pki.catalogue import METRICS_SERVER_NAME
from firstboot.probes import All, Found, HttpProbe
from firstboot.services.controllers import server_arguments
from firstboot.services.model import Node, Service
from firstboot.values import bracketed, parse_ip

NAME = "metrics-server"
PORT = 10251
USER = "metrics-server"
NAMESPACE = "kube-system"


def feature(node: Node) -> Feature:
    """Return the feature for a control plane."""
    if not node.config.features.metrics_server.enabled:
        return Feature(NAME, leftovers=(api(b""), service(), *RBAC))
    return Feature(NAME, (server(node),), (*RBAC, service(), endpoint(node)), api=api)


def server(node: Node) -> Service:
    """Return the metrics server."""
    return Service(
        unit=NAME,
        probe=All(
            (
                # It counts a cluster without pods as one whose metrics are missing.
                HttpProbe(
                    f"https://{bracketed(node.ip)}:{PORT}/readyz?exclude=metric-storage-ready",
                    Trust.CLUSTER,
                    METRICS_SERVER_NAME,
                ),
                Found(f"/apis/metrics.k8s.io/v1beta1/nodes/{node.name}", "has no figures of this node"),
            )
        ),
        needs=("apiserver", "node"),
        arguments={
            **server_arguments(NAME, node.ip),
            # All that it would look up in the cluster is said here.
            "authentication-skip-lookup": "true",
            "requestheader-allowed-names": "front-proxy-client",
            "secure-port": str(PORT),
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "kubelet-use-node-status-port": "true",
            "metric-resolution": "15s",
        },
    )


def service() -> Object:
    """Return the Service by which API servers reach the metrics server of their own machine."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"k8s-app": NAME}},
        "spec": {
            "internalTrafficPolicy": "Local",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": PORT}],
        },
    }


def endpoint(node: Node) -> Object:
    """Return a control plane's part of the Service."""
    address: Any = parse_ip(node.ip)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": endpoint_name(node.name),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "basalt",
            },
        },
        "addressType": f"IPv{address.version}",
        "endpoints": [{"addresses": [node.ip], "nodeName": node.name, "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
    }


def endpoint_name(node: str) -> str:
    """Return the name of a control plane's EndpointSlice."""
    return f"{NAME}-{node}"


def api(authorities: bytes) -> Object:
    """Return what makes the API server pass on requests for metrics; authorities: whom it believes, PEM."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"name": NAME, "namespace": NAMESPACE, "port": 443},
            "caBundle": b64encode(authorities).decode(),
        },
    }


RBAC: tuple[Object, ...] = (
    cluster_role(
        "basalt:metrics-server",
        [
            allow("core", "nodes/metrics", "get"),
            allow("core", "nodes pods", "get list watch"),
        ],
    ),
    bind_user("basalt:metrics-server", USER),
    # It asks the API server who may read metrics.
    bind_user("system:auth-delegator", USER, "basalt:metrics-server:auth-delegator"),
    {
        **cluster_role("basalt:metrics-reader", [allow("metrics.k8s.io", "nodes pods", "get list watch")]),
        "metadata": {
            "name": "basalt:metrics-reader",
            "labels": {
                f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")
            },
        },
    },
)
