# SPDX-License-Identifier: Apache-2.0
"""The balancer of a node without an API server: HAProxy on the loopback address in front of all of them."""

from __future__ import annotations

from collections.abc import Iterable

from firstboot.files import File
from firstboot.kube import Trust
from firstboot.paths import KUBERNETES, PKI
from firstboot.probes import Because, HttpProbe
from firstboot.services.apiserver import READYZ
from firstboot.services.model import Node, Service
from firstboot.values import bracketed

CONFIG = KUBERNETES / "api-balancer.cfg"
OWNER = ("root", "api-balancer")


def service(node: Node) -> Service:
    """Return the balancer in front of the API servers that the node knows."""
    return Service(
        unit="api-balancer",
        probe=Because("no control plane answers", HttpProbe(READYZ, Trust.CLUSTER)),
        files=(File(CONFIG, configuration(node.control_planes).encode(), 0o640, OWNER),),
        # It starts anew once, when both CAs are in the file: that it goes on to know the old one does no harm, since
        # its clients look for themselves, and they lose their connections for a moment.
        environment={"BASALT_CA": node.rotation.id} if node.rotation else {},
    )


def configuration(control_planes: Iterable[str]) -> str:
    """Return HAProxy's configuration.

    A server that is not ready gets no connections, and those that it has are closed: their clients find another
    one at once instead of waiting for a machine that is gone.
    """
    servers = "\n".join(f"    server {_name(host)} {bracketed(host)}:6443" for host in control_planes)
    return f"""\
global
    log stderr format short daemon notice
    maxconn 2048
defaults
    mode tcp
    log global
    timeout connect 3s
    timeout check 3s
    timeout client 1h
    timeout server 1h
frontend api
    bind 127.0.0.1:6443
    default_backend apiservers
backend apiservers
    balance leastconn
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host kubernetes
    http-check expect status 200
    option redispatch
    retries 3
    default-server check check-ssl verify required ca-file {PKI}/ca.crt inter 3s fastinter 500ms fall 2 rise 1
    default-server on-marked-down shutdown-sessions
{servers}
"""


def _name(host: str) -> str:
    return f"node-{host.replace(':', '-')}"
