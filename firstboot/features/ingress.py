# SPDX-License-Identifier: Apache-2.0
"""Features ingress and gateway: one Traefik on every node, for Ingresses and for the Gateway API.

It listens on ports 80 and 443 of the node. The Service `ingress` stands for all of them: its addresses are those that
Ingresses and Gateways tell their users, and a load balancer may give it one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from firstboot.features.model import Feature, allow, bind_user, cluster_role
from firstboot.kube import Object
from firstboot.paths import KUBERNETES, SHARE
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service
from firstboot.values import parse_ip

UNIT, USER = "traefik", "traefik"
CLASS = "basalt"
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
"""Where old descriptions of Ingresses name their class."""
"""Name of the IngressClass and of the GatewayClass."""
NAMESPACE, NAME = "kube-system", "ingress"
PUBLISHED = f"{NAMESPACE}/{NAME}"
HEALTH = "127.0.0.1:10252"
PORTS = {"http": 80, "https": 443}
DEFINITIONS = SHARE / "gateway-api"
"""The Gateway API's definitions, standard channel, as upstream publishes them."""


def features(node: Node) -> tuple[Feature, Feature]:
    """Return both for this node."""
    ingress, gateway = node.config.features.ingress.enabled, node.config.features.gateway.enabled
    nothing = () if is_on(node) else (service(),)
    return (
        Feature("ingress", (traefik(node),), (*INGRESS_RBAC, ingress_class(), service()))
        if ingress
        else Feature("ingress", leftovers=(ingress_class(), *INGRESS_RBAC, *nothing)),
        Feature(
            "gateway", (traefik(node),), (*GATEWAY_RBAC, gateway_class(), service()), definitions=DEFINITIONS
        )
        if gateway
        else Feature("gateway", leftovers=(gateway_class(), *GATEWAY_RBAC)),
    )


def is_on(node: Node) -> bool:
    """Whether any of the two is."""
    return node.config.features.ingress.enabled or node.config.features.gateway.enabled


def traefik(node: Node) -> Service:
    """Return Traefik for the features that are on."""
    ingress, gateway = node.config.features.ingress, node.config.features.gateway
    arguments = {"health": HEALTH, "published-service": PUBLISHED}
    if ingress.enabled:
        arguments |= {"ingress": "true", "ingress-class": CLASS}
        if ingress.default_tls_secret is not None:
            arguments["default-certificate"] = f"{NAMESPACE}/{ingress.default_tls_secret}"
        if ingress.enable_proxy_protocol:
            arguments["proxy-protocol-from"] = ",".join(ingress.trusted_proxies)
    if gateway.enabled:
        arguments["gateway"] = "true"
    return Service(
        unit=UNIT,
        probe=HttpProbe(f"http://{HEALTH}/ping"),
        needs=("apiserver",),
        # Its client, unlike those of Kubernetes' own services, does not read the CA again.
        environment={"KUBECONFIG": f"{KUBERNETES}/traefik.kubeconfig", **node.ca_mark},
        arguments=arguments,
    )


def service() -> Object:
    """Return the Service that stands for all nodes; it selects no pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"k8s-app": UNIT}},
        "spec": {
            "type": "LoadBalancer",
            # Each node serves, so nothing need be passed on, and who asks stays known.
            "externalTrafficPolicy": "Local",
            "allocateLoadBalancerNodePorts": False,
            "ports": [
                {"name": name, "port": port, "protocol": "TCP", "targetPort": port}
                for name, port in PORTS.items()
            ],
        },
    }


def endpoints(nodes: Iterable[tuple[str, str]]) -> Object:
    """Return where the Service leads: nodes that serve, as name and address, all of one IP version."""
    known = sorted(nodes)
    version = parse_ip(known[0][1]).version if known else 4  # type: ignore[union-attr]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "basalt",
            },
        },
        "addressType": f"IPv{version}",
        "endpoints": [
            {"addresses": [address], "nodeName": name, "conditions": {"ready": True}}
            for name, address in known
        ],
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in PORTS.items()],
    }


def status(addresses: Iterable[str]) -> Object:
    """Return the Service's status: addresses that lead to a node without any help of kube-proxy."""
    ingress: list[Any] = [{"ip": address, "ipMode": "Proxy"} for address in sorted(addresses)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def ingress_class() -> Object:
    """Return the class of Ingresses that are served, also of those that name none."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "traefik.io/ingress-controller"},
    }


def gateway_class() -> Object:
    """Return the class of Gateways that are served."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": CLASS},
        "spec": {"controllerName": "traefik.io/gateway-controller"},
    }


_CORE = [
    # Certificates are in Secrets of any namespace.
    allow("core", "services secrets nodes namespaces", "get list watch"),
    allow("discovery.k8s.io", "endpointslices", "get list watch"),
]
INGRESS_RBAC: tuple[Object, ...] = (
    cluster_role(
        "basalt:ingress",
        [
            *_CORE,
            allow("networking.k8s.io", "ingresses ingressclasses", "get list watch"),
            allow("networking.k8s.io", "ingresses/status", "update"),
        ],
    ),
    bind_user("basalt:ingress", USER),
)
_GATEWAY = "gateway.networking.k8s.io"
_ROUTES = ("httproutes", "grpcroutes", "tlsroutes")
GATEWAY_RBAC: tuple[Object, ...] = (
    cluster_role(
        "basalt:gateway",
        [
            *_CORE,
            allow("core", "configmaps", "get list watch"),
            allow(
                _GATEWAY,
                f"gatewayclasses gateways referencegrants backendtlspolicies {' '.join(_ROUTES)}",
                "get list watch",
            ),
            allow(
                _GATEWAY,
                " ".join(
                    f"{kind}/status"
                    for kind in ("gatewayclasses", "gateways", "backendtlspolicies", *_ROUTES)
                ),
                "update",
            ),
        ],
    ),
    bind_user("basalt:gateway", USER),
)
