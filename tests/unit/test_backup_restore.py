# SPDX-License-Identifier: Apache-2.0
"""A backup becomes a node's cluster: refused while nothing was touched, or finished, whatever comes in between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from cryptography.x509 import load_pem_x509_certificate

from firstboot import files, pki
from firstboot.backup import archive, locks
from firstboot.backup.locks import Opener, Passphrase, PrivateKey
from firstboot.backup.places import Decided, built, replaced
from firstboot.failure import BasaltError, Refused
from firstboot.pki import ca
from firstboot.pki.verdict import Ledger
from firstboot.plan import UNITS, missing_needs, restoring
from firstboot.reconcile import Pass, converge
from firstboot.steps.model import Machine
from firstboot.steps.restore import Restore
from firstboot.steps.units import DATASTORES
from firstboot.systemd import Systemd, Unit

from .support_datastore import DATA, OWN, REVISION, ControlPlane, in_pieces
from .support_disk import PowerCut, power_cut
from .test_backup_format import PRIVATE
from .test_reconcile import Jobs, machine

PASSPHRASE = Passphrase("correct horse battery")
OTHER = b"what the new node had before"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "N", 2**4)
    monkeypatch.setattr(locks, "P", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ControlPlane]:
    root = tmp_path_factory.mktemp("made")
    return {"old": ControlPlane.make(root / "old"), "new": ControlPlane.make(root / "new", OTHER)}


@pytest.fixture
def old(made: dict[str, ControlPlane], tmp_path: Path) -> ControlPlane:
    """The cluster of which there is a backup."""
    return made["old"].copied(tmp_path / "old")


@pytest.fixture
def new(made: dict[str, ControlPlane], tmp_path: Path) -> ControlPlane:
    """The node that shall become it."""
    return made["new"].copied(tmp_path / "new")


def restore(node: ControlPlane, data: bytes, opener: Opener = PASSPHRASE) -> None:
    asyncio.run(node.custodian.restore(opener, in_pieces(data)))


def step(node: ControlPlane) -> Restore:
    return Restore(("kubelet", node.store.unit), node.catalogue, node.store.folder, node.places)


def finish(node: ControlPlane) -> None:
    """Do what the agent does once all is stopped."""
    looked = machine()
    if asyncio.run(step(node).check(looked)):
        asyncio.run(step(node).apply(looked))


def test_a_restored_node_is_the_cluster_of_the_backup(old: ControlPlane, new: ControlPlane) -> None:
    before = new.files()
    restore(new, old.backup(PASSPHRASE))
    assert new.woken == ["decided"]
    decided = Decided.load(new.places.decided)
    assert decided and decided.revision == REVISION and "PRIVATE" not in repr(decided)
    assert new.places.decided.stat().st_mode & 0o777 == 0o600
    changed = {name for name, data in new.files().items() if before.get(name) != data}
    assert changed == {"basalt/restore.json", ".k8s-dqlite.restored/data"}, "the node goes on as it was"
    new.places.rotation.write_text("{}")
    finish(new)
    assert new.authorities() == old.authorities()
    assert (new.store.folder / "data").read_bytes() == DATA
    assert not any(spec.certificate.exists() for spec in new.catalogue.certificates)
    assert [path.name for path in sorted(new.root.iterdir())] == ["basalt", "k8s-dqlite", "kubernetes"]
    assert list(new.places.state.iterdir()) == []
    pki.apply(new.catalogue, Ledger())
    issuer = ca.load(old.catalogue.authority("ca")).certificate
    kubelet = new.catalogue.certificate("kubelet").certificate.read_bytes()
    load_pem_x509_certificate(kubelet).verify_directly_issued_by(issuer)
    assert asyncio.run(step(new).check(machine())) is None


def test_the_power_may_be_cut_at_any_point_of_the_end(
    tmp_path: Path, old: ControlPlane, new: ControlPlane
) -> None:
    restore(new, old.backup(PASSPHRASE))
    decided = new
    wanted: dict[str, bytes] | None = None
    cuts = 0
    while True:
        new = decided.copied(tmp_path / f"new-{cuts}")
        try:
            with power_cut(after=cuts):
                finish(new)
            break
        except PowerCut:
            cuts += 1
        new.places.sweep()
        finish(new)
        new.places.sweep()
        left = {name: content for name, content in new.files().items() if not name.endswith(".kubeconfig")}
        certificates = {str(spec.key.relative_to(new.root)) for spec in new.catalogue.certificates}
        left = {name: content for name, content in left.items() if name not in certificates}
        wanted = wanted or left
        assert left == wanted, f"cut off after {cuts - 1}"
        assert new.authorities() == old.authorities()
    assert cuts > 20


def test_somebody_may_make_the_folder_anew_between_two_attempts(old: ControlPlane, new: ControlPlane) -> None:
    """As systemd does for a service that is started by hand."""
    restore(new, old.backup(PASSPHRASE))
    new.store.folder.rename(replaced(new.store.folder))
    new.store.folder.mkdir()
    finish(new)
    assert (new.store.folder / "data").read_bytes() == DATA
    assert not replaced(new.store.folder).exists()


def test_a_node_without_a_datastore_gets_one(old: ControlPlane, new: ControlPlane) -> None:
    new.store.down = True
    restore(new, old.backup(PASSPHRASE))
    shutil.rmtree(new.store.folder)
    finish(new)
    assert (new.store.folder / "data").read_bytes() == DATA and not replaced(new.store.folder).exists()


def test_without_the_datastore_that_was_built_nothing_is_touched(
    old: ControlPlane, new: ControlPlane
) -> None:
    """The old data under new authorities would be neither cluster."""
    restore(new, old.backup(PASSPHRASE))
    shutil.rmtree(built(new.store.folder))
    before = new.files()
    with pytest.raises(BasaltError, match="is lost"):
        finish(new)
    assert new.files() == before


def test_an_agent_that_ends_meanwhile_has_decided_or_not(old: ControlPlane, new: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)

    async def go(turns: int) -> bool:
        task = asyncio.create_task(new.custodian.restore(PASSPHRASE, in_pieces(data)))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return new.places.decided.exists()

    for turns in range(0, 60, 3):
        decided = asyncio.run(go(turns))
        assert not decided or built(new.store.folder).exists(), turns
        files.remove(new.places.decided)
        new.places.sweep()


def test_what_is_left_of_a_restore_that_was_not_decided_goes(new: ControlPlane) -> None:
    before = new.files()
    for folder in (built(new.store.folder), new.places.receiving, new.places.taking):
        folder.mkdir()
        (folder / "left").touch()
    new.places.sweep()
    assert new.files() == before


def test_everything_rests_before_anything_is_exchanged(old: ControlPlane, new: ControlPlane) -> None:
    restore(new, old.backup(PASSPHRASE))
    steps = restoring(new.node, new.catalogue, new.places)
    assert missing_needs(steps) == set()
    last = steps[-1]
    assert isinstance(last, Restore) and set(last.units) == set(UNITS) - {"containerd"}
    units = {name: Unit(f"{name}.service", "active", "running", "/") for name in UNITS}
    jobs = Jobs()

    def go() -> Pass:
        return asyncio.run(converge(steps, machine(dict(units), jobs)))

    assert go().findings[-1][1].waits
    assert {name for job, name in jobs.asked} == set(last.units) - set(DATASTORES), (
        "an API server comes first"
    )
    units["kube-apiserver"] = replace(units["kube-apiserver"], active="inactive")
    go()
    assert {name for job, name in jobs.asked} == set(last.units)
    units["etcd"] = replace(units["etcd"], active="deactivating")
    assert go().findings[-1][1].path != str(last.folder)
    assert new.places.decided.exists()
    dry = {name: replace(unit, active="inactive") for name, unit in units.items()}
    resting = Machine(cast(Systemd, jobs), machine().client, dry)
    finding = asyncio.run(last.check(resting))
    assert finding and finding.action == "exchange"


def untouched(node: ControlPlane, data: bytes, opener: Opener = PASSPHRASE) -> tuple[str, str]:
    """Return code and path of the refusal, after which the node is as it was before."""
    before = node.files()
    with pytest.raises(Refused) as error:
        restore(node, data, opener)
    assert node.files() == before and list(node.places.state.iterdir()) == []
    assert node.woken == []
    first = error.value.failures[0]
    assert first.found and first.remedy
    return first.code, first.path


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ({"cluster": {"name": "other"}}, ["basalt.cluster.name"]),
        ({"cluster": {"pod-cidr": "10.2.0.0/16"}}, ["basalt.cluster.pod-cidr"]),
        (
            {"cluster": {"domain": "example.org", "service-cidr": "10.96.0.0/16"}},
            ["basalt.cluster.service-cidr", "basalt.cluster.domain"],
        ),
        ({"datastore": {"type": "etcd"}}, ["basalt.datastore.type"]),
    ],
)
def test_a_backup_of_another_cluster_is_refused(
    tmp_path: Path, old: ControlPlane, document: dict[str, object], paths: list[str]
) -> None:
    other = ControlPlane.make(tmp_path / "other", OTHER, **document)
    before = other.files()
    with pytest.raises(Refused) as error:
        restore(other, old.backup(PASSPHRASE))
    assert [failure.path for failure in error.value.failures] == paths
    assert {failure.code for failure in error.value.failures} == {"backup-differs"}
    assert other.files() == before


def test_what_may_differ_may_differ(tmp_path: Path, old: ControlPlane) -> None:
    other = ControlPlane.make(tmp_path / "other", OTHER, cluster={"api-address": "api.example.org"})
    restore(other, old.backup(PASSPHRASE))


@pytest.mark.parametrize(
    ("theirs", "ours", "good"),
    [
        ("v1.37.9", "v1.37.2", True),
        ("v1.36.0", "v1.37.2", True),
        ("v1.35.9", "v1.37.2", False),
        ("v1.38.0", "v1.37.2", False),
        (None, "v1.37.2", True),
        ("v1.37.2", None, True),
    ],
)
def test_the_versions_of_kubernetes_go_together(
    old: ControlPlane, new: ControlPlane, theirs: str | None, ours: str | None, good: bool
) -> None:
    old.kubernetes, new.kubernetes = theirs, ours
    data = old.backup(PASSPHRASE)
    if good:
        restore(new, data)
    else:
        assert untouched(new, data) == ("version-apart", "backup")


def test_a_control_plane_with_partners_is_refused(old: ControlPlane, new: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)
    new.store.members = [OWN, replace(OWN, address="192.0.2.8:9000")]
    assert untouched(new, data) == ("not-alone", "datastore")
    new.store.members = [OWN]
    new.joined_by("192.0.2.8")
    assert untouched(new, data) == ("not-alone", "datastore")


def test_a_datastore_that_does_not_work_can_be_restored(old: ControlPlane, new: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)
    new.store.down = True
    restore(new, data)
    assert new.places.decided.exists()


def test_secrets_and_damage_are_told_apart(old: ControlPlane, new: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)
    assert untouched(new, data, Passphrase("another passphrase")) == ("backup-key", "backup")
    assert untouched(new, data, PrivateKey.of(PRIVATE)) == ("backup-key", "backup")
    assert untouched(new, data[:-1]) == ("backup-damaged", "backup")
    assert untouched(new, b"something else") == ("backup-format", "backup")
    assert untouched(new, b"") == ("backup-format", "backup")


Change = Callable[[ControlPlane], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old.catalogue.authority("ca").key.write_bytes(b"no key"),
        lambda old: old.catalogue.authority("ca").key.write_bytes(
            old.catalogue.authority("front-proxy-ca").key.read_bytes()
        ),
        lambda old: old.catalogue.tokens[0].public.write_bytes(b"no key"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(old: ControlPlane, new: ControlPlane, change: Change) -> None:
    change(old)
    assert untouched(new, old.backup(PASSPHRASE)) == ("backup-damaged", "backup")


def test_a_snapshot_of_another_revision_is_refused(
    old: ControlPlane, new: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = old.backup(PASSPHRASE)

    async def revision(snapshot: Path) -> int:
        return REVISION + 1

    monkeypatch.setattr(new.store, "revision", revision)
    assert untouched(new, data) == ("backup-damaged", "backup")


def test_a_datastore_that_cannot_be_built_is_no_reason_to_stop(old: ControlPlane, new: ControlPlane) -> None:
    new.store.builds = False
    before = new.files()
    with pytest.raises(BasaltError, match="exit code 1"):
        restore(new, old.backup(PASSPHRASE))
    assert new.files() == before


def test_a_disk_without_room_is_not_filled(
    old: ControlPlane, new: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, before = old.backup(PASSPHRASE), new.files()
    monkeypatch.setattr(archive, "RESERVE", 2**60)
    with pytest.raises(BasaltError, match="MiB are free"):
        restore(new, data)
    assert new.files() == before


def test_one_restore_at_a_time(old: ControlPlane, new: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)
    restore(new, data)
    with pytest.raises(Refused, match="a backup is being restored"):
        restore(new, data)


def test_who_goes_away_before_all_was_sent_leaves_nothing(old: ControlPlane, new: ControlPlane) -> None:
    data, before = old.backup(PASSPHRASE), new.files()

    async def go() -> None:
        asked = new.custodian

        async def halted() -> AsyncIterator[bytes]:
            async for piece in in_pieces(data[:50_000]):
                yield piece
            await asyncio.sleep(60)

        task = asyncio.create_task(asked.restore(PASSPHRASE, halted()))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert new.files() == before
        await asked.restore(PASSPHRASE, in_pieces(data))

    asyncio.run(go())
    assert new.places.decided.exists()


def test_a_backup_leaves_nothing_behind(old: ControlPlane) -> None:
    before = old.files()
    old.backup(PASSPHRASE)
    assert old.files() == before
    old.store.down = True
    with pytest.raises(BasaltError, match="does not answer"):
        old.backup(PASSPHRASE)
    assert old.files() == before and not old.places.taking.exists()


def test_one_backup_at_a_time(old: ControlPlane) -> None:
    async def go() -> None:
        asked = old.custodian
        async with asked.backup(PASSPHRASE):
            with pytest.raises(Refused, match="is being taken"):
                async with asked.backup(PASSPHRASE):
                    pass

    asyncio.run(go())


def test_a_folder_that_is_a_file_system_cannot_be_exchanged(
    old: ControlPlane, new: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == new.store.folder)
    with pytest.raises(BasaltError, match="a file system of its own"):
        restore(new, old.backup(PASSPHRASE))


def test_nothing_in_the_file_is_in_the_clear(old: ControlPlane) -> None:
    data = old.backup(PASSPHRASE)
    assert b"PRIVATE KEY" not in data and DATA[:32] not in data
    head = json.loads(data.splitlines()[1])
    assert os.path.basename(head["cluster"]) == "basalt"
    assert PASSPHRASE.text.encode() not in data
