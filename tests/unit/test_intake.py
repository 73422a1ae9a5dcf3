# SPDX-License-Identifier: Apache-2.0
"""Which document a node follows when sources, facts and its own past disagree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot.cluster import settings
from firstboot.cluster.followed import Followed
from firstboot.cluster.membership import Membership
from firstboot.config import Config, DatastoreType
from firstboot.facts import Facts
from firstboot.intake import ADDRESS_PATIENCE, FACTS_AGE, Intake, node_name
from firstboot.moving.records import MOVED, MOVING, Moved, Moving
from firstboot.sources import FILE
from tests.unit.support_pki import Company

GOOD = "basalt:\n  role: control-plane\n"
FACTS = Facts(
    hostname="cp1",
    addresses={"eth0": ("192.0.2.10/24",)},
    default_address="192.0.2.10",
    memory=4 * 1024**3,
    machine_id="0123456789abcdef",
)


class World:
    """A node's root, its facts and its clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.facts = FACTS
        self.now = 0.0
        for folder in ("etc/basalt", "var/lib/basalt", "usr/bin"):
            (root / folder).mkdir(parents=True)
        (root / "usr/bin/cloud-init").touch()

    def document(self, text: str) -> None:
        (self.root / FILE).write_text(text)

    def intake(self) -> Intake:
        return Intake(self.root, lambda: self.now)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path)
    monkeypatch.setattr(Facts, "gather", lambda root: world.facts)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    yield world


def test_without_a_document_the_node_waits(world: World) -> None:
    taken = world.intake().look()
    assert (taken.node, taken.pending, taken.failures) == (None, True, ())


def test_a_good_document_is_followed(world: World) -> None:
    world.document(GOOD)
    taken = world.intake().look()
    assert taken.node is not None
    assert (taken.node.name, taken.node.ip, taken.addresses) == ("cp1", "192.0.2.10", ("192.0.2.10",))
    assert taken.origin == "/etc/basalt/config.yaml"


def test_a_bad_document_is_told_and_its_correction_followed(world: World) -> None:
    intake = world.intake()
    world.document("basalt:\n  role: king\n")
    taken = intake.look()
    assert (taken.node, taken.present) == (None, True)
    assert [failure.path for failure in taken.failures] == ["basalt.role"]
    world.document(GOOD)
    taken = intake.look()
    assert taken.node is not None
    assert taken.failures == ()


def test_a_bad_document_does_not_replace_a_good_one(world: World) -> None:
    intake = world.intake()
    world.document(GOOD)
    before = intake.look().node
    world.document(GOOD + "  colour: blue\n")
    taken = intake.look()
    assert taken.node == before
    assert [failure.path for failure in taken.failures] == ["basalt.colour"]


def test_a_bad_document_does_not_replace_a_good_one_over_a_reboot(world: World) -> None:
    world.document(GOOD)
    before = world.intake().look().node
    world.document(GOOD + "  colour: blue\n")
    taken = world.intake().look()
    assert taken.node == before
    assert taken.failures


def test_a_reboot_starts_before_the_source_is_there(world: World) -> None:
    world.document(GOOD)
    before = world.intake().look().node
    (world.root / FILE).unlink()
    taken = world.intake().look()
    assert taken.node == before
    assert taken.failures == ()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("  datastore: {type: etcd}\n", "basalt.datastore.type"),
        ("  cluster: {pod-cidr: 10.9.0.0/16}\n", "basalt.cluster.pod-cidr"),
        ("  node: {name: other}\n", "basalt.node.name"),
    ],
)
def test_what_a_node_keeps_for_life_is_refused(world: World, change: str, path: str) -> None:
    intake = world.intake()
    world.document(GOOD)
    before = intake.look().node
    world.document(GOOD + change)
    taken = intake.look()
    assert taken.node == before
    assert [(failure.code, failure.path) for failure in taken.failures] == [("fixed-setting", path)]


def test_a_document_does_not_replace_a_nodes_authority(world: World) -> None:
    company, other = Company.make("Company CA"), Company.make("Other CA")

    def brings(authority: Company) -> str:
        return json.dumps({"basalt": {"role": "control-plane", "certificates": authority.document}})

    file = world.root / "etc/kubernetes/pki/ca.crt"
    file.parent.mkdir(parents=True)
    world.document(GOOD)
    world.intake().look()
    file.write_text(other.pem)
    world.document(brings(company))
    taken = world.intake().look()
    assert taken.node is not None and taken.node.config.certificates.ca.key is None, "it stays what it was"
    [failure] = taken.failures
    assert (failure.code, failure.path) == ("fixed-setting", "basalt.certificates.ca")
    file.write_text(company.pem)
    assert world.intake().look().failures == (), "the same authority may be named later"
    file.write_text(other.pem)
    assert world.intake().look().failures == (), "a restored node starts by the document it has"


def test_an_allowed_change_is_followed(world: World) -> None:
    intake = world.intake()
    world.document(GOOD)
    intake.look()
    world.document(GOOD + "  time: {servers: [192.0.2.1]}\n")
    taken = intake.look()
    assert taken.node is not None
    assert taken.node.config.time.servers == ("192.0.2.1",)


def test_a_new_host_name_does_not_rename_the_node(world: World) -> None:
    world.document(GOOD)
    world.intake().look()
    world.facts = replace(FACTS, hostname="renamed")
    taken = world.intake().look()
    assert taken.node is not None
    assert taken.node.name == "cp1"


def test_an_address_may_come_late_without_a_word(world: World) -> None:
    world.document(GOOD)
    world.facts = replace(FACTS, addresses={}, default_address=None)
    intake = world.intake()
    taken = intake.look()
    assert (taken.node, taken.failures, taken.pending) == (None, (), True)
    world.now = ADDRESS_PATIENCE + 1
    assert [failure.code for failure in intake.look().failures] == ["no-address"]
    world.facts = FACTS
    assert intake.look().node is not None


def test_a_lost_address_is_told_and_the_node_stays(world: World) -> None:
    world.document(GOOD)
    intake = world.intake()
    before = intake.look().node
    world.facts = replace(FACTS, addresses={}, default_address=None)
    world.now = ADDRESS_PATIENCE + FACTS_AGE + 1
    taken = intake.look()
    assert taken.node == before
    assert [failure.code for failure in taken.failures] == ["no-address"]


def test_a_new_address_is_followed(world: World) -> None:
    world.document(GOOD)
    intake = world.intake()
    intake.look()
    world.facts = replace(FACTS, addresses={"eth0": ("192.0.2.11/24",)}, default_address="192.0.2.11")
    world.now = FACTS_AGE + 1
    taken = intake.look()
    assert taken.node is not None
    assert taken.node.ip == "192.0.2.11"


WORKER = """basalt:
  role: worker
  cluster:
    token: 0123456789abcdef0123456789abcdef
    endpoints: [192.0.2.1]
"""
SETTINGS = settings.of(Config.from_dict({"role": "control-plane", "cluster": {"pod-cidr": "10.9.0.0/16"}}))


def test_a_worker_has_to_join_first_and_then_has_the_clusters_settings(world: World) -> None:
    world.document(WORKER)
    intake = world.intake()
    taken = intake.look()
    assert (taken.node, taken.failures) == (None, ())
    assert taken.joiner is not None and taken.joiner.config.cluster.pod_cidr == "10.1.0.0/16"
    Membership(SETTINGS, ("192.0.2.1", "192.0.2.2")).save(intake.membership)
    taken = intake.look()
    assert taken.joiner is None and taken.node is not None
    assert taken.node.control_planes == ("192.0.2.1", "192.0.2.2")
    assert taken.node.config.cluster.pod_cidr == "10.9.0.0/16"
    assert intake.look().node == taken.node
    assert world.intake().look().node == taken.node, "a restarted agent follows the same"


def test_a_member_is_told_where_its_document_contradicts_the_cluster(world: World) -> None:
    world.document(WORKER)
    intake = world.intake()
    Membership(SETTINGS, ("192.0.2.1",)).save(intake.membership)
    good = intake.look().node
    world.document(WORKER + "    pod-cidr: 10.8.0.0/16\n")
    taken = intake.look()
    assert [(f.code, f.path) for f in taken.failures] == [("differs-from-cluster", "basalt.cluster.pod-cidr")]
    assert taken.node == good
    world.document(WORKER + "    pod-cidr: 10.9.0.0/16\n")
    assert intake.look().failures == ()


def test_a_control_plane_joins_too_and_remembers_the_members_it_joined(world: World) -> None:
    world.document(WORKER.replace("worker", "control-plane"))
    intake = world.intake()
    assert intake.look().joiner is not None
    Membership(SETTINGS, ("192.0.2.1", "192.0.2.10"), ("192.0.2.1:9000",)).save(intake.membership)
    taken = intake.look()
    assert taken.node is not None and taken.node.peers == ("192.0.2.1:9000",)


def test_a_control_plane_that_is_not_alone_any_more_follows_its_own_document(world: World) -> None:
    world.document(GOOD)
    intake = world.intake()
    alone = intake.look().node
    assert alone is not None and alone.control_planes == ()
    Membership(SETTINGS, ("192.0.2.10",)).save(intake.membership)
    taken = intake.look()
    assert taken.node == replace(alone, control_planes=("192.0.2.10",))
    world.facts = replace(FACTS, addresses={"eth0": ("192.0.2.11/24",)}, default_address="192.0.2.11")
    world.now = FACTS_AGE + 1
    moved = intake.look()
    assert [(f.code, f.path) for f in moved.failures] == [("fixed-setting", "basalt.node.ip")]
    assert moved.node == taken.node, "what runs goes on"


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("cp1", "cp1"),
        ("CP1.example.test", "cp1"),
        ("rack_7", "rack-7"),
        ("localhost", "basalt-01234567"),
        ("", "basalt-01234567"),
    ],
)
def test_the_name_of_a_node(hostname: str, name: str) -> None:
    assert node_name(replace(FACTS, hostname=hostname)) == name


FOLLOWED = "    upstream-nameservers: [192.0.2.53]\n"
DNS = "  features:\n   dns:\n" + FOLLOWED
UPSTREAM = "features.dns.upstream-nameservers"


def follow(intake: Intake, document: dict[str, object] | None = None, upstream: tuple[str, ...] = ()) -> None:
    """Have the node follow version 3 of settings, which its document has said something about or not."""
    features = {"dns": {"upstream-nameservers": upstream}}
    common = settings.of(Config.from_dict({"role": "control-plane", "features": features}))
    Followed(3, "2026-11-23T09:00:00Z", common, document or {}).save(intake.followed)


def test_a_node_boots_with_the_settings_it_has_followed_last(world: World) -> None:
    world.document(GOOD + DNS)
    intake = world.intake()
    before = intake.look().node
    assert before is not None and before.config.features.dns.upstream_nameservers == ("192.0.2.53",)
    assert before.stated == {UPSTREAM: ["192.0.2.53"]} and before.followed is None
    follow(intake, {UPSTREAM: ["192.0.2.53"]}, ("192.0.2.99",))
    for look in (intake, world.intake()):
        taken = look.look()
        assert taken.failures == (), "a document that stays as it is contradicts nobody"
        assert taken.node is not None and taken.node.followed is not None
        assert taken.node.followed.version == 3
        assert taken.node.config.features.dns.upstream_nameservers == ("192.0.2.99",)


def test_a_changed_document_of_the_only_control_plane_waits_for_its_version(world: World) -> None:
    world.document(GOOD)
    intake = world.intake()
    intake.look()
    follow(intake)
    world.document(GOOD + DNS + "  time: {servers: [192.0.2.1]}\n")
    taken = intake.look()
    assert taken.node is not None and taken.failures == ()
    assert taken.node.stated == {UPSTREAM: ["192.0.2.53"]}
    assert taken.node.config.features.dns.upstream_nameservers == (), "the cluster comes first"
    assert taken.node.config.time.servers == ("192.0.2.1",), "what is the machine's own counts at once"


@pytest.mark.parametrize("key", ["features: {dns: {service-ip: 10.152.183.9}}", "datastore: {type: etcd}"])
def test_what_a_cluster_keeps_is_refused_of_its_only_control_plane(world: World, key: str) -> None:
    world.document(GOOD)
    intake = world.intake()
    good = intake.look().node
    follow(intake)
    world.document(f"{GOOD}  {key}\n")
    taken = intake.look()
    [failure] = taken.failures
    assert (failure.code, failure.path.startswith("basalt.")) == ("fixed-setting", True)
    assert taken.node is not None and good is not None and taken.node.config == good.config


@pytest.mark.parametrize("said", ["", "  datastore: {type: dqlite}\n"])
def test_a_document_does_not_say_what_the_datastore_is_since_it_was_moved(world: World, said: str) -> None:
    world.document(GOOD + said)
    intake = world.intake()
    before = intake.look().node
    assert before is not None
    moving = Moving("x", DatastoreType.ETCD, "192.0.2.10", "", founds=True, pki={"key": ""})
    moving.save(intake.membership.with_name(MOVING))
    assert intake.look().node == before, "it is not there yet"
    replace(moving, placed=True).save(intake.membership.with_name(MOVING))
    Moved(DatastoreType.ETCD, "x", "").save(intake.membership.with_name(MOVED))
    for again in (intake, world.intake()):
        taken = again.look()
        assert taken.node is not None and taken.failures == ()
        assert taken.node.config == replace(
            before.config, datastore=replace(before.config.datastore, type=DatastoreType.ETCD)
        )
        # With a version that it follows, or without.
        follow(intake, {"datastore.type": "dqlite"} if said else {})
    world.document(GOOD + "  datastore: {type: etcd}\n")
    assert world.intake().look().failures == (), "that is so"
    world.document(GOOD + "  datastore: {type: external}\n")
    [failure] = world.intake().look().failures
    assert "basalt datastore move" in failure.remedy or failure.code != "fixed-setting"


def test_a_worker_follows_its_cluster_to_another_datastore(world: World) -> None:
    world.document(WORKER)
    intake = world.intake()
    Membership(SETTINGS, ("192.0.2.1",)).save(intake.membership)
    assert intake.look().node is not None
    Followed(2, "", settings.stored_in(SETTINGS, DatastoreType.ETCD), {}).save(intake.followed)
    taken = intake.look()
    assert taken.node is not None and taken.failures == ()
    assert taken.node.config.datastore.type is DatastoreType.ETCD


@pytest.mark.parametrize("text", [GOOD, WORKER], ids=["one of several control planes", "worker"])
def test_a_document_that_begins_to_contradict_its_cluster_is_told_how_to_change_that(
    world: World, text: str
) -> None:
    world.document(text)
    intake = world.intake()
    intake.look()
    Membership(SETTINGS, ("192.0.2.1", "192.0.2.10")).save(intake.membership)
    follow(intake)
    assert intake.look().failures == ()
    world.document(text + DNS)
    taken = intake.look()
    [failure] = taken.failures
    assert (failure.code, failure.path) == ("differs-from-cluster", f"basalt.{UPSTREAM}")
    assert f"`basalt set '{UPSTREAM}=[\"192.0.2.53\"]'`" in failure.remedy
    assert taken.node is not None and taken.node.config.features.dns.upstream_nameservers == ()
    follow(intake, upstream=("192.0.2.53",))
    taken = intake.look()
    assert taken.failures == () and taken.node is not None
    assert taken.node.stated == {UPSTREAM: ["192.0.2.53"]}
