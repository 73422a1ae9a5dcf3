# SPDX-License-Identifier: Apache-2.0
"""What all nodes of a cluster have in common, as a part of the document.

The cluster's first control plane takes it from its document. A machine that joins takes it from the cluster,
so its own document stays short; where that says something all the same, it must say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from firstboot.codes import Code
from firstboot.config import Config, DatastoreType
from firstboot.datastores import ASK_ITS_OWNER, NOT_OURS
from firstboot.failure import Failure

Settings = Mapping[str, Any]
"""The sections `cluster`, `datastore` and `features` of a document, every common key written out."""

SECTIONS = ("cluster", "datastore", "features")
OWN = frozenset(
    {
        *("cluster.token", "cluster.bootstrap", "cluster.endpoints"),
        *("datastore.backup", "datastore.external"),
    }
)
"""What stands in these sections and is about one machine: its ways into the cluster and into an etcd that somebody else
runs, the backups it keeps."""


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


def merged(
    document: Mapping[str, Any], settings: Settings, external: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the document of a node in a cluster with these settings.

    external: the cluster's `datastore.external`, for a control plane whose document has none
    """
    kept = {
        section: {key: value for key, value in document.get(section, {}).items() if f"{section}.{key}" in OWN}
        for section in SECTIONS
    }
    if external is not None:
        kept["datastore"].setdefault("external", external)
    return {**document, **{section: {**settings[section], **kept[section]} for section in SECTIONS}}


def conflicts(document: Mapping[str, Any], settings: Settings) -> tuple[Failure, ...]:
    """Return a failure for each value that the document has otherwise than the cluster, or cannot have in it."""
    differing = tuple(
        Failure(
            Code.DIFFERS_FROM_CLUSTER,
            f"basalt.{path}",
            f"is {own!r}, but the cluster has {common!r}",
            "Remove the key: a node that joins takes it from the cluster.",
        )
        for section in SECTIONS
        for path, own, common in _differences(document.get(section, {}), settings[section], section)
    )
    theirs = settings["datastore"]["type"] == DatastoreType.EXTERNAL
    if theirs and "backup" in document.get("datastore", {}):
        remedy = f"Remove the key. {ASK_ITS_OWNER}"
        return *differing, Failure(Code.NOT_POSSIBLE, "basalt.datastore.backup", NOT_OURS, remedy)
    return differing


def _differences(own: Any, common: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(own, Mapping) and (common is None or isinstance(common, Mapping)):
        for key, value in own.items():
            if f"{path}.{key}" not in OWN:
                yield from _differences(value, (common or {}).get(key), f"{path}.{key}")
    elif own != common:
        yield path, own, common
