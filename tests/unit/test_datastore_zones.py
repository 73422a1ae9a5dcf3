# SPDX-License-Identifier: Apache-2.0
"""Failure zones of the datastore's members."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from firstboot.config import DatastoreType
from firstboot.datastores.store import DatastoreStatus, Member
from firstboot.datastores.zones import critical, placed, zones
from firstboot.kube import Client, KubeError

ZONE = "topology.kubernetes.io/zone"


class Nodes:
    """The API as far as Node objects go; None: it does not answer."""

    def __init__(self, items: list[dict[str, Any]] | None) -> None:
        self.items = items

    async def get(self, path: str) -> Any:
        if self.items is None:
            raise KubeError("GET", path, 0, "no answer")
        return {"items": self.items}


def node(ip: str | None, **labels: str) -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": "n"}]
    if ip:
        addresses.append({"type": "InternalIP", "address": ip})
    return {"metadata": {"labels": labels}, "status": {"addresses": addresses}}


def found(*items: dict[str, Any]) -> dict[str, str]:
    return asyncio.run(zones(cast(Client, Nodes(list(items)))))


def test_zones_are_those_of_nodes_that_have_one() -> None:
    assert found(
        node("192.0.2.7", **{ZONE: "rack-1"}),
        node("192.0.2.8"),
        node(None, **{ZONE: "rack-2"}),
        node("", **{ZONE: ""}),
    ) == {"192.0.2.7": "rack-1"}
    assert asyncio.run(zones(cast(Client, Nodes(None)))) == {}, (
        "the datastore is asked when the API is down, too"
    )


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("192.0.2.7:9000", "rack-1"),
        ("https://192.0.2.7:2380", "rack-1"),
        ("https://192.0.2.7:2380,https://192.0.2.8:2380", "rack-1"),
        ("https://[2001:db8::7]:2380", "rack-6"),
        ("192.0.2.70:9000", ""),
        ("127.0.0.1:9000", ""),
    ],
)
def test_members_are_found_by_their_address(address: str, zone: str) -> None:
    status = DatastoreStatus(DatastoreType.ETCD, True, (Member("", address, "voter", True, True),), 1, 1)
    [member] = placed(status, {"192.0.2.7": "rack-1", "2001:db8::7": "rack-6"}).members
    assert member.zone == zone


@pytest.mark.parametrize(
    ("voting", "others", "expected"),
    [
        ("a b c", "", ""),
        ("a a b", "c", "a"),
        ("a a a", "b b", "a"),
        ("a a b b c", "c", ""),
        ("a a a b b", "c c", "a"),
        ("a b", "", "a b"),
        ("a a b b", "", "a b"),
        ("- - a", "", ""),
        ("- - -", "", ""),
        ("a", "", "a"),
        ("", "a", ""),
    ],
)
def test_a_zone_is_critical_when_the_voters_of_the_others_are_no_majority(
    voting: str, others: str, expected: str
) -> None:
    members = [
        Member("", "", role, leader=False, healthy=None, zone=zone.strip("-"))
        for role, text in (("voter", voting), ("stand-by", others))
        for zone in text.split()
    ]
    assert critical(members) == tuple(expected.split())
