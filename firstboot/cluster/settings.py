# SPDX-License-Identifier: Apache-2.0
"""What all nodes of a cluster have in common, as a part of the document.

The cluster's first control plane takes it from its document. A machine that joins takes it from the cluster,
so its own document stays short; where that says something all the same, it must say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import Failure

Settings = Mapping[str, Any]
"""The sections `cluster`, `datastore` and `features` of a document, every common key written out."""

SECTIONS = ("cluster", "datastore", "features")
OWN_KEYS = frozenset({"token", "bootstrap", "endpoints"})
"""Keys of `cluster` that are about one machine's way into it."""


def of(config: Config) -> dict[str, Any]:
    """Return the settings of a cluster that was started with this document."""
    cluster, network, dns = config.cluster, config.features.network, config.features.dns
    common: dict[str, Any] = {
        "name": cluster.name,
        "pod-cidr": cluster.pod_cidr,
        "service-cidr": cluster.service_cidr,
        "domain": cluster.domain,
    }
    if cluster.api_address is not None:
        common["api-address"] = cluster.api_address
    return {
        "cluster": common,
        "datastore": {"type": config.datastore.type.value},
        "features": {
            "network": {"enabled": network.enabled, "backend": network.backend.value},
            "dns": {
                "enabled": dns.enabled,
                "service-ip": dns.service_ip,
                "upstream-nameservers": list(dns.upstream_nameservers),
            },
        },
    }


def merged(document: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the document of a node in a cluster with these settings."""
    own = document.get("cluster", {})
    kept = {key: value for key, value in own.items() if key in OWN_KEYS}
    return {**document, **settings, "cluster": {**settings["cluster"], **kept}}


def conflicts(document: Mapping[str, Any], settings: Settings) -> tuple[Failure, ...]:
    """Return a failure for each value that the document has otherwise than the cluster."""
    return tuple(
        Failure(
            Code.DIFFERS_FROM_CLUSTER,
            path,
            f"is {own!r}, but the cluster has {common!r}",
            "Remove the key: a node that joins takes it from the cluster.",
        )
        for section in SECTIONS
        for path, own, common in _differences(
            document.get(section, {}), settings[section], f"basalt.{section}"
        )
    )


def _differences(own: Any, common: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(own, Mapping) and (common is None or isinstance(common, Mapping)):
        for key, value in own.items():
            if not (path == "basalt.cluster" and key in OWN_KEYS):
                yield from _differences(value, (common or {}).get(key), f"{path}.{key}")
    elif own != common:
        yield path, own, common
