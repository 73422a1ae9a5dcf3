# SPDX-License-Identifier: Apache-2.0
"""containerd: its configuration is part of the image; the document adds registry mirrors and a proxy."""

from __future__ import annotations

from collections.abc import Mapping

from firstboot.config import Config
from firstboot.files import File
from firstboot.paths import CONTAINERD_REGISTRIES, CONTAINERD_SOCKET
from firstboot.probes import SocketProbe
from firstboot.services.model import Node, Service

UPSTREAMS = {"docker.io": "registry-1.docker.io"}
"""Registries whose images come from a host with another name."""


def service(node: Node) -> Service:
    """Return the runtime, with the proxy's variables where the document has one."""
    return Service(
        unit="containerd",
        probe=SocketProbe(CONTAINERD_SOCKET),
        environment=proxy_environment(node),
    )


def proxy_environment(node: Node) -> dict[str, str]:
    """Return the usual variables; the cluster's own networks never go through the proxy."""
    proxy, cluster = node.config.proxy, node.config.cluster
    if not (proxy.http or proxy.https):
        return {}
    direct = [
        *proxy.no_proxy,
        "localhost",
        "127.0.0.1",
        *node.ips,
        *cluster.pod_networks,
        *cluster.service_networks,
        f".{cluster.domain}",
    ]
    variables = {"HTTP_PROXY": proxy.http, "HTTPS_PROXY": proxy.https, "NO_PROXY": ",".join(direct)}
    return {name: value for name, value in variables.items() if value}


def mirrors(config: Config) -> tuple[File, ...]:
    """Return a hosts.toml for each registry with mirrors; containerd reads them at each pull."""
    registries: Mapping[str, tuple[str, ...]] = config.registries.mirrors
    return tuple(
        File(CONTAINERD_REGISTRIES / registry / "hosts.toml", _hosts(registry, urls).encode(), 0o600)
        for registry, urls in registries.items()
    )


def _hosts(registry: str, urls: tuple[str, ...]) -> str:
    server = [] if registry == "_default" else [f'server = "https://{UPSTREAMS.get(registry, registry)}"', ""]
    hosts = [f'[host."{url}"]\n  capabilities = ["pull", "resolve"]' for url in urls]
    return "\n".join([*server, *hosts]) + "\n"
