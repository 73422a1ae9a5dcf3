# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects that tests and benchmarks make, each in the namespace default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]
GATEWAY_API = "gateway.networking.k8s.io/v1"
GATEWAY = "edge"


def described(api: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    """Return an object."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **content}


def text(*objects: Object) -> str:
    """Return what kubectl reads to have them all."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def service(name: str, app: str | None = None, *, target: int = 8080, **spec: Any) -> dict[str, Any]:
    """Return a Service with port 80; app: whose pods are behind it, None where endpoints are written by hand."""
    selector = {"selector": {"app": app}} if app else {}
    ports = [{"port": 80, "targetPort": target}]
    return described("v1", "Service", name, spec={**selector, "ports": ports, **spec})


def endpoints(name: str, addresses: Sequence[str], port: int, version: int = 4) -> dict[str, Any]:
    """Return what stands behind a Service without a selector, for one IP version."""
    made = described(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{name}-ipv{version}",
        addressType=f"IPv{version}",
        endpoints=[{"addresses": [each], "conditions": {"ready": True}} for each in addresses],
        ports=[{"port": port, "protocol": "TCP"}],
    )
    made["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    return made


def ingress(name: str, host: str, service: str) -> dict[str, Any]:
    """Return an Ingress by which a Service is reached by a name."""
    target = {"service": {"name": service, "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": target}]
    spec = {"rules": [{"host": host, "http": {"paths": paths}}]}
    return described("networking.k8s.io/v1", "Ingress", name, spec=spec)


def gateway() -> dict[str, Any]:
    """Return the Gateway that routes belong to."""
    listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
    spec = {"gatewayClassName": "basalt", "listeners": listeners}
    return described(GATEWAY_API, "Gateway", GATEWAY, spec=spec)


def http_route(name: str, host: str, service: str) -> dict[str, Any]:
    """Return an HTTPRoute by which a Service is reached by a name."""
    rules = [{"backendRefs": [{"name": service, "port": 80}]}]
    spec = {"parentRefs": [{"name": GATEWAY}], "hostnames": [host], "rules": rules}
    return described(GATEWAY_API, "HTTPRoute", name, spec=spec)


def volume_claim(name: str, size: str) -> dict[str, Any]:
    """Return a claim of the default class, e.g. of 64Mi."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return described("v1", "PersistentVolumeClaim", name, spec=spec)


def policy(name: str, app: str, allowed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a policy that isolates pods of a program from all but those allowed."""
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}
    if allowed:
        spec["ingress"] = [{"from": allowed, "ports": [{"port": 8080}]}]
    return described("networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)
