# SPDX-License-Identifier: Apache-2.0
"""The settings of a cluster that is a dictionary: changes, two at a time, and nodes that follow them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import schema
from firstboot.cluster import changes, settings, versions
from firstboot.cluster.followed import Followed
from firstboot.cluster.settings import FIXED, of
from firstboot.cluster.steward import ANNOTATION, NodeVersion, Steward
from firstboot.cluster.versions import KEPT, PATH, Change, Outcome, Version, Versions
from firstboot.config import Config
from firstboot.failure import BasaltError, DocumentError, Refused
from firstboot.kube import KubeError, Trust
from firstboot.plan import OBJECTS
from firstboot.services.model import Node
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied
from firstboot.steps.settings import FollowSettings, TellVersion

from .test_cluster_joining import Objects

UPSTREAM, BACKEND, ADDRESS = (
    "features.dns.upstream-nameservers",
    "features.network.backend",
    "cluster.api-address",
)
CONFIG = Config.from_dict({"role": "control-plane"})
FIRST = Version(1, "2026-11-23T09:00:00Z", "document of cp-1", of(CONFIG))


class Api(Objects):
    """The cluster's objects; what happens between reading and writing the settings a test says."""

    def __init__(self, *kept: Version) -> None:
        super().__init__()
        self.between: list[Callable[[], None]] = []
        self.told: list[tuple[Any, str, Trust]] = []
        if kept:
            self.put(*kept)

    def put(self, *kept: Version) -> None:
        """Have the object hold these versions, whatever it held."""
        self.objects.pop(PATH, None)
        for number, each in enumerate(kept):
            if number == 0:
                assert asyncio.run(versions.create(self, each))
            else:
                data = json.loads(json.dumps(self.objects[PATH]["data"]))
                self.objects[PATH]["data"] = {**data, **versions._object(Versions((each,)))["data"]}

    async def send(self, method: str, path: str, obj: Any = None) -> Any:
        if path == PATH and self.between:
            self.between.pop(0)()
        if method == "PUT" and path not in self.objects:
            raise KubeError(method, path, 404, "not found")
        return await super().send(method, path, obj)

    async def apply(
        self, obj: Any, manager: str = "", trust: Trust = Trust.CLUSTER, seconds: float = 0
    ) -> None:
        self.told.append((obj, manager, trust))

    @property
    def newest(self) -> Version:
        found = asyncio.run(versions.read(self))
        assert found is not None
        return found.newest

    def change(self, wanted: dict[str, Any], author: str = "alice", expected: int | None = None) -> Outcome:
        return asyncio.run(versions.change(self, wanted, author, expected))

    def overtaken_by(self, wanted: dict[str, Any]) -> None:
        """Have somebody else make a version when the next one is about to be written."""

        def quicker() -> None:
            entry = changes.changed(self_newest().settings, wanted)
            made = replace(self_newest(), number=self_newest().number + 1, author="bob", settings=entry)
            data = versions._object(Versions((made,)))["data"]
            self.version += 1
            found = self.objects[PATH]
            found["data"].update(data)
            found["metadata"]["resourceVersion"] = str(self.version)

        def self_newest() -> Version:
            number, text = max((int(n), t) for n, t in self.objects[PATH]["data"].items())
            return versions._version(number, json.loads(text))

        self.between.append(quicker)


def refused(call: Callable[[], object]) -> list[tuple[str, str]]:
    with pytest.raises(DocumentError) as raised:
        call()
    assert all(failure.found and failure.remedy for failure in raised.value.failures)
    return [(failure.code, failure.path) for failure in raised.value.failures]


def test_what_is_common_is_what_the_schema_has_in_these_sections() -> None:
    """A new key of a section is common or own, and a common one is written out."""
    optional = {"api-address": "a", "virtual-address": "192.0.2.100", "virtual-router-id": 51}
    features = {"ingress": {"default-tls-secret": "wildcard"}, "load-balancer": {"bgp-local-asn": 64512}}
    document = {"role": "control-plane", "cluster": optional, "features": features}
    written = settings.flat(of(Config.from_dict(document)))
    assert tuple(written) == tuple(path for path in settings.paths() if path in written)
    assert set(written) == set(settings.paths())
    own = {path for path in settings.keys(schema.load("user-data")) if settings.is_own(path)}
    assert own == {
        "cluster.token",
        "cluster.bootstrap",
        "cluster.endpoints",
        *(f"datastore.backup.{key}" for key in ("recipient", "interval", "keep")),
        *(
            f"datastore.external.{key}"
            for key in ("endpoints", "ca", "client-certificate", "client-key", "prefix")
        ),
    }
    assert set(FIXED) < set(written)


@pytest.mark.parametrize(
    ("wanted", "failures"),
    [
        ({UPSTREAM: ["192.0.2.53"]}, []),
        ({BACKEND: "wireguard", "features.dns.enabled": False}, []),
        ({ADDRESS: "api.example.org"}, []),
        ({"cluster.pod-cidr": "10.1.0.0/16"}, []),
        ({"cluster.pod-cidr": "10.9.0.0/16"}, [("fixed-setting", "cluster.pod-cidr")]),
        ({"cluster.service-cidr": "nonsense"}, [("fixed-setting", "cluster.service-cidr")]),
        ({"cluster.domain": "example.org"}, [("fixed-setting", "cluster.domain")]),
        ({"datastore.type": "etcd"}, [("fixed-setting", "datastore.type")]),
        ({"features.dns.service-ip": "10.152.183.20"}, [("fixed-setting", "features.dns.service-ip")]),
        ({UPSTREAM: "192.0.2.53"}, [("wrong-type", UPSTREAM)]),
        ({UPSTREAM: ["dns.example.org"]}, [("bad-address", f"{UPSTREAM}[0]")]),
        ({UPSTREAM: ["10.152.183.10"]}, [("bad-address", f"{UPSTREAM}[0]")]),
        ({ADDRESS: "https://api.example.org"}, [("bad-address", ADDRESS)]),
        ({BACKEND: "vlan"}, [("not-a-choice", BACKEND)]),
        ({"features.dns.enabled": "yes"}, [("wrong-type", "features.dns.enabled")]),
        ({"features.dns.upstream": []}, [("unknown-key", "features.dns.upstream")]),
        ({"features.dns": {"enabled": False}}, [("unknown-key", "features.dns")]),
        ({"": 1}, [("unknown-key", "")]),
        ({"cluster.token": "x"}, [("machine-setting", "cluster.token")]),
        ({"datastore.backup": {}}, [("machine-setting", "datastore.backup")]),
        ({"node.labels.disk": "nvme"}, [("machine-setting", "node.labels.disk")]),
        ({"node": {}}, [("machine-setting", "node")]),
        (
            {"cluster.domain": "example.org", BACKEND: 1, "rolle": "worker"},
            [("fixed-setting", "cluster.domain"), ("unknown-key", "rolle"), ("quote-it", BACKEND)],
        ),
    ],
)
def test_a_change_is_judged_as_a_document_is(wanted: dict[str, Any], failures: list[tuple[str, str]]) -> None:
    api = Api(FIRST)
    if failures:
        assert refused(lambda: api.change(wanted)) == failures
        assert api.newest == FIRST, "a bad value changes nothing"
        return
    after = changes.effective(api.change(wanted).version.settings)
    assert after == {**changes.effective(FIRST.settings), **wanted}


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("features.dns.upstream-nameserver", f"Is it `{UPSTREAM}`?"),
        ("features.network", "Name one of features.network.enabled, features.network.backend."),
        ("zzz", "`basalt get` lists all."),
    ],
)
def test_who_mistypes_a_key_is_told_the_right_one(path: str, remedy: str) -> None:
    assert remedy in changes.unknown(path).remedy


def test_a_default_comes_back_and_a_value_without_one_goes() -> None:
    api = Api(FIRST)
    api.change({UPSTREAM: ["192.0.2.53"], ADDRESS: "api.example.org"})
    made = api.change({UPSTREAM: None, ADDRESS: None, BACKEND: "host-gw"})
    assert {each.path: (each.before, each.after) for each in made.version.changes} == {
        UPSTREAM: (["192.0.2.53"], []),
        ADDRESS: ("api.example.org", None),
        BACKEND: ("vxlan", "host-gw"),
    }
    assert "api-address" not in made.version.settings["cluster"]
    assert made.version.settings["features"]["dns"]["upstream-nameservers"] == [], "written out"


def test_the_default_of_what_a_cluster_keeps_is_another_value_where_it_has_its_own() -> None:
    document = {"role": "control-plane", "datastore": {"type": "etcd"}}
    api = Api(replace(FIRST, settings=of(Config.from_dict(document))))
    assert refused(lambda: api.change({"datastore.type": None})) == [("fixed-setting", "datastore.type")]
    assert not api.change({"cluster.domain": None}).made


def test_what_a_later_version_has_set_stays() -> None:
    later = json.loads(json.dumps(of(CONFIG)))
    later["features"]["mesh"] = {"enabled": True}
    later["features"]["dns"]["cache"] = 30
    api = Api(replace(FIRST, settings=later))
    made = api.change({BACKEND: "host-gw"}).version.settings
    assert made["features"]["mesh"] == {"enabled": True} and made["features"]["dns"]["cache"] == 30
    assert changes.problems(made) == ()


def test_versions_are_kept_with_who_changed_what() -> None:
    api = Api(FIRST)
    outcome = api.change({BACKEND: "host-gw"}, "alice")
    assert outcome.made and outcome.to_dict() == {
        "version": 2,
        "changes": [{"path": BACKEND, "before": "vxlan", "after": "host-gw"}],
    }
    again = api.change({BACKEND: "host-gw"}, "bob")
    assert not again.made and again.to_dict() == {"version": 2, "changes": []}
    for number in range(KEPT):
        api.change({UPSTREAM: [f"192.0.2.{number}"]}, "carol")
    found = asyncio.run(versions.read(api))
    assert found is not None
    assert [each.number for each in found.kept] == list(range(3, 3 + KEPT))
    assert {each.author for each in found.kept} == {"carol"}


def test_two_changes_of_different_keys_both_count() -> None:
    api = Api(FIRST)
    api.overtaken_by({UPSTREAM: ["192.0.2.53"]})
    outcome = api.change({BACKEND: "host-gw"})
    after = changes.effective(outcome.version.settings)
    assert (outcome.version.number, after[UPSTREAM], after[BACKEND]) == (3, ["192.0.2.53"], "host-gw")
    assert outcome.version.changes == (Change(BACKEND, "vxlan", "host-gw"),)


def test_of_two_changes_of_one_key_the_second_is_refused() -> None:
    api = Api(FIRST)
    api.overtaken_by({BACKEND: "wireguard"})
    with pytest.raises(Refused, match="bob has set it in version 2 meanwhile"):
        api.change({BACKEND: "host-gw"})
    assert changes.effective(api.newest.settings)[BACKEND] == "wireguard"


def test_a_change_for_another_version_than_the_newest_is_refused() -> None:
    api = Api(FIRST)
    assert api.change({BACKEND: "host-gw"}, expected=1).made
    assert refused(lambda: api.change({BACKEND: "vxlan"}, expected=1)) == [("settings-changed", "")]
    api.overtaken_by({UPSTREAM: []})
    assert refused(lambda: api.change({BACKEND: "vxlan"}, expected=2)) == [("settings-changed", "")]


def test_a_change_where_the_object_is_gone_says_so() -> None:
    api = Api(FIRST)
    api.between.append(lambda: api.objects.clear())
    with pytest.raises(BasaltError, match="not there"):
        api.change({BACKEND: "host-gw"})


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"0": versions._entry(FIRST)},
        {"one": "{}"},
        {"1": "{"},
        {"1": "[]"},
        {"1": '{"settings": {"cluster": 1}}'},
    ],
)
def test_a_damaged_object_is_told(data: dict[str, str]) -> None:
    api = Api(FIRST)
    api.objects[PATH]["data"] = data
    with pytest.raises(BasaltError, match="basalt-settings in kube-system is damaged") as raised:
        asyncio.run(versions.read(api))
    assert "kubectl -n kube-system delete configmap basalt-settings" in raised.value.hint


def steward(api: Api, events: list[str]) -> Steward:
    return Steward(api, may=lambda: events.append("may"), changed=lambda: events.append("changed"))


def test_an_older_version_comes_back_as_a_new_one() -> None:
    api, events = Api(FIRST), list[str]()
    api.change({BACKEND: "host-gw", ADDRESS: "api.example.org"})
    api.change({UPSTREAM: ["192.0.2.53"]})
    outcome = asyncio.run(steward(api, events).revert(1, "alice"))
    assert (outcome.version.number, outcome.version.author) == (4, "alice")
    assert outcome.version.settings == FIRST.settings
    assert events == ["may", "changed"]
    assert refused(lambda: asyncio.run(steward(api, events).revert(9, "alice"))) == [("version-unknown", "")]
    api.overtaken_by({BACKEND: "wireguard"})
    late = steward(api, [])
    assert refused(lambda: asyncio.run(late.revert(3, "alice"))) == [("settings-changed", BACKEND)]


def test_a_virtual_address_is_none_that_a_node_has() -> None:
    api, events, path = Api(FIRST), list[str](), "cluster.virtual-address"
    has = [{"type": "InternalIP", "address": "192.0.2.9"}]
    api.objects["/api/v1/nodes/w-1"] = {"metadata": {"name": "w-1"}, "status": {"addresses": has}}
    made = steward(api, events)
    assert refused(lambda: asyncio.run(made.change({path: "192.0.2.9"}, "alice"))) == [
        ("address-taken", path)
    ]
    assert (api.newest, events) == (FIRST, ["may"])
    assert asyncio.run(made.change({path: "192.0.2.100"}, "alice")).made
    assert asyncio.run(made.change({path: None}, "alice")).version.settings == FIRST.settings


def test_who_follows_which_version_is_on_the_nodes() -> None:
    api = Api(FIRST)
    for name, told in (("cp-1", {ANNOTATION: "3"}), ("w-1", {}), ("w-2", {ANNOTATION: "x"})):
        api.objects[f"/api/v1/nodes/{name}"] = {"metadata": {"name": name, "annotations": told}}
    nodes = asyncio.run(steward(api, []).nodes())
    assert nodes == [NodeVersion("cp-1", 3), NodeVersion("w-1", None), NodeVersion("w-2", None)]


def test_agents_of_workers_may_read_this_object_and_no_other() -> None:
    role, binding = versions.ACCESS
    assert role["metadata"] == binding["metadata"] == {"name": "basalt:settings", "namespace": "kube-system"}
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["get"],
            "resourceNames": ["basalt-settings"],
        }
    ]
    assert (role["kind"], binding["kind"], binding["roleRef"]["kind"]) == ("Role", "RoleBinding", "Role")
    assert [each["name"] for each in binding["subjects"]] == ["basalt:nodes"]
    assert role in OBJECTS and binding in OBJECTS


class Follower:
    """A node's step over an API; each pass is a new one, as after a restart of the agent."""

    def __init__(self, api: Api, path: Path, role: str = "control-plane", partners: int = 0) -> None:
        self.api, self.record = api, path / "settings.json"
        cluster = {} if role == "control-plane" else {"token": "0" * 32, "endpoints": ["192.0.2.1"]}
        self.document: dict[str, Any] = {"role": role, "cluster": cluster}
        self.control_planes = ("192.0.2.1", "192.0.2.2", "192.0.2.3")[: partners + 1 if partners else 0]

    @property
    def followed(self) -> Followed | None:
        return Followed.load(self.record)

    def go(self) -> str | None:
        """Make a pass; return what it has done."""
        known = self.followed
        document = settings.merged(self.document, known.settings) if known else self.document
        stated = settings.stated(self.document)
        node = Node(
            Config.from_dict(document),
            "cp-1",
            "192.0.2.1",
            control_planes=self.control_planes,
            stated=stated,
            followed=known,
        )
        step, machine = FollowSettings(node, self.record), Machine(cast(Any, None), self.api, {})

        async def once() -> str | None:
            finding = await step.check(machine)
            if finding is not None:
                await step.apply(machine)
            return finding.action if finding else None

        return asyncio.run(once())


def test_the_first_control_plane_makes_the_first_version_of_its_document_and_follows_it(
    tmp_path: Path,
) -> None:
    api = Api()
    founder = Follower(api, tmp_path)
    founder.document["features"] = {"network": {"backend": "host-gw"}}
    assert [founder.go() for _ in range(3)] == ["create", "write", None]
    assert (api.newest.number, api.newest.author) == (1, "document of cp-1")
    assert founder.followed == Followed(
        1, api.newest.time, of(Config.from_dict(founder.document)), {BACKEND: "host-gw"}
    )


def test_a_worker_makes_no_version_and_follows_each(tmp_path: Path) -> None:
    api = Api()
    worker = Follower(api, tmp_path, role="worker")
    assert worker.go() is None
    api.put(FIRST)
    assert [worker.go(), worker.go()] == ["write", None]
    api.change({UPSTREAM: ["192.0.2.53"]})
    assert [worker.go(), worker.go()] == ["write", None]
    followed = worker.followed
    assert followed is not None and followed.version == 2
    assert followed.settings["features"]["dns"]["upstream-nameservers"] == ["192.0.2.53"]


def test_the_document_of_the_only_control_plane_changes_the_cluster_when_it_changes(tmp_path: Path) -> None:
    api = Api(FIRST)
    founder = Follower(api, tmp_path)
    assert founder.go() == "write"
    founder.document["features"] = {"dns": {"upstream-nameservers": ["192.0.2.53"]}}
    assert [founder.go(), founder.go()] == ["change", None]
    assert (api.newest.number, api.newest.author) == (2, "document of cp-1")
    api.change({UPSTREAM: ["192.0.2.99"], BACKEND: "host-gw"})
    assert [founder.go(), founder.go()] == ["write", None], "a document that stays as it is undoes nothing"
    founder.document["features"] = {"network": {"backend": "wireguard"}}
    assert [founder.go(), founder.go()] == ["change", None]
    after = changes.effective(api.newest.settings)
    assert (after[UPSTREAM], after[BACKEND]) == ([], "wireguard"), "a key that is left out has its default"
    founder.document["features"] = {"network": {"backend": "wireguard", "enabled": True}}
    assert [founder.go(), founder.go()] == ["write", None], "it says what is so already"


def test_documents_of_several_control_planes_change_nothing(tmp_path: Path) -> None:
    api = Api(FIRST)
    founder = Follower(api, tmp_path, partners=1)
    founder.go()
    founder.document["features"] = {"network": {"backend": "wireguard"}}
    founder.go()
    assert api.newest == FIRST


def test_settings_of_a_restored_backup_are_followed_though_they_are_older(tmp_path: Path) -> None:
    api = Api(FIRST)
    founder = Follower(api, tmp_path)
    founder.document["features"] = {"network": {"backend": "vxlan"}}
    founder.go()
    api.change({BACKEND: "host-gw"})
    founder.go()
    other = replace(FIRST, number=2, settings=changes.changed(FIRST.settings, {UPSTREAM: ["192.0.2.7"]}))
    for restored in (FIRST, other):
        api.put(restored)
        assert [founder.go(), founder.go()] == ["write", None]
        assert founder.followed is not None
        assert (founder.followed.version, founder.followed.settings) == (restored.number, restored.settings)


def test_an_object_that_was_removed_is_made_again_of_what_is_followed(tmp_path: Path) -> None:
    api = Api(FIRST)
    founder = Follower(api, tmp_path)
    api.change({BACKEND: "host-gw"})
    founder.go()
    api.objects.clear()
    assert [founder.go(), founder.go(), founder.go()] == ["create", "write", None]
    assert api.newest.number == 3 and changes.effective(api.newest.settings)[BACKEND] == "host-gw"


@pytest.mark.parametrize(
    ("section", "values", "found"),
    [
        ("features", {"dns": {"enabled": "yes"}}, "features.dns.enabled"),
        ("features", {"network": {"backend": "vlan"}}, "features.network.backend"),
        ("features", {"network": "none"}, "features.network"),
        ("cluster", {"pod-cidr": "10.9.0.0/16"}, "cluster.pod-cidr"),
    ],
)
def test_settings_that_no_change_would_make_are_not_followed(
    tmp_path: Path, section: str, values: dict[str, Any], found: str
) -> None:
    api = Api(FIRST)
    founder = Follower(api, tmp_path)
    founder.go()
    api.put(FIRST, Version(2, FIRST.time, "kubectl", {**FIRST.settings, section: values}))
    with pytest.raises(BasaltError, match=f"version 2 cannot be followed: .*{found}") as raised:
        founder.go()
    assert "--revert" in raised.value.hint
    assert refused(lambda: api.change({UPSTREAM: "192.0.2.53"})), "what is wrong makes no other mistake right"
    assert founder.followed is not None and founder.followed.version == 1
    asyncio.run(steward(api, []).revert(1, "root"))
    assert founder.go() == "write", "and this is the way out"


def test_settings_that_name_another_datastore_than_they_are_in_are_put_right(tmp_path: Path) -> None:
    """As they are after a move, in a backup that was taken just then, or when somebody has edited them."""
    api = Api(FIRST)
    founder = Follower(api, tmp_path)
    founder.go()
    api.put(FIRST, Version(2, FIRST.time, "kubectl", {**FIRST.settings, "datastore": {"type": "etcd"}}))
    assert [founder.go(), founder.go()] == ["change", None]
    assert (api.newest.number, api.newest.author) == (3, "cp-1")
    assert api.newest.settings == FIRST.settings and founder.followed is not None
    asyncio.run(steward(api, []).revert(2, "root"))
    assert api.newest.settings == FIRST.settings, "what the datastore is no version takes back"


def test_a_worker_follows_settings_with_another_datastore(tmp_path: Path) -> None:
    api = Api(FIRST)
    worker = Follower(api, tmp_path, "worker")
    worker.go()
    api.put(FIRST, Version(2, FIRST.time, "cp-1", {**FIRST.settings, "datastore": {"type": "etcd"}}))
    assert [worker.go(), worker.go()] == ["write", None]
    assert worker.followed is not None and worker.followed.settings["datastore"] == {"type": "etcd"}


def test_a_node_tells_by_its_kubelets_certificate_what_it_follows() -> None:
    api, applied = Api(), Applied()
    step, machine = TellVersion("w-1", 7, applied), Machine(cast(Any, None), api, {})
    asyncio.run(step.apply(machine))
    assert api.told == [], "a Node that is gone is not made again"
    api.objects["/api/v1/nodes/w-1"] = {"metadata": {"uid": "u-1"}}
    assert asyncio.run(step.check(machine)) is not None
    asyncio.run(step.apply(machine))
    assert asyncio.run(step.check(machine)) is None
    [(node, manager, trust)] = api.told
    assert node["metadata"] == {
        "name": "w-1",
        "uid": "u-1",
        "annotations": {"basalt.io/settings-version": "7"},
    }
    assert (manager, trust) == ("basalt-settings", Trust.KUBELET)
    assert asyncio.run(TellVersion("w-1", 8, applied).check(machine)) is not None


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"version": 1}')
    with pytest.raises(BasaltError, match="damaged") as raised:
        Followed.load(tmp_path / "settings.json")
    assert "Remove the file" in raised.value.hint
