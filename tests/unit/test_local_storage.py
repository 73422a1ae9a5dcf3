# SPDX-License-Identifier: Apache-2.0
"""Local storage: sizes, what is decided, and that a power cut between any two changes leaves nothing wrong."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from firstboot.cluster.orphans import orphans
from firstboot.config import Config
from firstboot.failure import DocumentError
from firstboot.features.storage import feature, storage_class
from firstboot.kube import KubeError, Trust, object_path
from firstboot.observe import feature_part
from firstboot.probes import Telling, ToldProbe
from firstboot.report.status import Part, State
from firstboot.services.model import Node as FeatureNode
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied, Objects
from firstboot.storage import FINALIZER
from firstboot.storage.decide import Seen, Verdict, decide, unclaimed
from firstboot.storage.objects import Claim, Class, Volume, node_of
from firstboot.storage.provisioner import Provisioner
from firstboot.storage.quantity import parse, show, write
from firstboot.storage.quota import ProjectQuotas
from firstboot.storage.service import Follower
from firstboot.storage.volumes import FIRST_PROJECT, Stage, Volumes
from firstboot.validate import check_text
from tests.unit.support_disk import PowerCut, watched
from tests.unit.support_storage import CLAIMS, CLASSES, MIB, SELECTED, VOLUMES, Cluster, CountedQuotas

DATA = "/api/v1/namespaces/shop/persistentvolumeclaims/data"
NAME = "pvc-uid-of-data"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1Gi", 1024**3),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("10M", 10_000_000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("2Ei", 2 * 1024**6),
        ("1E+2", 100),
        ("12e-1", 2),
        (".5Ki", 512),
        ("5.", 5),
        ("100m", 1),
        ("1500m", 2),
        ("1n", 1),
        ("0.1", 1),
        ("+3k", 3000),
        ("-1Ki", -1024),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_quantity_is_read_exactly(text: str, size: int) -> None:
    assert parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1GiB", "1K", "ten", "1e", "1.2.3", "0x10", "1kk", "٣", "1e9999"]
)
def test_what_is_no_quantity_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    ("size", "written", "shown"),
    [
        (0, "0", "0 bytes"),
        (1023, "1023", "1023 bytes"),
        (1024, "1Ki", "1 KiB"),
        (3 * 1024**3 // 2, "1536Mi", "1.5 GiB"),
        (1024**3 - 1, "1073741823", "1023.9 MiB"),
        (5 * 1024**4, "5Ti", "5 TiB"),
        (1024**7, "1024Ei", "1024 EiB"),
    ],
)
def test_a_size_is_written_and_shown(size: int, written: str, shown: str) -> None:
    assert (write(size), show(size)) == (written, shown)
    assert parse(write(size)) == size


@dataclass
class Node:
    """A node whose process can lose its power and begin anew; what it has on disk and in the API stays.

    left: bytes of the disk that can be promised
    """

    place: Path
    cluster: Cluster = field(default_factory=Cluster)
    quotas: CountedQuotas = field(default_factory=CountedQuotas)
    name: str = "node-1"

    def __post_init__(self) -> None:
        self.quotas.places[0] = self.place
        self.volumes = Volumes(self.place, self.quotas, system=Path("/proc"))
        self.begin()

    def begin(self) -> None:
        """Start a process that knows nothing."""
        self.provisioner = Provisioner(self.cluster, self.name, self.volumes)

    def seen(self) -> Seen:
        items = self.cluster.items
        claims = [claim for obj in items(CLAIMS) if (claim := Claim.read(obj))]
        volumes = [volume for obj in items(VOLUMES) if (volume := Volume.read(obj))]
        classes = [kind for obj in items(CLASSES) if (kind := Class.read(obj))]
        folders = self.volumes.folders()
        return Seen(
            node=self.name,
            place=self.place,
            room=self.volumes.room(folders),
            claims={each.uid: each for each in claims},
            volumes={each.name: each for each in volumes},
            classes={each.name: each for each in classes},
            folders=tuple(folders),
        )

    def verdict(self) -> Verdict:
        return decide(self.seen())

    async def settle(self) -> None:
        """Go on until nothing has to be done any more, the controller manager's part included."""
        for _ in range(30):
            actions = self.verdict().actions
            for action in actions:
                await self.provisioner.apply(action)
            if not self.cluster.settle() and self.verdict().actions == actions:
                return
        raise AssertionError(f"it never ends: {self.verdict().actions}")

    def go(self) -> None:
        asyncio.run(self.settle())

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir())

    @property
    def limits(self) -> dict[str, int]:
        return {each.name: each.quota.limit for each in self.volumes.folders() if each.stage is Stage.USED}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    place = tmp_path / "volumes"
    place.mkdir()
    made = Node(place)
    made.cluster.add_class()
    return made


def test_a_claim_gets_a_folder_with_a_limit_and_a_volume(node: Node) -> None:
    node.cluster.add_claim("data", "1500k")
    node.go()
    volume = node.cluster.objects[f"{VOLUMES}/{NAME}"]
    assert node.limits == {NAME: 2 * MIB}, "a whole number of MiB"
    assert volume["spec"]["capacity"] == {"storage": "2Mi"}
    assert volume["spec"]["local"] == {"path": str(node.place / NAME)}
    assert node_of(volume) == "node-1" and volume["metadata"]["finalizers"] == [FINALIZER]
    assert volume["spec"]["claimRef"]["uid"] == "uid-of-data"
    assert node.cluster.objects[DATA]["status"]["phase"] == "Bound"
    assert os.stat(node.place / NAME).st_mode & 0o777 == 0o777
    [(reason, text, count)] = node.cluster.events
    assert reason == "ProvisioningSucceeded" and "2 MiB" in text and count == 1


@pytest.mark.parametrize(
    ("node_name", "spec"),
    [
        (None, {}),
        ("node-2", {}),
        ("node-1", {"storageClassName": "other"}),
        ("node-1", {"storageClassName": ""}),
        ("node-1", {"volumeName": "made-by-hand"}),
    ],
)
def test_what_is_for_others_is_left_to_them(node: Node, node_name: str | None, spec: dict[str, Any]) -> None:
    node.cluster.add_class("other", provisioner="example.org/other")
    node.cluster.add_claim("data", "1Mi", node_name, **spec)
    node.go()
    assert node.folders == [] and node.cluster.items(VOLUMES) == [] and node.cluster.events == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"volumeMode": "Block"}, "volumeMode: Filesystem"),
        ({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}, "in place of `ReadWriteMany`"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "remove `selector`"),
        ({"dataSource": {"kind": "VolumeSnapshot"}}, "begin empty"),
        ({"dataSourceRef": {"kind": "VolumeSnapshot"}}, "begin empty"),
    ],
)
def test_what_no_volume_can_be_is_said_once(node: Node, spec: dict[str, Any], expected: str) -> None:
    node.cluster.add_claim("data", "1Mi", **spec)
    node.go()
    node.go()
    [(reason, text, count)] = node.cluster.events
    assert reason == "ProvisioningFailed" and expected in text and count == 1
    assert node.cluster.objects[DATA]["metadata"]["annotations"][SELECTED] == "node-1", (
        "no other node can either"
    )
    assert node.folders == []


def test_more_than_there_is_is_refused_with_numbers(node: Node) -> None:
    node.cluster.add_claim("data", "4Ei")
    node.go()
    [(reason, text, count)] = node.cluster.events
    assert reason == "ProvisioningFailed" and count == 1
    assert (
        "4 EiB cannot be promised by node-1: only" in text
        and f"are left on the disk of {node.place}." in text
    )
    assert SELECTED not in node.cluster.objects[DATA]["metadata"]["annotations"], "another node may have it"
    node.cluster.select(DATA, "node-1")
    node.go()
    assert [count for _, _, count in node.cluster.events] == [2], "the same again is counted"


def test_no_byte_is_promised_twice(node: Node) -> None:
    left = node.volumes.room([]).left
    half = left * 6 // 10 // MIB
    for name in ("a", "b", "c"):
        node.cluster.add_claim(name, f"{half}Mi")
    node.go()
    assert list(node.limits) == ["pvc-uid-of-a"]
    assert node.volumes.room(node.volumes.folders()).left < half * MIB
    node.cluster.remove("/api/v1/namespaces/shop/persistentvolumeclaims/a")
    node.cluster.select("/api/v1/namespaces/shop/persistentvolumeclaims/b", "node-1")
    node.go()
    node.cluster.select("/api/v1/namespaces/shop/persistentvolumeclaims/b", "node-1")
    node.go()
    assert list(node.limits) == ["pvc-uid-of-b"], "what is free again is promised again"


def test_the_system_keeps_a_part_of_its_own_disk(node: Node) -> None:
    alone, shared = node.volumes.room([]), Volumes(node.place, node.quotas, system=node.place).room([])
    assert shared.size == alone.size and alone.left - shared.left >= alone.size // 10 - 64 * MIB


def test_a_volume_grows_by_limit_volume_and_claim(node: Node) -> None:
    node.cluster.add_claim("data", "1Mi")
    node.go()
    node.cluster.resize(DATA, "5Mi")
    node.go()
    assert node.limits == {NAME: 5 * MIB}
    assert node.cluster.objects[f"{VOLUMES}/{NAME}"]["spec"]["capacity"] == {"storage": "5Mi"}
    assert node.cluster.objects[DATA]["status"]["capacity"] == {"storage": "5Mi"}
    assert ("VolumeResizeSuccessful", "the volume has 5 MiB now", 1) in node.cluster.events
    node.cluster.resize(DATA, "4Ei")
    node.go()
    [text] = [text for reason, text, _ in node.cluster.events if reason == "VolumeResizeFailed"]
    assert "more than the 5 MiB that are there cannot be promised by node-1" in text
    assert node.limits == {NAME: 5 * MIB} and node.cluster.objects[DATA]["metadata"]["annotations"]


def test_data_goes_with_its_claim(node: Node) -> None:
    node.cluster.add_claim("data", "1Mi")
    node.go()
    for folder in ("one/two/three", "one/four"):
        (node.place / NAME / folder).mkdir(parents=True)
        (node.place / NAME / folder / "file").write_text("x")
    outside = node.place.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (node.place / NAME / "link").symlink_to(outside)
    node.cluster.remove(DATA)
    node.go()
    assert node.folders == [] and node.cluster.items(VOLUMES) == []
    assert (outside / "precious").exists(), "what a link leads to is not in the volume"


def test_a_folder_deeper_than_any_path_can_be_removed(node: Node) -> None:
    node.volumes.make(NAME, MIB)
    here = os.open(node.place / NAME, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    node.volumes.remove(NAME)
    assert node.folders == []


def test_retained_data_stays_until_somebody_removes_it(node: Node) -> None:
    node.cluster.add_class("local-storage", policy="Retain")
    node.cluster.add_claim("data", "1Mi")
    node.go()
    (node.place / NAME / "word").write_text("kept")
    node.cluster.remove(DATA)
    node.go()
    assert node.cluster.objects[f"{VOLUMES}/{NAME}"]["status"]["phase"] == "Released"
    node.cluster.remove(f"{VOLUMES}/{NAME}")
    node.go()
    assert node.cluster.items(VOLUMES) == []
    assert (node.place / NAME / "word").read_text() == "kept"
    assert unclaimed(node.seen()) == [NAME], "which is said"


def test_a_volume_that_is_deleted_while_it_is_used_stays_until_its_claim_goes(node: Node) -> None:
    node.cluster.add_claim("data", "1Mi")
    node.go()
    node.cluster.remove(f"{VOLUMES}/{NAME}")
    node.go()
    assert node.folders == [NAME]
    node.cluster.remove(DATA)
    node.go()
    assert node.folders == [] and node.cluster.items(VOLUMES) == []


def test_data_of_which_the_cluster_knows_nothing_is_never_removed(node: Node) -> None:
    """As after an older backup of the cluster was restored."""
    node.cluster.add_claim("data", "1Mi")
    node.go()
    (node.place / NAME / "word").write_text("kept")
    before = dict(node.cluster.objects)
    for path in (DATA, f"{VOLUMES}/{NAME}"):
        del node.cluster.objects[path]
    node.begin()
    node.go()
    assert (node.place / NAME / "word").read_text() == "kept" and unclaimed(node.seen()) == [NAME]
    node.cluster.objects.update(before)
    node.go()
    assert node.limits == {NAME: MIB} and unclaimed(node.seen()) == []


def test_a_volume_whose_folder_is_gone_is_not_made_anew(node: Node) -> None:
    node.cluster.add_claim("data", "1Mi")
    node.go()
    os.rmdir(node.place / NAME)
    node.go()
    assert node.folders == []
    [lack] = node.verdict().lacks
    assert f"{node.place / NAME} of PersistentVolume {NAME} is gone" in lack and "mount" in lack
    node.cluster.remove(DATA)
    node.go()
    assert node.cluster.items(VOLUMES) == [], "but its volume can be deleted"


def test_volumes_of_another_place_are_left_where_they_are(node: Node, tmp_path: Path) -> None:
    node.cluster.add_claim("data", "1Mi")
    node.go()
    other = tmp_path / "other"
    other.mkdir()
    moved = Node(other, node.cluster, node.quotas)
    moved.go()
    assert moved.folders == [] and node.folders == [NAME]
    [lack] = moved.verdict().lacks
    assert "is not `local-path` any more" in lack


def test_what_another_node_was_chosen_for_meanwhile_is_not_made(node: Node) -> None:
    node.cluster.add_claim("data", "1Mi")
    [action] = node.verdict().actions
    node.cluster.select(DATA, "node-2")
    asyncio.run(node.provisioner.apply(action))
    assert node.folders == [] and node.cluster.items(VOLUMES) == []
    other = node.place.parent / "other"
    other.mkdir()
    Node(other, node.cluster, CountedQuotas(), name="node-2").go()
    node.volumes.make(NAME, MIB)
    node.go()
    assert node.folders == [], "an empty folder of another node's volume goes"


def test_other_files_are_nobodys_business(node: Node) -> None:
    (node.place / "lost+found").mkdir()
    (node.place / "notes").write_text("x")
    (node.place / "pvc-link").symlink_to("/")
    node.go()
    assert node.folders == ["lost+found", "notes", "pvc-link"]


def test_a_limit_that_was_changed_by_hand_is_put_right(node: Node) -> None:
    node.cluster.add_claim("data", "3Mi")
    node.go()
    node.quotas.set(FIRST_PROJECT, 0, 0)
    node.go()
    assert node.limits == {NAME: 3 * MIB}


def test_a_folder_put_back_by_hand_gets_a_project_of_its_own(node: Node) -> None:
    node.cluster.add_claim("data", "3Mi")
    node.go()
    node.quotas.projects.clear()
    node.go()
    assert node.limits == {NAME: 3 * MIB}


def test_no_project_is_used_again_while_it_has_anything(node: Node) -> None:
    node.volumes.make("pvc-a", MIB)
    node.volumes.make("pvc-b", MIB)
    first, second = (node.quotas.project(node.volumes.path(name)) for name in ("pvc-a", "pvc-b"))
    assert (first, second) == (FIRST_PROJECT, FIRST_PROJECT + 1)
    node.volumes.remove("pvc-a")
    node.quotas.held.add(first)
    node.volumes.make("pvc-c", MIB)
    assert node.quotas.project(node.volumes.path("pvc-c")) == FIRST_PROJECT + 2, "b has the one in between"
    node.quotas.held.clear()
    node.volumes.make("pvc-d", MIB)
    assert node.quotas.project(node.volumes.path("pvc-d")) == first


def test_two_who_change_an_object_at_once(node: Node) -> None:
    """The API refuses what was read before somebody else wrote it; the next look does it."""
    node.cluster.add_claim("data", "4Ei")
    node.cluster.refusing = 409
    [action] = node.verdict().actions
    with pytest.raises(KubeError):
        asyncio.run(node.provisioner.apply(action))
    node.cluster.refusing = None
    node.go()
    assert SELECTED not in node.cluster.objects[DATA]["metadata"]["annotations"]


# Power cuts.

Life = Callable[[Node], None]


def makes(node: Node) -> None:
    node.cluster.add_claim("data", "2Mi")


def grows(node: Node) -> None:
    makes(node)
    node.go()
    node.cluster.resize(DATA, "7Mi")


def goes(node: Node) -> None:
    makes(node)
    node.go()
    (node.place / NAME / "folder").mkdir()
    (node.place / NAME / "folder" / "file").write_text("x")
    node.cluster.remove(DATA)


def goes_before_it_is_made(node: Node) -> None:
    """The claim is deleted at the moment of the power cut."""
    makes(node)


LIVES: tuple[tuple[Life, int | None], ...] = (
    (makes, 2 * MIB),
    (grows, 7 * MIB),
    (goes, None),
    (goes_before_it_is_made, None),
)
"""What happens, and the size of the volume that there is in the end."""


@pytest.mark.parametrize(("life", "size"), LIVES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_power_cut_between_any_two_changes(tmp_path: Path, life: Life, size: int | None) -> None:
    cuts, folders = 0, [NAME] if size else []
    while True:
        place = tmp_path / f"{cuts}"
        place.mkdir()
        node = Node(place)
        node.cluster.add_class()
        life(node)
        power = Power(cuts)
        with watched(power.disk):
            node.cluster.spend = node.quotas.spend = power.spend
            try:
                node.go()
            except PowerCut:
                pass
            node.cluster.spend = node.quotas.spend = lambda _what: None
        cut = power.spent is not None and power.gone
        check_promises(node)
        if life is goes_before_it_is_made and DATA in node.cluster.objects:
            node.cluster.remove(DATA)
        node.begin()
        node.go()
        check_promises(node)
        assert node.folders == folders, f"after {power.spent}"
        assert [each["metadata"]["name"] for each in node.cluster.items(VOLUMES)] == folders
        assert node.limits == ({NAME: size} if size else {})
        if size:
            assert node.cluster.objects[DATA]["status"]["capacity"] == {"storage": write(size)}
        if not cut:
            break
        cuts += 1
    assert cuts >= 4, "there were that many changes between which the power was cut"


@dataclass
class Power:
    """Lasts for so many changes, of the disk, of quotas or of the API."""

    after: int
    spent: list[str] = field(default_factory=list)
    gone: bool = False

    def spend(self, what: str) -> None:
        if self.gone or len(self.spent) == self.after:
            self.gone = True
            raise PowerCut
        self.spent.append(what)

    def disk(self, name: str, path: Any) -> None:
        self.spend(f"{name} {path}")


def check_promises(node: Node) -> None:
    """At no time is there a volume that claims can be bound to without its folder and limit."""
    limits = node.limits
    for each in node.cluster.items(VOLUMES):
        volume = Volume.read(each)
        assert volume is not None
        if volume.phase in ("Pending", "Bound"):
            assert limits[volume.name] >= volume.capacity


# The service.


def test_the_service_follows_and_tells(node: Node, tmp_path: Path) -> None:
    lacks, detail = tmp_path / "lacks", tmp_path / "detail"
    follower = Follower(node.cluster, "node-1", node.volumes, lacks, detail)

    async def life() -> None:
        running = asyncio.create_task(follower.run())
        await told(lambda: "0 bytes promised to 0 volumes" in _text(detail))
        node.cluster.add_claim("data", "2Mi")
        await told(lambda: settled(node, "2 MiB promised to 1 volume", detail))
        (node.place / NAME / "file").write_text("x")
        node.cluster.remove(DATA)
        await told(lambda: settled(node, "0 bytes promised to 0 volumes", detail))
        assert node.folders == [] and _text(lacks) == ""
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(life())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda node: node.place.rmdir(), "is no folder: make it, or mount the disk"),
        (
            lambda node: setattr(node.quotas, "enforced", ("is on a file system without", "it takes ext4")),
            "is on a file system without: it takes ext4",
        ),
        (
            lambda node: node.quotas.assign(node.place, 7),
            "is part of a project itself: set another `local-path`",
        ),
    ],
)
def test_a_place_without_quotas_is_said_and_nothing_is_made(
    node: Node, tmp_path: Path, make: Callable[[Node], None], expected: str
) -> None:
    make(node)
    lacks = tmp_path / "lacks"
    follower = Follower(node.cluster, "node-1", node.volumes, lacks, tmp_path / "detail")
    node.cluster.add_claim("data", "2Mi")

    async def life() -> None:
        running = asyncio.create_task(follower.run())
        await told(lambda: _text(lacks).startswith(str(node.place)) and node.cluster.events)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(life())
    assert expected in _text(lacks) and node.cluster.items(VOLUMES) == []
    [(reason, text, _)] = node.cluster.events
    assert (
        reason == "ProvisioningFailed"
        and text.startswith("node-1 cannot make volumes: ")
        and expected in text
    )
    assert SELECTED not in node.cluster.objects[DATA]["metadata"]["annotations"], "another node may"


def test_data_that_cannot_be_removed_is_said(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstboot.storage.service.AFTER_FAILURE", 0.01)
    node.cluster.add_claim("data", "2Mi")
    node.go()
    node.cluster.remove(DATA)
    node.cluster.settle()
    (node.place / f".old-{NAME}").write_text("in the way")
    lacks, detail = tmp_path / "lacks", tmp_path / "detail"
    follower = Follower(node.cluster, "node-1", node.volumes, lacks, detail)

    async def life() -> None:
        running = asyncio.create_task(follower.run())
        await told(lambda: "Not a directory" in _text(lacks))
        (node.place / f".old-{NAME}").unlink()
        await told(lambda: node.folders == [] and _text(lacks) == "")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(life())
    assert any(reason == "VolumeFailedDelete" for reason, _, _ in node.cluster.events)


async def told(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def settled(node: Node, text: str, detail: Path) -> bool:
    """Have the controller manager do its part; whether the service says something when that is done."""
    return not node.cluster.settle() and text in _text(detail)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_the_kernel_says_that_a_file_system_has_no_quotas() -> None:
    """What /proc is on has none, whatever this host has."""
    found = ProjectQuotas(Path("/proc")).problem()
    assert found is not None and "mkfs.ext4 -O quota,project" in found[1]


# The feature.

SWITCH, PLACE = "features.local-storage.enabled", "features.local-storage.local-path"


def described(**settings: Any) -> FeatureNode:
    features = {"local-storage": {"enabled": True, **settings}}
    return FeatureNode(Config.from_dict({"role": "control-plane", "features": features}), "cp-1", "192.0.2.1")


def test_every_node_runs_it_and_control_planes_make_the_class() -> None:
    found = feature(described(**{"reclaim-policy": "Retain", "default": False, "local-path": "/mnt/volumes"}))
    [service] = found.services
    assert service.environment == {"NODE_NAME": "cp-1", "LOCAL_PATH": "/mnt/volumes"}
    kind = found.objects[0]
    assert (kind["reclaimPolicy"], kind["volumeBindingMode"]) == ("Retain", "WaitForFirstConsumer")
    assert kind["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "false"}
    off = feature(described(enabled=False))
    assert off.services == () and [each["kind"] for each in off.leftovers[:1]] == ["StorageClass"]
    assert {object_path(each) for each in found.objects} == {object_path(each) for each in off.leftovers}
    # Names of roles may have a colon, those of nothing else.
    others = [each["metadata"]["name"] for each in found.objects if "rbac" not in each["apiVersion"]]
    assert all(re.fullmatch("[a-z0-9.-]+", name) for name in others)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("/var/lib/basalt/local-storage", False),
        ("/var/lib/basalt/local-storage/fast", False),
        ("/mnt", False),
        ("/mnt/disk-1/volumes", False),
        ("/srv/a_b.c", False),
        ("/var/lib/basalt", True),
        ("/var/lib/kubelet", True),
        ("/mnt/../etc", True),
        ("/mnt/.hidden", True),
        ("/mnt/", True),
        ("/mnt//a", True),
        ("/mnt/a b", True),
        ("/mntx", True),
        ("relative", True),
        ("/", True),
    ],
)
def test_where_volumes_may_be(path: str, bad: bool) -> None:
    document = {"version": 1, "role": "control-plane", "features": {"local-storage": {"local-path": path}}}
    text = yaml.safe_dump({"basalt": document})
    if not bad:
        assert check_text(text, "FILE").features.local_storage.local_path == path
        return
    with pytest.raises(DocumentError) as raised:
        check_text(text, "FILE")
    [failure] = raised.value.failures
    assert failure.path == "basalt.features.local-storage.local-path"
    assert "below `/mnt` or `/srv`" in failure.remedy


class Immutable(Cluster):
    """A cluster whose classes cannot be changed but for their annotations."""

    def __init__(self, manager: str) -> None:
        super().__init__()
        self.manager = manager

    async def apply(
        self, obj: Any, manager: str = "basalt", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        path = object_path(obj)
        found = self.objects.get(path)
        if found is not None and found["reclaimPolicy"] != obj["reclaimPolicy"]:
            raise KubeError("PATCH", path, 422, "updates to reclaimPolicy are forbidden.")
        made = {**obj, "metadata": {**obj["metadata"], "managedFields": [{"manager": self.manager}]}}
        self._put(path, made)


@pytest.mark.parametrize(("manager", "replaced"), [("basalt", True), ("somebody-else", False)])
def test_a_class_is_made_anew_where_it_cannot_change(manager: str, replaced: bool) -> None:
    cluster = Immutable(manager)

    async def apply(policy: str) -> None:
        step = Objects("class", (storage_class(described(**{"reclaim-policy": policy})),), Applied())
        await step.apply(Machine(cast(Any, None), cluster, {}))

    asyncio.run(apply("Delete"))
    if replaced:
        asyncio.run(apply("Retain"))
    else:
        with pytest.raises(KubeError):
            asyncio.run(apply("Retain"))
    [kind] = cluster.items(CLASSES)
    assert kind["reclaimPolicy"] == ("Retain" if replaced else "Delete")


def refusals(node: Node, after: dict[str, Any]) -> list[str]:
    before = {SWITCH: True, PLACE: "/mnt/a"}
    found = asyncio.run(orphans(node.cluster, before, {**before, **after}))
    assert all(each.code == "feature-in-use" for each in found)
    return [f"{each.path}: {each.found}" for each in found]


def test_what_is_stored_keeps_the_feature_and_its_place(node: Node) -> None:
    assert refusals(node, {SWITCH: False}) == [], "nobody uses it"
    node.cluster.add_claim("data", "1Mi")
    node.go()
    [found] = refusals(node, {SWITCH: False})
    assert found == f"{SWITCH}: PersistentVolumeClaim shop/data would be left without it"
    [found] = refusals(node, {PLACE: "/mnt/b"})
    assert found.startswith(f"{PLACE}: PersistentVolumeClaim shop/data")
    assert refusals(node, {"features.dns.enabled": False}) == []
    node.cluster.objects[f"{VOLUMES}/{NAME}"]["spec"]["persistentVolumeReclaimPolicy"] = "Retain"
    node.cluster.remove(DATA)
    node.go()
    [found] = refusals(node, {SWITCH: False})
    assert f"PersistentVolume {NAME} would" in found


def test_a_service_that_works_says_so_in_its_own_words(tmp_path: Path) -> None:
    lacks, detail = tmp_path / "lacks", tmp_path / "detail"
    probe = ToldProbe(lacks, "has not looked yet", detail)

    async def ask() -> str | None:
        return await probe(cast(Any, None))

    assert asyncio.run(ask()) == "has not looked yet" and probe.detail == ""
    lacks.write_text("")
    detail.write_text("1 MiB promised\n")
    assert asyncio.run(ask()) is None and isinstance(probe, Telling) and probe.detail == "1 MiB promised"
    parts = {"local-storage": Part(State.HEALTHY, probe.detail)}
    assert feature_part(feature(described()), parts) == Part(State.HEALTHY, "1 MiB promised")
