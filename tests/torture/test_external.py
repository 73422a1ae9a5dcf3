# SPDX-License-Identifier: Apache-2.0
"""A real etcd that somebody else runs, with TLS and client certificates: what the node finds, and what it tells."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from firstboot import files, pki
from firstboot.cluster.rotation import Stage
from firstboot.cluster.rotator import prepared
from firstboot.codes import Code
from firstboot.config import Config, External
from firstboot.datastores import claim, external
from firstboot.datastores.external import ExternalEtcd, Login
from firstboot.datastores.watch import Watch
from firstboot.failure import Refused
from firstboot.kube import Client
from firstboot.pki import overlap
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.reconcile import Pass, converge
from firstboot.steps.claim import Claim
from firstboot.steps.model import Machine
from firstboot.systemd import Systemd
from image import components

from .apiserver import apiserver_argv, is_ready, ready_or_ended, running
from .certificates import Authority, token_key
from .programs import Programs, component
from .stores import SecureEtcd, free_port, wait_until

HOST = "127.0.0.1"
VERSION = component("etcd").version
SERVER_SECONDS = 30.0


@dataclass
class Place:
    """An etcd of some members, and the files of a control plane that shall use it."""

    folder: Path
    authority: Authority
    members: list[SecureEtcd]

    def external(self, *, by: Authority | None = None, trusts: Authority | None = None) -> External:
        """Return the document's section; by: who has signed the client, trusts: whom the document names."""
        client = (by or self.authority).identity("127.0.0.2")
        return External(
            endpoints=tuple(member.endpoint for member in self.members),
            ca=(trusts or self.authority).file.read_text(),
            client_certificate=client.certificate.read_text(),
            client_key=client.key.read_text(),
        )

    def watch(self, section: External, node: str = "cp-1", *, founds: bool = True) -> Watch:
        """Return a node's eye on it, with the node's own authorities and records."""
        root = self.folder / node
        if not root.exists():
            root.mkdir()
            described = catalogue(Config.from_dict({"role": "control-plane"}), node, [HOST], root).unowned()
            pki.apply(described, Ledger())
        login = Login.below(root / "pki")
        for file in external.endpoint(section, login, owner=None).files:
            file.path.parent.mkdir(exist_ok=True)
            files.write_all([file])
        return Watch(
            section,
            cluster="production",
            founds=founds,
            login=login,
            authority=root / "pki/ca.crt",
            record=root / "datastore-claim.json",
        )


@pytest.fixture
def place(
    programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Place]]:
    """Return a function that starts an etcd of so many members."""
    monkeypatch.setenv("PATH", f"{Path(programs.etcd[0]).parent}:{os.environ['PATH']}")
    with ExitStack() as running:

        def start(count: int) -> Place:
            authority = Authority(folder, "etcd-ca")
            peers: dict[str, str] = {}
            members = [
                SecureEtcd(programs, folder / f"m{n}", f"m{n}", authority, peers) for n in range(count)
            ]
            for member in members:
                running.callback(member.kill)
                member.start(wait=count == 1)
            made = Place(folder, authority, members)
            if count > 1:
                section = made.external()
                wait_until("all members answer", lambda: looked(made.watch(section, "probe"))[1] == [])
            return made

        yield start


def passed(step: Claim, *, dry: bool = False) -> Pass:
    """Let the agent make a pass over the gate."""
    machine = Machine(cast(Systemd, None), Client(), {})
    return asyncio.run(converge([step], machine, dry=dry))


def looked(watch: Watch) -> tuple[str | None, list[str]]:
    """Return what a look at it finds: the reason why it cannot be used, and the codes of all that is wrong."""
    watch.clock = later(watch)
    reason = asyncio.run(watch(Client()))
    return reason, [failure.code for failure in watch.failures]


def later(watch: Watch) -> Callable[[], float]:
    """Return a clock that has moved on far enough for another look."""
    now = watch.clock() + 10.0
    return lambda: now


def put(place: Place, key: str) -> None:
    """Let somebody else write."""
    login = place.watch(place.external(), "somebody").login
    asyncio.run(external.etcdctl(login, [place.members[0].endpoint], "put", key, "value"))


def test_the_first_control_plane_claims_an_empty_prefix_and_finds_it_again(
    place: Callable[[int], Place],
) -> None:
    etcd = place(1)
    watch = etcd.watch(etcd.external())
    assert looked(watch) == ("does not belong to the cluster yet", []) and watch.claimable
    step = Claim(watch, needs=())
    assert [found.action for _, found in passed(step, dry=True).findings] == ["claim"]
    assert looked(watch)[0] is not None, "a dry pass writes nothing"
    assert passed(step).failures == () and watch.remembered
    assert looked(watch) == (None, []) and passed(step).settled
    assert watch.detail == f"etcd {VERSION}, 1 of 1 endpoints"
    # The agent's next process, and an API server's objects beside the key.
    put(etcd, "/registry/pods/default/a")
    assert looked(etcd.watch(etcd.external())) == (None, [])
    # A node that starts another cluster, by mistake or in place of the one that was lost.
    reason, codes = looked(etcd.watch(etcd.external(), "stranger"))
    assert codes == [Code.DATASTORE_FOREIGN] and "another cluster, called production" in str(reason)
    apart = etcd.watch(replace(etcd.external(), prefix="/apart"), "stranger")
    assert looked(apart)[1] == [] and apart.claimable


def test_the_prefix_is_claimed_anew_when_the_clusters_ca_is_replaced(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    section = etcd.external()
    before = etcd.watch(section)
    looked(before)
    passed(Claim(before, needs=()))
    shutil.copytree(before.authority.parent.parent, etcd.folder / "cp-2")
    described = catalogue(
        Config.from_dict({"role": "control-plane"}), "cp-1", [HOST], before.authority.parent.parent
    )
    authority = described.unowned().authority("ca")
    key, rotation = prepared(authority, "root", None)
    files.write(authority.key_to_come(rotation.id), key)
    for stage, claims in ((Stage.TRUST, False), (Stage.SIGN, True), (Stage.DONE, False)):
        overlap.apply(authority, rotation.at(stage).overlap, signer=True)
        watch = replace(etcd.watch(section), succeeds=stage is Stage.SIGN)
        assert looked(watch) == (None, []), stage
        found = passed(Claim(watch, needs=())).findings
        assert [finding.action for _, finding in found] == ["claim"] * claims
        assert passed(Claim(watch, needs=())).settled
    left = etcd.watch(section, "cp-2", founds=False)
    assert looked(left)[1] == [Code.DATASTORE_FOREIGN], "one that knows the old CA only"


def test_a_prefix_with_other_data_is_not_claimed(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    put(etcd, "/registry/namespaces/kube-system")
    watch = etcd.watch(etcd.external())
    reason, codes = looked(watch)
    assert codes == [Code.DATASTORE_FOREIGN] and "/registry/namespaces/kube-system" in str(reason)
    assert not watch.claimable


def test_of_two_that_claim_at_once_one_does(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    watches = [etcd.watch(etcd.external(), name) for name in ("cp-1", "cp-2")]
    assert all(looked(watch)[1] == [] for watch in watches)

    async def both() -> list[BaseException | None]:
        return await asyncio.gather(*(watch.claim() for watch in watches), return_exceptions=True)

    refused = [error for error in asyncio.run(both()) if error is not None]
    assert [str(error) for error in refused] == ["somebody else has claimed the prefix /registry just now"]
    assert sorted(looked(watch)[1] for watch in watches) == [[], [Code.DATASTORE_FOREIGN]]


def test_data_that_is_gone_is_not_begun_anew(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    watch = etcd.watch(etcd.external())
    looked(watch)
    asyncio.run(watch.claim())
    wiped = ("del", "--prefix", "/registry/")
    asyncio.run(external.etcdctl(watch.login, etcd.external().endpoints, *wiped))
    assert looked(etcd.watch(etcd.external()))[1] == [Code.DATASTORE_EMPTY]
    # One that joins never has an empty datastore to begin with.
    assert looked(etcd.watch(etcd.external(), "cp-2", founds=False))[1] == [Code.DATASTORE_EMPTY]


def test_who_is_not_who_he_should_be(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    stranger = Authority(etcd.folder, "stranger-ca")
    reason, codes = looked(etcd.watch(etcd.external(trusts=stranger)))
    assert codes == [Code.DATASTORE_NOT_TRUSTED] and etcd.members[0].endpoint in str(reason)
    reason, codes = looked(etcd.watch(etcd.external(by=stranger)))
    assert codes == [Code.DATASTORE_REFUSES] and "client certificate is refused" in str(reason)
    elsewhere = replace(etcd.external(), endpoints=(etcd.members[0].endpoint.replace(HOST, "localhost"),))
    reason, codes = looked(etcd.watch(elsewhere))
    assert codes == [Code.DATASTORE_NOT_TRUSTED] and "localhost" in str(reason)
    plain = replace(etcd.external(), endpoints=(etcd.members[0].peers["m0"].replace("http:", "https:"),))
    assert looked(etcd.watch(plain))[1] == [Code.DATASTORE_UNREACHABLE]


def grant(etcd: Place, *rights: str) -> None:
    """Let the clients' user do nothing but this: etcd knows users by the common name of their certificates."""
    shown = etcd.authority.identity("127.0.0.3")
    owner = Login(shown.authority, shown.certificate, shown.key)
    for command in (
        "user add root --no-password",
        "user grant-role root root",
        "user add 127.0.0.3 --no-password",
        "user grant-role 127.0.0.3 root",
        "user add 127.0.0.2 --no-password",
        "role add cluster",
        "user grant-role 127.0.0.2 cluster",
        *(f"role grant-permission cluster {right}" for right in rights),
        "auth enable",
    ):
        asyncio.run(external.etcdctl(owner, etcd.external().endpoints, *command.split()))


def test_a_user_without_rights_is_told_which_are_missing(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    watch = etcd.watch(replace(etcd.external(), prefix="/apart"))
    grant(etcd, "--prefix=true readwrite /registry/")
    reason, codes = looked(watch)
    assert codes == [Code.DATASTORE_REFUSES] and "permission denied" in str(reason)
    assert not watch.claimable


def test_an_api_server_has_enough_with_the_rights_that_the_failure_names(
    place: Callable[[int], Place], folder: Path
) -> None:
    etcd = place(1)
    section = replace(etcd.external(), prefix="/production")
    grant(etcd, "--prefix=true readwrite /production/", "readwrite compact_rev_key")
    watch = etcd.watch(section)
    assert looked(watch)[1] == [] and watch.claimable
    asyncio.run(watch.claim())
    token_key(folder / "sa.key")
    port, log = free_port(HOST), folder / "apiserver.log"
    program = components.build(component("kubernetes")).folder / "tree/usr/bin"
    arguments = external.endpoint(section, watch.login, owner=None).arguments
    argv = [
        *apiserver_argv(program, folder, arguments["etcd-servers"], port),
        *(f"--{name}={value}" for name, value in arguments.items() if name != "etcd-servers"),
        "--etcd-compaction-interval=1s",
    ]
    with running(argv, log) as server:
        wait_until("the API server is ready", lambda: ready_or_ended(server, port), 120)
        assert server.poll() is None, log.read_text()[-2000:]
        assert looked(watch) == (None, []), "its objects stand beside the key"
        compacted = ("get", "compact_rev_key")
        wait_until(
            "it has tried to compact",
            lambda: (
                '"kvs"' in asyncio.run(external.etcdctl(watch.login, section.endpoints, *compacted)).stdout
            ),
        )
        etcd.members[0].stop()
        wait_until("it says that its datastore is gone", lambda: not is_ready(port))
        assert looked(watch)[1] == [Code.DATASTORE_UNREACHABLE]
        etcd.members[0].start()
        wait_until("both are back", lambda: is_ready(port) and looked(watch) == (None, []))
    # Compaction is the right of etcd's role root: an etcd with users has to be told to compact by itself.
    denied = [line for line in log.read_text().splitlines() if "permission denied" in line]
    assert denied and all("compact" in line.lower() for line in denied), denied
    # A founder without a key of Basalt's there would have taken over all of that.
    asyncio.run(external.etcdctl(watch.login, section.endpoints, "del", f"/production/{claim.NAME}"))
    assert looked(etcd.watch(section, "cp-2"))[1] == [Code.DATASTORE_FOREIGN]


def test_one_endpoint_of_three_is_down_then_two(place: Callable[[int], Place]) -> None:
    etcd = place(3)
    watch = etcd.watch(etcd.external())
    looked(watch)
    asyncio.run(watch.claim())
    etcd.members[0].kill()
    wait_until("a new leader", lambda: looked(watch)[0] is None, SERVER_SECONDS)
    assert looked(watch) == (None, [Code.DATASTORE_UNREACHABLE])
    assert watch.detail.endswith("2 of 3 endpoints")
    told = asyncio.run(ExternalEtcd(etcd.external(), watch.login).status())
    assert [each.role for each in told.members] == ["unknown", "voter", "voter"]
    assert sum(each.leader for each in told.members) == 1
    assert {each.version for each in told.members} == {"", VERSION} and told.size > 0 and told.revision > 1
    etcd.members[1].kill()
    wait_until(
        "no quorum", lambda: looked(watch)[1] == [Code.DATASTORE_UNREACHABLE] * 2 + [Code.DATASTORE_NO_QUORUM]
    )
    etcd.members[1].start(wait=False)
    wait_until("a quorum again", lambda: looked(watch)[0] is None, SERVER_SECONDS)


def test_endpoints_of_two_clusters(place: Callable[[int], Place], programs: Programs) -> None:
    etcd = place(1)
    with SecureEtcd(programs, etcd.folder / "other", "other", etcd.authority) as other:
        both = replace(etcd.external(), endpoints=(etcd.members[0].endpoint, other.endpoint))
        assert looked(etcd.watch(both))[1] == [Code.DATASTORE_MIXED]


def test_a_full_database_is_an_alarm(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    etcd.members[0].stop()
    etcd.members[0].flags = ("--quota-backend-bytes=65536",)
    etcd.members[0].start()
    watch = etcd.watch(etcd.external())
    with pytest.raises(Exception, match="database space exceeded"):
        for number in range(100):
            value = "x" * 60_000
            asyncio.run(
                external.etcdctl(watch.login, etcd.external().endpoints, "put", f"/other/{number}", value)
            )
    reason, codes = looked(watch)
    assert codes == [Code.DATASTORE_ALARM] and "NOSPACE" in str(reason)


def test_all_of_the_data_is_its_owners(place: Callable[[int], Place]) -> None:
    etcd = place(1)
    member = ExternalEtcd(etcd.external(), etcd.watch(etcd.external()).login)
    with pytest.raises(Refused, match="somebody else runs"):
        asyncio.run(member.snapshot(etcd.folder / "snapshot"))
    assert not (etcd.folder / "snapshot").exists()
