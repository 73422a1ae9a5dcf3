# SPDX-License-Identifier: Apache-2.0
"""The node's services: where they listen, what arguments they take, whom they ask."""

from __future__ import annotations

from firstboot.codes import Code
from firstboot.owned import reason
from firstboot.rules.model import POD_CIDR, Rules
from firstboot.schemacheck import show
from firstboot.strictyaml import Path
from firstboot.values import parse_ip, split_port, split_url

ONE_MASK: Path = ("basalt", "services", "kube-controller-manager", "extra-args", "node-cidr-mask-size")

PORTS = {
    53: "cluster DNS",
    80: "ingress and gateway",
    443: "ingress and gateway",
    179: "BGP of the load balancer",
    2379: "etcd",
    2380: "etcd",
    2381: "etcd",
    6400: "the REST API",
    6401: "the API for nodes",
    6443: "the Kubernetes API",
    9000: "dqlite",
    10248: "kubelet",
    10249: "kube-proxy",
    10250: "kubelet",
    10251: "metrics-server",
    10252: "traefik",
    10256: "kube-proxy",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
}
NODE_PORTS = range(30000, 32768)


def check(rules: Rules) -> None:
    """Note what would keep services from their work."""
    _listen(rules)
    _arguments(rules)
    _urls(rules)


def _listen(rules: Rules) -> None:
    """The status page listens where nothing else does."""
    path: Path = ("basalt", "status", "listen")
    text = rules.value(path)
    if text is None:
        return
    host, port = split_port(text)
    if parse_ip(host) is None:
        rules.fail(
            Code.BAD_ADDRESS,
            path,
            f"`{show(host)}` is no IP address",
            "Write `address:port`, e.g. `0.0.0.0:9180` for every interface.",
        )
    elif not 0 < port <= 65535:
        rules.fail(Code.BAD_VALUE, path, f"{port} is no TCP port", "Write a port from 1 to 65535, e.g. 9180.")
    elif port in PORTS or port in NODE_PORTS:
        user = PORTS.get(port, "Services of type NodePort")
        rules.fail(
            Code.PORT_IN_USE, path, f"port {port} belongs to {user}", "Choose another port, e.g. 9180."
        )


def _arguments(rules: Rules) -> None:
    """No extra argument breaks what Basalt itself relies on."""
    for service, _ in rules.entries(("basalt", "services")):
        for path, _ in rules.entries((*service, "extra-args")):
            why = reason(str(service[-1]), str(path[-1]))
            if why:
                rules.fail(Code.OWNED_ARGUMENT, path, f"`{show(path[-1])}` is Basalt's: {why}", "Remove it.")
    if rules.value(ONE_MASK) is not None and len(rules.networks_at(POD_CIDR)) > 1:
        rules.fail(
            Code.BAD_VALUE,
            ONE_MASK,
            "in a dual-stack cluster the networks of nodes have a length for each version",
            "Write `node-cidr-mask-size-ipv4`, `node-cidr-mask-size-ipv6` or both.",
        )


def _urls(rules: Rules) -> None:
    """Mirrors and proxies can be asked."""
    for registry, _ in rules.entries(("basalt", "registries", "mirrors")):
        for path, text in rules.entries(registry):
            url = split_url(text)
            if url is None or url.query or url.fragment or url.username is not None:
                rules.fail(
                    Code.BAD_URL,
                    path,
                    f"`{show(text)}`",
                    "Write http or https, host, port and path only, e.g. `https://mirror.example.org/v2`.",
                )
    for name in ("http", "https"):
        text = rules.value(("basalt", "proxy", name))
        url = None if text is None else split_url(text)
        if text is not None and (url is None or url.path not in ("", "/") or url.query or url.fragment):
            rules.fail(
                Code.BAD_URL,
                ("basalt", "proxy", name),
                f"`{show(text)}`",
                "Write scheme, host and port only, e.g. `http://proxy.example.org:3128`.",
            )
