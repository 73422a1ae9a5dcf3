# SPDX-License-Identifier: Apache-2.0
"""Three members of k8s-dqlite on loopback addresses: leaders killed and frozen, strangers refused."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .certificates import Authority, Identity
from .programs import Programs, Torture, finish
from .stores import Dqlite, free_port, wait_until
from .test_single import wait_progress

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass
class Cluster:
    """Members, and who of them leads."""

    members: list[Dqlite]
    authority: Authority

    def running(self) -> list[Dqlite]:
        return [member for member in self.members if member.process]

    def leader(self) -> Dqlite:
        """Return the member all running ones agree on as their leader, waiting for it."""
        found: list[Dqlite] = []

        def agreed() -> bool:
            leaders = {member.status()["leader"] for member in self.running()}
            found[:] = [member for member in self.running() if {member.address} == leaders]
            return bool(found)

        wait_until("one leader", agreed)
        return found[0]

    def voters(self) -> int:
        status = self.leader().status()
        return sum(member["role"] == "voter" for member in status["members"])


@pytest.fixture
def cluster(programs: Programs, folder: Path) -> Iterator[Cluster]:
    authority = Authority(folder, "members")
    members: list[Dqlite] = []
    for number, host in enumerate(HOSTS):
        home = folder / str(number)
        home.mkdir()
        known = tuple(member.address for member in members[:1])
        address = f"{host}:{free_port(host)}"
        members.append(Dqlite(programs, home, address, known, authority.identity(host)))
    made = Cluster(members, authority)
    try:
        for member in members:
            member.start()
        wait_until("three voters", lambda: made.voters() == len(HOSTS))
        yield made
    finally:
        for member in members:
            if member.process:
                member.send(signal.SIGCONT)
            member.kill()


def torture_at(member: Dqlite, programs: Programs, folder: Path, name: str) -> Torture:
    return Torture(programs.torture, member.endpoint, folder / f"{name}.journal", f"/registry/{name}/")


def test_leader_killed(cluster: Cluster, programs: Programs, folder: Path, seconds: float) -> None:
    """Writers at two other members at once; each time the leader is killed both go on within seconds."""
    for turn in range(2):
        leader = cluster.leader()
        others = [member for member in cluster.members if member is not leader]
        tortures = [torture_at(member, programs, folder, f"kill{turn}{n}") for n, member in enumerate(others)]
        writers = [torture.write(seconds, writers=4) for torture in tortures]
        for torture, running in zip(tortures, writers, strict=True):
            wait_progress(torture, running, others[0])
        leader.kill()
        # The outage ends by itself: progress without the one that was killed.
        for torture, running in zip(tortures, writers, strict=True):
            wait_progress(torture, running, others[0])
        leader.start()
        counts = [finish(running) for running in writers]
        for member in cluster.members:
            for torture in tortures:
                result = torture.verify(member.endpoint)
                assert result["broken"] == {}, result["instances"]
        assert max(count["longest_gap_s"] for count in counts) < 8


def test_one_that_was_alone_takes_in_two_others(programs: Programs, folder: Path, seconds: float) -> None:
    """It has moved from the loopback address and holds more than its log does: newcomers need a snapshot."""
    authority = Authority(folder, "members")
    homes = [folder / str(number) for number in range(len(HOSTS))]
    for home in homes:
        home.mkdir()
    alone = Dqlite(programs, homes[0], f"{HOSTS[0]}:{free_port(HOSTS[0])}")
    torture = torture_at(alone, programs, folder, "alone")
    with alone:
        finish(torture.write(seconds))
        alone.stop()
    hosts = ("127.0.0.4", *HOSTS[1:])
    addresses = [f"{host}:{free_port(host)}" for host in hosts]
    members = [
        Dqlite(programs, home, address, () if number == 0 else (addresses[0],), authority.identity(host))
        for number, (home, address, host) in enumerate(zip(homes, addresses, hosts, strict=True))
    ]
    made = Cluster(members, authority)
    try:
        members[0].start()
        later = torture_at(members[0], programs, folder, "later")
        writers = later.write(seconds)
        members[1].start(wait=False)
        members[2].start()
        wait_until("both serve", (members[1].folder / "control.sock").exists)
        wait_until("three voters", lambda: made.voters() == len(HOSTS))
        finish(writers)
        for member in members:
            for each in (torture, later):
                result = each.verify(member.endpoint)
                assert result["broken"] == {}, result["instances"]
    finally:
        for member in members:
            member.kill()


def test_the_leader_leaves(cluster: Cluster, programs: Programs, folder: Path, seconds: float) -> None:
    """It hands over before it is taken out, so writers elsewhere go on; those that are left need nobody else."""
    leader = cluster.leader()
    stays, other = (member for member in cluster.members if member is not leader)
    torture = torture_at(stays, programs, folder, "leaves")
    writers = torture.write(seconds)
    wait_progress(torture, writers, stays)
    assert all(member["answers"] for member in json.loads(stays.ask("members")))
    stays.ask("remove", leader.address)
    wait_progress(torture, writers, stays)
    assert leader.address not in {member["address"] for member in stays.status()["members"]}
    leader.kill()
    wait_progress(torture, writers, stays)
    finish(writers)
    for member in (stays, other):
        result = torture.verify(member.endpoint)
        assert result["broken"] == {}, result["instances"]


def test_leader_frozen(cluster: Cluster, programs: Programs, folder: Path, seconds: float) -> None:
    """The kernel of a frozen process answers for it: only limits of one's own notice."""
    leader = cluster.leader()
    follower = next(member for member in cluster.members if member is not leader)
    torture = torture_at(follower, programs, folder, "freeze")
    writers = torture.write(max(seconds, 15))
    wait_progress(torture, writers, follower)
    leader.send(signal.SIGSTOP)
    wait_progress(torture, writers, follower)
    # Still frozen: the others have found a new leader. When it wakes it must not believe to be one.
    time.sleep(3)
    leader.send(signal.SIGCONT)
    counts = finish(writers)
    for member in cluster.members:
        result = torture.verify(member.endpoint)
        assert result["broken"] == {}, result["instances"]
    assert counts["longest_gap_s"] < 8


def test_orderly_end_of_the_leader(
    cluster: Cluster, programs: Programs, folder: Path, seconds: float
) -> None:
    leader = cluster.leader()
    follower = next(member for member in cluster.members if member is not leader)
    torture = torture_at(follower, programs, folder, "stop")
    writers = torture.write(seconds / 2)
    wait_progress(torture, writers, follower)
    assert leader.stop() == 0
    wait_progress(torture, writers, follower)
    leader.start()
    finish(writers)
    for member in cluster.members:
        result = torture.verify(member.endpoint)
        assert result["broken"] == {}, result["instances"]


def test_without_a_majority_nothing_is_acknowledged(
    cluster: Cluster, programs: Programs, folder: Path
) -> None:
    leader = cluster.leader()
    for member in cluster.members:
        if member is not leader:
            member.kill()
    torture = torture_at(leader, programs, folder, "minority")
    counts = finish(torture.write(3, writers=2))
    assert counts["made"] == 0
    for member in cluster.members:
        if member is not leader:
            member.start()
    result = torture.verify()
    assert result["broken"] == {}, result["instances"]


# The protocol's version, then a request of one word: who leads?
HELLO = (1).to_bytes(8, "little") + bytes((1, 0, 0, 0, 0, 0, 0, 0)) + bytes(8)


def greeting(address: str, identity: Identity | None, encrypted: bool = True) -> bytes:
    """Say hello as a client of dqlite does and return the answer, empty or OSError when there is none."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if identity:
                context.load_cert_chain(identity.certificate, identity.key)
            connection = stack.enter_context(context.wrap_socket(connection))
        connection.sendall(HELLO)
        return connection.recv(64)


def test_strangers_are_refused(cluster: Cluster, folder: Path, programs: Programs) -> None:
    leader = cluster.leader()
    (folder / "strangers").mkdir()
    stranger = Authority(folder / "strangers", "strangers").identity("127.0.0.4", believes=cluster.authority)
    member = cluster.authority.identity("127.0.0.4")
    assert leader.address.encode() in greeting(leader.address, member), "a member's certificate must be good"
    for identity, encrypted in ((None, False), (None, True), (stranger, True)):
        try:
            answer = greeting(leader.address, identity, encrypted)
        except OSError:
            answer = b""
        assert leader.address.encode() not in answer
    wait_until("refusals counted", lambda: leader.counter("k8s_dqlite_peers_refused_total") >= 3)

    address = f"127.0.0.4:{free_port('127.0.0.4')}"
    home = folder / "stranger"
    home.mkdir()
    intruder = Dqlite(programs, home, address, (leader.address,), stranger)
    try:
        intruder.start(wait=False)
        before = leader.counter("k8s_dqlite_peers_refused_total")
        wait_until("its attempts", lambda: leader.counter("k8s_dqlite_peers_refused_total") >= before + 2)
        assert not (home / "kine.sock").exists()
        assert address not in {each["address"] for each in leader.status()["members"]}
    finally:
        intruder.kill()
