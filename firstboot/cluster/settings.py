# SPDX-License-Identifier: Apache-2.0
"""What all nodes of a cluster have in common, as a part of the document.

The cluster's first control plane takes it from its document, once; from then on it is an object in the cluster that
administrators change (see versions), and every node follows that. A document that says something about it all the
same has to say what the cluster has, or to be changed: that it is not, while the cluster is, is no mistake of anybody.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, reduce
from typing import Any

from firstboot import schema
from firstboot.codes import Code
from firstboot.config import Config, DatastoreType
from firstboot.datastores import ASK_ITS_OWNER, NOT_OURS
from firstboot.failure import Failure

Settings = Mapping[str, Any]
"""The sections `cluster`, `datastore` and `features` of a document, every common key written out."""

Values = Mapping[str, Any]
"""Settings by path, e.g. ``features.dns.enabled``; None stands for a key's default."""

SECTIONS = ("cluster", "datastore", "features")
DATASTORE, EXTERNAL = "datastore.type", "datastore.external"
OWN = frozenset({"cluster.token", "cluster.bootstrap", "cluster.endpoints", "datastore.backup", EXTERNAL})
"""What stands in these sections and is about one machine: its ways into the cluster and into an etcd that somebody else
runs, the backups it keeps."""

FIXED: Mapping[str, str] = {
    "cluster.pod-cidr": "nodes and pods have addresses of it",
    "cluster.service-cidr": "Services and certificates have addresses of it",
    "cluster.domain": "it is in certificates and in the names of all Services",
    DATASTORE: "all objects of the cluster are in it",
    "features.dns.service-ip": "every pod that runs asks this address",
}
"""What a cluster keeps for its life, and why."""


def of(config: Config) -> dict[str, Any]:
    """Return the settings of a cluster that was started with this document."""
    cluster, network, dns = config.cluster, config.features.network, config.features.dns
    ingress, metrics = config.features.ingress, config.features.metrics_server
    storage = config.features.local_storage
    common: dict[str, Any] = {
        "name": cluster.name,
        "pod-cidr": cluster.pod_cidr,
        "service-cidr": cluster.service_cidr,
        "domain": cluster.domain,
    }
    optional = {
        "api-address": cluster.api_address,
        "virtual-address": cluster.virtual_address,
        "virtual-router-id": cluster.virtual_router_id,
    }
    common |= {key: value for key, value in optional.items() if value is not None}
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
            "ingress": {
                "enabled": ingress.enabled,
                **({"default-tls-secret": ingress.default_tls_secret} if ingress.default_tls_secret else {}),
                "enable-proxy-protocol": ingress.enable_proxy_protocol,
                "trusted-proxies": list(ingress.trusted_proxies),
            },
            "gateway": {"enabled": config.features.gateway.enabled},
            "local-storage": {
                "enabled": storage.enabled,
                "local-path": storage.local_path,
                "reclaim-policy": storage.reclaim_policy.value,
                "default": storage.default,
            },
            "load-balancer": config.features.load_balancer.to_dict(),
            "metrics-server": {"enabled": metrics.enabled},
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


def stored_in(settings: Settings, datastore: DatastoreType) -> dict[str, Any]:
    """Return the settings with another datastore; all other values are what they were."""
    return {**settings, "datastore": {**settings["datastore"], "type": datastore.value}}


def stated(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a document says itself about the settings of its cluster, by path."""
    return flat({section: document.get(section, {}) for section in SECTIONS})


def flat(settings: Settings) -> dict[str, Any]:
    """Return those settings that have a value, by path."""
    values = {path: reduce(_below, path.split("."), settings) for path in paths()}
    return {path: value for path, value in values.items() if value is not None}


def _below(place: Any, key: str) -> Any:
    return place.get(key) if isinstance(place, Mapping) else None


@cache
def paths() -> tuple[str, ...]:
    """Return every key that the nodes of a cluster have in common, in the order of the schema."""
    loaded = schema.load("user-data")
    return tuple(path for path in keys(loaded) if path.partition(".")[0] in SECTIONS and not is_own(path))


def keys(described: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the path of every key below one of the schema that holds a value."""
    for key, inner in described["properties"].items():
        if "properties" in inner:
            yield from keys(inner, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def is_own(path: str) -> bool:
    """Whether a key of the sections is about one machine."""
    return any(path == own or path.startswith(f"{own}.") for own in OWN)


def news(said: Values, before: Values) -> dict[str, Any]:
    """Return what a document says otherwise than it did; None for what it has left out since."""
    return {path: said.get(path) for path in {**before, **said} if before.get(path) != said.get(path)}


def decides(config: Config, ip: str, control_planes: Iterable[str]) -> bool:
    """Whether a node's document is that of its whole cluster: it has started it and is its only control plane."""
    return not config.joins and set(control_planes) <= {ip}


def conflicts(said: Values, settings: Settings) -> tuple[Failure, ...]:
    """Return a failure for each value that a document has otherwise than the cluster."""
    common = flat(settings)
    return tuple(
        _conflict(path, value, common.get(path))
        for path, value in said.items()
        if value is not None and common.get(path) != value
    )


def impossible(document: Mapping[str, Any], settings: Settings) -> tuple[Failure, ...]:
    """Return a failure for what a document says about its own machine and cannot have in such a cluster."""
    theirs = settings["datastore"]["type"] == DatastoreType.EXTERNAL
    if not (theirs and "backup" in document.get("datastore", {})):
        return ()
    return (
        Failure(Code.NOT_POSSIBLE, "basalt.datastore.backup", NOT_OURS, f"Remove the key. {ASK_ITS_OWNER}"),
    )


def _conflict(path: str, own: Any, common: Any) -> Failure:
    remedy = "Take it out of the document: a node takes it from its cluster."
    if path not in FIXED:
        remedy = f"Take it out of the document, or have it for all nodes: `{command(path, own)}`."
    return Failure(
        Code.DIFFERS_FROM_CLUSTER, f"basalt.{path}", f"is {own!r}, but the cluster has {common!r}", remedy
    )


def command(path: str, value: Any) -> str:
    """Return what an administrator types to set a value."""
    return f"basalt set {shlex.quote(f'{path}={show(value)}')}"


def show(value: Any) -> str:
    """Return a value as `basalt set` takes it: text as it is, nothing for a default, all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def fixed(path: str, found: Any) -> Failure:
    """Return why a setting stays what it is."""
    remedy = "Leave it so; another value needs a new cluster."
    if path == DATASTORE and found != DatastoreType.EXTERNAL:
        remedy = "Leave it so, or have all objects moved: `basalt datastore move`."
    return Failure(
        Code.FIXED_SETTING, path, f"is {found!r} for the life of the cluster: {FIXED[path]}", remedy
    )
