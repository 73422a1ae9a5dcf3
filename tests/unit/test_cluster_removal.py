# SPDX-License-Identifier: Apache-2.0
"""A node is taken out of a cluster that is a dictionary; its clock goes on only while the removal waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from firstboot.cluster.leaving import ANNOTATION
from firstboot.cluster.quorum import Member
from firstboot.cluster.records import Machine, machine_object
from firstboot.cluster.removal import REPEAT, SILENCE, STOP, Progress, Removal
from firstboot.cluster.volumes import VOLUMES
from firstboot.failure import BasaltError, DocumentError
from firstboot.kube import Client, KubeError, Trust
from firstboot.storage.objects import volume_object

KUBE_SYSTEM = "/api/v1/namespaces/kube-system/configmaps"
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def pod(
    name: str, *, owner: str = "ReplicaSet", phase: str = "Running", **annotations: str
) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, "uid": f"uid-{name}", "annotations": annotations}
    return {"metadata": {**metadata, "ownerReferences": [{"kind": owner}]}, "status": {"phase": phase}}


@dataclass
class Voters:
    """The datastore: members by host, and how often it fails before it does what it is told."""

    events: list[str]
    known: dict[str, Member]
    fails: int = 0

    async def members(self) -> tuple[Member, ...]:
        return tuple(self.known.values())

    async def remove(self, member: Member) -> None:
        if self.fails:
            self.fails -= 1
            raise BasaltError("no leader")
        self.events.append(f"datastore without {member.host}")
        del self.known[member.host]


class Api(Client):
    """Objects by path; the kubelet of the node gives signs of life until it is told to leave."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Any] = {}
        self.pods: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.now = 0.0
        self.budget: Callable[[str], bool] = lambda name: True
        self.kubelet_obeys = True
        self.stops_pods = True
        self.silent_until = 0.0

    def enter(self, name: str, role: str, ip: str) -> None:
        labels = {"node-role.kubernetes.io/control-plane": ""} if role == "control-plane" else {}
        addresses = [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]
        self.objects[f"{KUBE_SYSTEM}/basalt-machine-{name}"] = machine_object(Machine(name, role, ip, ""))
        self.objects[f"{NODES}/{name}"] = {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
            "spec": {},
            "status": {"addresses": addresses},
        }

    def told(self, name: str) -> bool:
        node = self.objects.get(f"{NODES}/{name}", {"metadata": {}})
        return ANNOTATION in node["metadata"].get("annotations", {})

    async def get(self, path: str) -> Any:
        if self.now < self.silent_until:
            raise KubeError("GET", path, 0, "127.0.0.1:6443 cannot be reached")
        if path.startswith("/api/v1/pods?fieldSelector=spec.nodeName%3D"):
            return {"items": list(self.pods)}
        if path.startswith(f"{LEASES}/"):
            runs = not (self.kubelet_obeys and self.told(path.rpartition("/")[2]))
            return {"spec": {"renewTime": str(self.now // 10 if runs else "last")}}
        base, _, query = path.partition("?")
        if query or base == VOLUMES:
            return {"items": [each for at, each in self.objects.items() if at.startswith(f"{base}/")]}
        return self.objects.get(path)

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        name = path.removesuffix("/eviction").rpartition("/")[2].partition("?")[0]
        if method == "POST":
            assert obj["deleteOptions"]["preconditions"]["uid"] == f"uid-{name}"
            if not self.budget(name):
                raise KubeError(method, path, 429, "Cannot evict pod as it would violate the budget")
            self.events.append(f"evict {name}")
            self.stop(name)
        elif path.startswith(f"{VOLUMES}/"):
            self.change_volume(method, path, obj)
        elif "/pods/" in path:
            assert path.endswith("?gracePeriodSeconds=0")
            self.events.append(f"delete {name}")
            self.pods = [each for each in self.pods if each["metadata"]["name"] != name]
        elif self.objects.pop(path, None) is None:
            raise KubeError(method, path, 404, "not found")
        else:
            self.events.append(f"forget {path.rpartition('/')[2]}")
        return {}

    def change_volume(self, method: str, path: str, obj: Any) -> None:
        """One that is deleted goes when it has no finalizer any more."""
        volume = self.objects[path]
        if method == "DELETE":
            volume["metadata"]["deletionTimestamp"] = "now"
        else:
            volume["metadata"]["finalizers"] = obj["metadata"]["finalizers"]
        if not volume["metadata"]["finalizers"]:
            del self.objects[path]

    def stop(self, name: str) -> None:
        for each in self.pods:
            if each["metadata"]["name"] == name:
                each["metadata"]["deletionTimestamp"] = "now"

    async def apply(
        self, obj: Any, manager: str = "", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        assert manager == "basalt-removal", "the agent's own fields stay"
        node = self.objects[f"{NODES}/{obj['metadata']['name']}"]
        assert obj["metadata"]["uid"] == node["metadata"]["uid"]
        annotations = obj["metadata"].get("annotations", {})
        self.events.append("leave" if annotations else "cordon")
        node["metadata"]["annotations"], node["spec"] = annotations, obj["spec"]

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.stops_pods:
            self.pods = [each for each in self.pods if "deletionTimestamp" not in each["metadata"]]


def volume(claim: str, node: str, *finalizers: str) -> dict[str, Any]:
    """Return the path and the volume of a claim on a node."""
    reference = {"namespace": "shop", "name": claim, "uid": f"uid-{claim}"}
    made = volume_object(
        f"pvc-{claim}",
        {
            "metadata": reference,
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local-storage"},
        },
        Path(f"/mnt/pvc-{claim}"),
        node,
        1024**3,
        "Delete",
    )
    metadata = {**made["metadata"], "finalizers": [*made["metadata"]["finalizers"], *finalizers]}
    return {f"{VOLUMES}/pvc-{claim}": {**made, "metadata": metadata, "status": {"phase": "Bound"}}}


@dataclass
class World:
    """Three control planes that vote, a worker, and one removal after the other."""

    api: Api = field(default_factory=Api)

    def __post_init__(self) -> None:
        for number in (1, 2, 3):
            self.api.enter(f"cp-{number}", "control-plane", f"192.0.2.{number}")
        self.api.enter("w-1", "worker", "192.0.2.9")
        hosts = [f"192.0.2.{number}" for number in (1, 2, 3)]
        self.voters = Voters(self.api.events, {host: Member(host, host, True, True) for host in hosts})

    def remove(self, name: str, *, force: bool = False, timeout: float = 60, own: str = "cp-1") -> list[str]:
        """Return what was said."""
        removal = Removal(
            self.api, self.voters, own, name, force, timeout, clock=lambda: self.api.now, sleep=self.api.sleep
        )

        async def go() -> list[Progress]:
            return [progress async for progress in removal.run()]

        return [progress.text for progress in asyncio.run(go())]

    def refused(self, name: str, **how: Any) -> tuple[str, str, str]:
        """Return code, finding and remedy of the only failure."""
        with pytest.raises(DocumentError) as raised:
            self.remove(name, **how)
        [failure] = raised.value.failures
        assert failure.path == name
        return failure.code, failure.found, failure.remedy


@pytest.fixture
def world() -> World:
    return World()


def test_a_control_plane_leaves_in_order(world: World) -> None:
    world.api.pods = [pod("web")]
    said = world.remove("cp-3")
    assert world.api.events == [
        "cordon",
        "evict web",
        "leave",
        "datastore without 192.0.2.3",
        "forget basalt-machine-cp-3",
        "forget cp-3",
    ]
    assert said == [
        "the datastore can do without cp-3",
        "cp-3 gets no new pods",
        "1 pod is still there: shop/web",
        "no pod has to leave cp-3 any more",
        "cp-3 is told to leave",
        "waits until cp-3 has stopped its kubelet",
        "waits until cp-3 has stopped its kubelet",
        "the kubelet of cp-3 has stopped",
        "cp-3 is no member of the datastore",
        "cp-3 gets no certificates any more",
        "cp-3 is out of the cluster: its name and address are free",
    ]
    assert SILENCE <= world.api.now < SILENCE + 15


def test_the_datastore_is_not_asked_about_a_worker(world: World) -> None:
    world.voters.known.clear()
    world.remove("w-1")
    assert world.api.events == ["cordon", "leave", "forget basalt-machine-w-1", "forget w-1"]


def test_after_a_recovery_those_that_are_out_of_the_datastore_are_taken_out_of_the_cluster(
    world: World,
) -> None:
    for host in ("192.0.2.2", "192.0.2.3"):
        del world.voters.known[host]
    for name in ("cp-2", "cp-3"):
        assert "the datastore can do without " + name in world.remove(name, force=True)
    assert [each for each in world.api.events if each.startswith("forget")] == [
        f"forget {prefix}{name}" for name in ("cp-2", "cp-3") for prefix in ("basalt-machine-", "")
    ]


def test_pods_stay_that_are_the_nodes_own_or_have_ended(world: World) -> None:
    world.api.pods = [
        pod("agent", owner="DaemonSet"),
        pod("static", **{"kubernetes.io/config.mirror": "x"}),
        pod("job", phase="Succeeded"),
        pod("failed", phase="Failed"),
    ]
    assert "no pod has to leave w-1 any more" in world.remove("w-1")
    assert not [event for event in world.api.events if event.startswith("evict")]


def test_a_disruption_budget_is_waited_for_and_named(world: World) -> None:
    world.api.pods = [pod("db-0"), pod("db-1")]
    world.api.budget = lambda name: world.api.now > REPEAT + 5
    said = world.remove("w-1")
    blocked = "pod shop/db-0 waits for its disruption budget, and 1 more"
    assert said.count(blocked) == 2, "it is repeated now and then"
    assert world.api.events[:3] == ["cordon", "evict db-0", "evict db-1"]


@pytest.mark.parametrize(
    ("budget", "found"),
    [
        (False, "pod shop/web waits for its disruption budget"),
        (True, "1 pod is still there: shop/web"),
    ],
)
def test_when_the_time_is_over_the_node_stays_cordoned(world: World, budget: bool, found: str) -> None:
    world.api.pods, world.api.stops_pods = [pod("web")], False
    world.api.budget = lambda name: budget
    code, said, remedy = world.refused("w-1", timeout=30)
    assert (code, said) == ("pods-remain", found)
    assert "--force" in remedy and "kubectl uncordon w-1" in remedy
    assert world.api.now >= 30
    assert world.api.objects[f"{NODES}/w-1"]["spec"] == {"unschedulable": True}
    assert not world.api.told("w-1")


def test_an_api_that_is_away_for_a_moment_is_waited_for(world: World) -> None:
    world.api.pods = [pod("web")]
    world.voters.fails = 3

    def budget(name: str) -> bool:
        world.api.silent_until = 10
        return world.api.now >= 10

    world.api.budget = budget
    said = world.remove("cp-3")
    assert any(text.startswith("the API does not answer") for text in said)
    assert world.api.events[-1] == "forget cp-3"


def test_a_datastore_that_goes_on_refusing_is_a_failure_and_later_taken_up(world: World) -> None:
    world.voters.fails = 1000
    with pytest.raises(BasaltError, match="no leader"):
        world.remove("cp-3")
    assert world.api.told("cp-3") and f"{NODES}/cp-3" in world.api.objects
    world.voters.fails = 0
    world.remove("cp-3")
    assert f"{NODES}/cp-3" not in world.api.objects


def test_a_machine_that_goes_on_is_not_forgotten(world: World) -> None:
    world.api.kubelet_obeys = False
    code, found, remedy = world.refused("w-1")
    assert (code, found) == ("machine-runs", "the kubelet of w-1 still runs")
    assert "basalt status" in remedy and "--force" in remedy
    assert world.api.now >= STOP
    assert f"{NODES}/w-1" in world.api.objects


def test_a_lost_machine_is_not_waited_for(world: World) -> None:
    world.api.pods = [pod("web"), pod("db")]
    world.api.stop("db")
    world.api.kubelet_obeys = world.api.stops_pods = False
    world.voters.known["192.0.2.3"] = Member("192.0.2.3", "192.0.2.3", True, works=False)
    said = world.remove("cp-3", force=True)
    assert world.api.now == 0
    assert world.api.events == [
        "cordon",
        "delete db",
        "delete web",
        "leave",
        "datastore without 192.0.2.3",
        "forget basalt-machine-cp-3",
        "forget cp-3",
    ]
    assert "2 pods are deleted" in said


@pytest.mark.parametrize("force", [False, True])
def test_the_majority_of_the_datastore_is_never_given_up(world: World, force: bool) -> None:
    world.voters.known["192.0.2.2"] = Member("192.0.2.2", "192.0.2.2", True, works=False)
    code, found, remedy = world.refused("cp-3", force=force)
    assert code == "quorum-needed"
    assert found == (
        "the datastore cannot do without cp-3: of the 2 voters that remain only 1 works; 2 are needed"
    )
    assert remedy.startswith("Bring back")
    assert world.api.events == [], "nothing was changed"


def test_the_majority_is_looked_at_again_before_the_member_goes(world: World) -> None:
    def budget(name: str) -> bool:
        world.voters.known["192.0.2.2"] = Member("192.0.2.2", "192.0.2.2", True, works=False)
        return True

    world.api.pods, world.api.budget = [pod("web")], budget
    assert world.refused("cp-3")[0] == "quorum-needed"
    assert "192.0.2.3" in world.voters.known


def test_who_cannot_be_removed_from_here(world: World) -> None:
    code, found, remedy = world.refused("nobody")
    assert (code, found) == ("node-unknown", "the cluster has no node nobody")
    code, found, remedy = world.refused("cp-1")
    assert (code, found) == ("remove-refused", "cp-1 is the node that is asked")
    assert remedy == "Ask another control plane to remove it: cp-2, cp-3."
    for number in (2, 3):
        del world.api.objects[f"{KUBE_SYSTEM}/basalt-machine-cp-{number}"]
    code, found, remedy = world.refused("cp-1")
    assert (code, found) == ("remove-refused", "cp-1 is the last control plane")
    assert "basalt reset" in remedy
    assert world.api.events == []


@pytest.mark.parametrize("done", range(4))
def test_an_interrupted_removal_goes_on_where_it_stopped(world: World, done: int) -> None:
    """Each time one more of what it does at the end has happened already."""
    api = world.api
    if done > 0:
        node = api.objects[f"{NODES}/cp-3"]
        node["metadata"]["annotations"], node["spec"] = {ANNOTATION: "true"}, {"unschedulable": True}
    if done > 1:
        del world.voters.known["192.0.2.3"]
    if done > 2:
        del api.objects[f"{KUBE_SYSTEM}/basalt-machine-cp-3"]
    world.remove("cp-3")
    assert not [at for at in api.objects if at.endswith("cp-3")]
    assert sorted(world.voters.known) == ["192.0.2.1", "192.0.2.2"]
    assert api.told("cp-3") is False and ("cordon" not in api.events or done == 0)
    assert world.refused("cp-3")[0] == "node-unknown"


def test_a_machine_without_a_node_is_forgotten_all_the_same(world: World) -> None:
    del world.api.objects[f"{NODES}/cp-3"]
    said = world.remove("cp-3")
    assert "switch it off" in said[1]
    assert world.api.events == ["datastore without 192.0.2.3", "forget basalt-machine-cp-3"]


def test_data_on_its_disk_keeps_a_node(world: World) -> None:
    protection = "kubernetes.io/pv-protection"
    for each in (volume("cart", "w-1", protection), volume("old", "w-1"), volume("other", "cp-2")):
        world.api.objects.update(each)
    code, found, remedy = world.refused("w-1")
    assert code == "remove-refused" and "--force" in remedy
    assert found == (
        "its disk holds the data of PersistentVolumeClaim shop/cart, PersistentVolumeClaim shop/old"
    )
    assert world.api.events == [], "nothing has begun"
    said = world.remove("w-1", force=True)
    assert any("what was on its disk is given up: PersistentVolumeClaim shop/cart" in text for text in said)
    left = {path: each for path, each in world.api.objects.items() if path.startswith(VOLUMES)}
    assert set(left) == {f"{VOLUMES}/pvc-cart", f"{VOLUMES}/pvc-other"}
    assert left[f"{VOLUMES}/pvc-cart"]["metadata"]["finalizers"] == [protection], "it goes with its claim"
    assert "deletionTimestamp" not in left[f"{VOLUMES}/pvc-other"]["metadata"]
