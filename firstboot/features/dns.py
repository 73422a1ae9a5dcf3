# SPDX-License-Identifier: Apache-2.0
"""Feature dns: CoreDNS on every node; pods ask the one on their own.

The address pods ask is that of the Service kube-dns. It lies on a dummy interface of each node, so the
question never leaves the node and no address translation is involved; a label keeps kube-proxy away from the
Service.
"""

from __future__ import annotations

from firstboot.features.model import Feature, allow, bind_user, cluster_role
from firstboot.files import File
from firstboot.kube import Object
from firstboot.paths import KUBERNETES
from firstboot.probes import HttpProbe
from firstboot.services.model import Node, Service

COREFILE = KUBERNETES / "Corefile"
RULES = KUBERNETES / "coredns.nft"
"""What CoreDNS's unit has nft do before it starts."""
USER = "coredns"


def feature(node: Node) -> Feature:
    """Return the feature for this node."""
    if not node.config.features.dns.enabled:
        return Feature("dns")
    return Feature("dns", (service(node),), (*RBAC, kube_dns(_address(node))))


def service(node: Node) -> Service:
    """Return CoreDNS."""
    address = _address(node)
    return Service(
        unit="coredns",
        probe=HttpProbe("http://127.0.0.1:8181/ready"),
        needs=("apiserver",),
        files=(File(COREFILE, corefile(node).encode()), File(RULES, rules(address).encode())),
        environment={"DNS_ADDRESS": f"{address}/{128 if ':' in address else 32}"},
        arguments={"conf": str(COREFILE)},
    )


def corefile(node: Node) -> str:
    """Return CoreDNS's configuration; without name servers to forward to, other names are refused."""
    address = _address(node)
    upstream = node.config.features.dns.upstream_nameservers or node.nameservers
    allowed = (*node.config.cluster.pod_networks, address, *node.ips, "127.0.0.0/8")
    forward = f"    forward . {' '.join(upstream)}\n" if upstream else ""
    return f"""\
.:53 {{
    bind {address}
    errors
    health 127.0.0.1:8180
    ready 127.0.0.1:8181
    prometheus 127.0.0.1:9153
    acl {{
        allow net {" ".join(allowed)}
        block
    }}
    kubernetes {node.config.cluster.domain} in-addr.arpa ip6.arpa {{
        kubeconfig {KUBERNETES}/coredns.kubeconfig
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }}
{forward}    cache 30
    loadbalance
}}
"""


def rules(address: str) -> str:
    """Return rules by which the node's own programs reach the address.

    kube-proxy drops new connections from the node to addresses of Services that it does not know, and this one it has
    to leave alone. What is not tracked is never new.
    """
    family = "ip6" if ":" in address else "ip"
    return f"""\
add table inet basalt-dns
delete table inet basalt-dns
table inet basalt-dns {{
    chain from-node {{
        type filter hook output priority raw; policy accept;
        {family} daddr {address} notrack
    }}
}}
"""


def kube_dns(address: str) -> Object:
    """Return the Service that reserves the address and tells tools where DNS is."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/name": "CoreDNS",
                "service.kubernetes.io/service-proxy-name": "basalt-node-dns",
            },
        },
        "spec": {
            "clusterIP": address,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }


def _address(node: Node) -> str:
    address = node.config.features.dns.service_ip
    assert address is not None, "Config.from_dict fills it"
    return address


RBAC: tuple[Object, ...] = (
    cluster_role(
        "basalt:coredns",
        [
            allow("core", "services pods namespaces", "list watch"),
            allow("discovery.k8s.io", "endpointslices", "list watch"),
        ],
    ),
    bind_user("basalt:coredns", USER),
)
