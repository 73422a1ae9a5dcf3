# SPDX-License-Identifier: Apache-2.0
"""From a control plane that is alone to one of several: its datastore opens itself to the network first."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firstboot.cluster import records, settings
from firstboot.cluster.membership import Membership
from firstboot.cluster.records import Machine
from firstboot.config import DatastoreType, Role
from firstboot.datastores import dqlite, etcd
from firstboot.failure import BasaltError
from firstboot.kube import Client
from firstboot.services.model import Node

VOTERS = 3
"""How many members dqlite wants to vote."""
OPENING = "the cluster's datastore is being opened to another control plane"


@dataclass(frozen=True)
class Partners(ABC):
    """What both datastores have in common.

    membership: the node's record
    node:       what the agent follows now
    works:      whether the datastore runs as the node wants it
    outside:    addresses of control planes that are no members yet, and not on their way, since it was moved
    """

    client: Client
    membership: Path
    node: Callable[[], Node]
    works: Callable[[], bool]
    outside: Callable[[], frozenset[str]] = frozenset

    async def ready_for(self, machine: Machine) -> str | None:
        """Record that the node is not alone; the agent then lets the datastore listen on the node's address."""
        await asyncio.to_thread(self._record)
        return None if self.node().control_planes and self.works() else OPENING

    @abstractmethod
    async def admit(self, machine: Machine) -> list[str]:
        """Make the machine a member that may start; return the members as it has to be told them."""

    def _record(self) -> None:
        node = self.node()
        if Membership.load(self.membership) is None:
            Membership(settings.of(node.config), (node.ip,)).save(self.membership)


class DqlitePartners(Partners):
    """dqlite's members find each other by address; the new one adds itself with its certificate."""

    async def ready_for(self, machine: Machine) -> str | None:
        """Besides listening, whoever was let in before has arrived: members are made voters one by one."""
        if reason := await super().ready_for(machine):
            return reason
        try:
            roles = {each["address"]: each["role"] for each in await dqlite.members()}
        except BasaltError:
            return OPENING
        voters, outside = sum(role == "voter" for role in roles.values()), self.outside()
        for each in await records.machines(self.client):
            if each.role != Role.CONTROL_PLANE or each.ip == machine.ip or each.ip in outside:
                continue
            role = roles.get(dqlite.peer(each.ip))
            # Of two members one votes: dqlite makes voters of both when there is a third.
            if role is None or (role == "spare" and voters < VOTERS <= len(roles)):
                return f"{each.name} is joining the datastore"
        return None

    async def admit(self, machine: Machine) -> list[str]:
        """Return the addresses of all members that there are."""
        known = [each.ip for each in await records.machines(self.client) if each.role == Role.CONTROL_PLANE]
        own, others = self.node().ip, self.outside() | {machine.ip}
        return [dqlite.peer(ip) for ip in dict.fromkeys([own, *known]) if ip not in others]


class EtcdPartners(Partners):
    """etcd has to be told of a member before that starts; it only listens until it has caught up (a learner)."""

    async def ready_for(self, machine: Machine) -> str | None:
        """Besides listening, the own member says where it is, and no other machine is on its way in."""
        if reason := await super().ready_for(machine):
            return reason
        own, wanted = self.node(), etcd.peer_url(self.node().ip)
        for member in await etcd.members(self.client):
            if member.get("name") == own.name and member["peerURLs"] != [wanted]:
                await etcd.members(self.client, "update", ID=member["ID"], peerURLs=[wanted])
            if member.get("isLearner") and member["peerURLs"] != [etcd.peer_url(machine.ip)]:
                return "another control plane is joining the datastore"
        return None

    async def admit(self, machine: Machine) -> list[str]:
        """Announce the machine; return name=URL of each member."""
        url = etcd.peer_url(machine.ip)
        members = await etcd.members(self.client)
        if all(url not in member["peerURLs"] for member in members):
            members = await etcd.members(self.client, "add", peerURLs=[url], isLearner=True)
        # One that was announced and has not started yet has no name: only this machine can be that.
        return [f"{each.get('name') or machine.name}={url}" for each in members for url in each["peerURLs"]]


class ExternalPartners(Partners):
    """Who runs the datastore lets in the cluster, not its machines: there is nothing to open and no member to add."""

    async def admit(self, machine: Machine) -> list[str]:
        """Return no members."""
        return []


@dataclass(frozen=True)
class Present:
    """Whatever the datastore is when it is asked: a move makes it another one."""

    partners: Callable[[], Partners]

    async def ready_for(self, machine: Machine) -> str | None:
        """Get ready for another member; return what is still to be waited for."""
        return await self.partners().ready_for(machine)

    async def admit(self, machine: Machine) -> list[str]:
        """Make the machine a member that may start; return the members as it has to be told them."""
        return await self.partners().admit(machine)


def partners(datastore: DatastoreType) -> type[Partners]:
    """Return how a datastore takes in another control plane."""
    match datastore:
        case DatastoreType.DQLITE:
            return DqlitePartners
        case DatastoreType.ETCD:
            return EtcdPartners
        case DatastoreType.EXTERNAL:
            return ExternalPartners
