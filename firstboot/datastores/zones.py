# SPDX-License-Identifier: Apache-2.0
"""Failure zones: where the machines of the datastore's members are, and whose loss would stop it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from firstboot.cluster.records import internal_address
from firstboot.datastores.store import DatastoreStatus, Member
from firstboot.failure import BasaltError
from firstboot.kube import Client
from firstboot.values import ZONE_LABEL, split_port

VOTER = "voter"


async def zones(client: Client) -> dict[str, str]:
    """Return the zones of nodes that have one, by address; none while the API does not answer."""
    try:
        nodes = (await client.get("/api/v1/nodes"))["items"]
    except BasaltError:
        return {}
    labels = {internal_address(node): node["metadata"].get("labels", {}) for node in nodes}
    return {host: each[ZONE_LABEL] for host, each in labels.items() if host and each.get(ZONE_LABEL)}


def placed(status: DatastoreStatus, known: Mapping[str, str]) -> DatastoreStatus:
    """Return the status with the zone of each member, by the zones of addresses."""
    members = tuple(replace(each, zone=known.get(_host(each.address), "")) for each in status.members)
    return replace(status, members=members, critical_zones=critical(members))


def critical(members: Iterable[Member]) -> tuple[str, ...]:
    """Return the zones without any of which too few voters would be left, in order."""
    voting = [each.zone for each in members if each.role == VOTER]
    most = (len(voting) - 1) // 2
    return tuple(sorted(zone for zone, count in Counter(voting).items() if zone and count > most))


def _host(address: str) -> str:
    """Return the host of ``host:port`` or of the first of several URLs, as datastores call their members."""
    return split_port(address.partition(",")[0].removeprefix("https://"))[0]
