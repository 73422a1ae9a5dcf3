# SPDX-License-Identifier: Apache-2.0
"""The settings of a cluster whose datastore somebody else runs: they hold neither the way into it nor its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from firstboot.cluster import changes, settings
from firstboot.cluster.followed import Followed
from firstboot.cluster.membership import Membership
from firstboot.cluster.versions import PATH, Version
from firstboot.codes import Code
from firstboot.failure import BasaltError
from firstboot.intake import Intake
from firstboot.pki.ca import Authority

from .support_external import authority, pair, section
from .test_cluster_settings import BACKEND, FIRST, Api, Follower, refused
from .test_external_cluster import DATASTORE, SECTION, WAY_IN, founder
from .test_intake import World, world

__all__ = ["world"]

COMMON = settings.of(founder().config)
EXTERNAL = Version(1, FIRST.time, FIRST.author, COMMON)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("etcd"))


def test_they_are_made_changed_and_followed_without_it(tmp_path: Path) -> None:
    api = Api()
    node = Follower(api, tmp_path)
    node.document = {"role": "control-plane", "datastore": DATASTORE}
    assert [node.go(), node.go()] == ["create", "write"]
    api.change({BACKEND: "wireguard"})
    assert node.go() == "write"
    # Other credentials are no news to the cluster's settings.
    node.document = {**node.document, "datastore": {**DATASTORE, "external": {**SECTION, "client-key": "b"}}}
    assert node.go() is None and api.newest.number == 2
    assert node.followed is not None and node.followed.settings["datastore"] == {"type": "external"}
    for written in (json.dumps(api.objects[PATH]), node.record.read_text()):
        assert "s3cret" not in written and "client-key" not in written and "192.0.2.5" not in written


@pytest.mark.parametrize("key", ["datastore.external", *(f"datastore.external.{each}" for each in SECTION)])
def test_who_would_set_it_is_told_where_it_belongs(key: str) -> None:
    api = Api(EXTERNAL)
    assert refused(lambda: api.change({key: "s3cret"})) == [("machine-setting", key)]
    failure = changes.unknown(key)
    assert "the control plane that started the cluster" in failure.remedy and "s3cret" not in failure.found


@pytest.mark.parametrize("wanted", ["dqlite", "etcd", None])
def test_the_kind_of_datastore_stays(wanted: str | None) -> None:
    api = Api(EXTERNAL)
    assert refused(lambda: api.change({"datastore.type": wanted})) == [("fixed-setting", "datastore.type")]


def test_settings_that_somebody_has_put_it_into_are_not_followed(tmp_path: Path) -> None:
    api = Api(EXTERNAL)
    node = Follower(api, tmp_path)
    node.document = {"role": "control-plane", "datastore": DATASTORE}
    node.go()
    api.put(EXTERNAL, Version(2, FIRST.time, "kubectl", {**COMMON, "datastore": DATASTORE}))
    with pytest.raises(BasaltError, match="version 2 cannot be followed: datastore.external: ") as raised:
        node.go()
    assert "s3cret" not in f"{raised.value}{raised.value.hint}"
    assert refused(lambda: api.change({BACKEND: "wireguard"})) == [("machine-setting", "datastore.external")]


def document(external: dict[str, Any] | None, **sections: Any) -> str:
    datastore = {"type": "external", **({"external": external} if external else {})}
    return yaml.safe_dump({"basalt": {"role": "control-plane", "datastore": datastore, **sections}})


def follow(intake: Intake, stated: dict[str, Any]) -> None:
    Followed(1, FIRST.time, {**COMMON, "cluster": {**COMMON["cluster"], "name": "renamed"}}, stated).save(
        intake.followed
    )


@pytest.mark.parametrize("partners", [(), ("192.0.2.2",)], ids=["alone", "one of two"])
def test_the_founders_document_counts_at_once_beside_the_clusters_settings(
    world: World, etcd: Authority, partners: tuple[str, ...]
) -> None:
    old, new = section(etcd), section(etcd, pair(etcd, "renewed"))
    world.document(document(old))
    intake = world.intake()
    assert intake.look().node is not None
    if partners:
        Membership(COMMON, ("192.0.2.10", *partners)).save(intake.membership)
    follow(intake, {"datastore.type": "external"})
    for external in (old, new):
        world.document(document(external))
        taken = intake.look()
        assert taken.failures == () and taken.node is not None
        assert taken.node.config.datastore.external.to_dict() == {**external, "prefix": "/registry"}
        assert taken.node.config.cluster.name == "renamed"
        assert taken.node.stated == {"datastore.type": "external"}


def test_who_has_joined_follows_what_it_is_told_beside_the_clusters_settings(
    world: World, etcd: Authority
) -> None:
    world.document(document(None, cluster=WAY_IN))
    intake = world.intake()
    assert intake.look().joiner is not None
    follow(intake, {"datastore.type": "external"})
    for external in (SECTION, {**SECTION, "client-key": "renewed"}):
        Membership(COMMON, ("192.0.2.1", "192.0.2.10"), (), external).save(intake.membership)
        taken = intake.look()
        assert taken.node is not None and taken.node.config.datastore.external.to_dict() == external
        assert taken.node.config.cluster.name == "renamed"


def test_who_has_joined_keeps_no_backups_of_it(world: World) -> None:
    recipient = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAqeUbOPgbv0jGh1cl2uR9qatJ2q/VTw6NuLxHH2banD0=\n"
    backup = {"recipient": f"{recipient}-----END PUBLIC KEY-----\n"}
    text = {"basalt": {"role": "control-plane", "cluster": WAY_IN, "datastore": {"backup": backup}}}
    world.document(yaml.safe_dump(text))
    intake = world.intake()
    assert intake.look().joiner is not None
    Membership(COMMON, ("192.0.2.1", "192.0.2.10"), (), SECTION).save(intake.membership)
    [failure] = intake.look().failures
    assert (failure.code, failure.path) == (Code.NOT_POSSIBLE, "basalt.datastore.backup")
