# SPDX-License-Identifier: Apache-2.0
"""The machines of `make run`: one from somebody's user-data, or a cluster from documents written here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image.vm import seed
from image.vm.arguments import mac_address
from image.vm.background import write

PRIVATE = "192.168.77"
"""The first three numbers of the addresses among the machines."""
WORKER_MEMORY = 2048
"""MiB: no datastore and no API server."""
OUTSIDE = "10.0.2.15/24"
"""The address that QEMU's user network gives its machine."""


_LEADS_LONGER = {
    "leader-elect-lease-duration": "60s",
    "leader-elect-renew-deadline": "45s",
    "leader-elect-retry-period": "5s",
}
PATIENT = {
    "k8s-dqlite": {"extra-args": {"network-latency": "500ms"}},
    "etcd": {"extra-args": {"heartbeat-interval": "500", "election-timeout": "5000"}},
    "kube-controller-manager": {"extra-args": _LEADS_LONGER},
    "kube-scheduler": {"extra-args": _LEADS_LONGER},
}
"""`services` of emulated control planes: several on a few processors answer each other later than continents do."""


@dataclass(frozen=True)
class Member:
    """A machine: its name, its #cloud-config, its network's settings (None: DHCP), and its memory in MiB."""

    name: str
    user_data: str
    network: str | None = None
    memory: int = 3072


def alone(user_data: str) -> tuple[Member, ...]:
    """Return the one machine of a person's user-data."""
    return (Member("node-1", user_data),)


def cluster(
    control_planes: int, workers: int, token: str, authority: str, *, emulated: bool
) -> tuple[Member, ...]:
    """Return the machines of a cluster; the first starts it. authority: CA of who administers them, PEM."""
    common = {"access": {"client-ca": authority}, **({"services": PATIENT} if emulated else {})}
    return tuple(_members(control_planes, workers, token, common))


def _members(control_planes: int, workers: int, token: str, common: Mapping[str, Any]) -> Iterator[Member]:
    roles = ["control-plane"] * control_planes + ["worker"] * workers
    for number, role in enumerate(roles, start=1):
        # The first control planes are asked by all others, whichever of them is up.
        known = [address(each) for each in range(1, min(control_planes, 3) + 1) if each != number]
        joins: dict[str, Any] = {"bootstrap": True} if number == 1 else {"endpoints": known}
        name = f"node-{number}"
        document = {
            "version": 1,
            "role": role,
            "node": {"name": name, "ip": address(number)},
            "cluster": {"token": token, **joins},
            **common,
        }
        network = network_config(name, address(number))
        memory = WORKER_MEMORY if role == "worker" else Member.memory
        yield Member(name, seed.user_data(document), network, memory)


def address(number: int) -> str:
    """Return the address among the machines of the one with that number."""
    return f"{PRIVATE}.{number}"


def network_config(name: str, own: str, *, way_out: bool = True) -> str:
    """Return the network-config (version 2) of a machine with a card among the machines and one for its ports.

    way_out: whether the second card asks DHCP, which also gives a default route and a name server
    """
    inside, outside = ({"match": {"macaddress": mac_address(name, index)}} for index in (0, 1))
    settings: dict[str, Any] = {"dhcp4": True} if way_out else {"addresses": [OUTSIDE], "dhcp4": False}
    cards = {"cluster": {**inside, "addresses": [f"{own}/24"]}, "outside": {**outside, **settings}}
    return json.dumps({"version": 2, "ethernets": cards})


def token(folder: Path) -> str:
    """Return the shared token of the cluster in a folder, made at random the first time."""
    path = folder / "token"
    if not path.is_file():
        write(path, secrets.token_hex(32) + "\n", 0o600)
    return path.read_text().strip()
