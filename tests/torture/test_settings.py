# SPDX-License-Identifier: Apache-2.0
"""The cluster's settings with a real API server: who may read and write what, and many who change them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from firstboot import files, kube, pki
from firstboot.cluster import changes, versions
from firstboot.cluster.records import NAMESPACE
from firstboot.cluster.settings import of
from firstboot.cluster.steward import ANNOTATION, NodeVersion, Steward
from firstboot.config import Config
from firstboot.failure import Refused
from firstboot.kube import Client, KubeError, Trust
from firstboot.pki import requests, trusted
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import OBJECTS
from firstboot.steps.model import Machine
from firstboot.steps.objects import Applied
from firstboot.steps.settings import TellVersion
from firstboot.systemd import Systemd
from image import components

from .apiserver import apiserver_argv, running
from .certificates import token_key
from .programs import Programs, component
from .stores import Dqlite, free_port, wait_until

CONFIG = Config.from_dict({"role": "control-plane"})
WORKER = Config.from_dict({"role": "worker", "cluster": {"token": "0" * 32, "endpoints": ["192.0.2.1"]}})
READY_SECONDS = 180.0
WRITERS = 6

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """The certificates of a control plane and a worker, in folders; the API server is kube.SERVER."""

    control_plane: Path
    worker: Path

    def go(self, work: Callable[[Client], Coroutine[Any, Any, T]], folder: Path | None = None) -> T:
        """Return what comes of some work with a node's client, the control plane's by default."""

        async def inside() -> T:
            async with Client((folder or self.control_plane) / "pki") as client:
                return await work(client)

        return asyncio.run(inside())


@pytest.fixture
def cluster(programs: Programs, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Start an API server that has what control planes apply, and nothing else."""
    kubernetes = components.build(component("kubernetes")).folder / "tree/usr/bin"
    own = catalogue(CONFIG, "cp-1", ["127.0.0.1"], folder / "cp-1").unowned()
    pki.apply(own, Ledger())
    join(own, folder / "w-1")
    token_key(folder / "sa.key")
    port, place = free_port("127.0.0.1"), folder / "cp-1/pki"
    monkeypatch.setattr(kube, "SERVER", f"https://127.0.0.1:{port}")
    made = Cluster(folder / "cp-1", folder / "w-1")
    with Dqlite(programs, folder) as store:
        argv = [
            *apiserver_argv(kubernetes, folder, store.endpoint, port),
            f"--client-ca-file={place / 'ca.crt'}",
            f"--tls-cert-file={place / 'apiserver.crt'}",
            f"--tls-private-key-file={place / 'apiserver.key'}",
        ]
        with running(argv, folder / "apiserver.log") as apiserver:
            wait_until(
                "the API server is ready", lambda: apiserver.poll() is not None or ready(made), READY_SECONDS
            )
            assert apiserver.poll() is None, (folder / "apiserver.log").read_text()[-2000:]
            made.go(prepared)
            yield made


def join(own: Catalogue, folder: Path) -> None:
    """Give a worker its certificates, as the control plane signs them."""
    root = own.authority("ca").certificate.parent.parent
    described = catalogue(WORKER, "w-1", ["127.0.0.2"], folder).unowned()
    wanted = described.certificates
    (folder / "pki").mkdir(parents=True)
    signed = requests.sign(
        catalogue(WORKER, "w-1", ["127.0.0.2"], root).unowned().certificates, requests.prepare(wanted)
    )
    authority = files.File(folder / "pki/ca.crt", own.authority("ca").certificate.read_bytes())
    files.write_all([authority, *requests.accept(wanted, signed)])
    files.write_all(trusted.make(each) for each in described.trusted)


def ready(cluster: Cluster) -> bool:
    """Ask the API server as the agent does."""

    async def ask(client: Client) -> bool:
        status, _ = await client.get_text(f"{kube.SERVER}/readyz", Trust.CLUSTER, 5)
        return status == 200

    return cluster.go(ask)


async def prepared(client: Client) -> None:
    """Apply what control planes do, enter two nodes, and make the first version."""
    for obj in OBJECTS:
        await client.apply(obj)
    for name in ("cp-1", "w-1"):
        await client.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    assert await versions.create(client, versions.Version(1, "2026-11-23T09:00:00Z", "test", of(CONFIG)))


def test_many_change_different_settings_at_once_and_all_count(cluster: Cluster) -> None:
    wanted: list[dict[str, Any]] = [
        {"features.dns.upstream-nameservers": ["192.0.2.53"]},
        {"features.network.backend": "host-gw"},
        {"cluster.api-address": "api.example.org"},
    ]

    async def all_at_once(client: Client) -> list[versions.Outcome]:
        return list(await asyncio.gather(*(versions.change(client, each, "alice") for each in wanted)))

    made = cluster.go(all_at_once)
    assert sorted(each.version.number for each in made) == [2, 3, 4]
    found = cluster.go(versions.read)
    assert found is not None and [each.number for each in found.kept] == [1, 2, 3, 4]
    after = changes.effective(found.newest.settings)
    assert {path: after[path] for each in wanted for path in each} == {
        path: value for each in wanted for path, value in each.items()
    }


def test_many_change_one_setting_at_once_and_one_counts(cluster: Cluster) -> None:
    async def one(client: Client, number: int) -> int | None:
        wanted = {"features.dns.upstream-nameservers": [f"192.0.2.{number}"]}
        try:
            return (await versions.change(client, wanted, f"a-{number}", expected=1)).version.number
        except Refused:
            return None

    async def all_at_once(client: Client) -> list[int | None]:
        return list(await asyncio.gather(*(one(client, number) for number in range(1, WRITERS + 1))))

    assert sorted(filter(None, cluster.go(all_at_once))) == [2]
    found = cluster.go(versions.read)
    assert found is not None and found.newest.number == 2 and len(found.newest.changes) == 1


def test_a_worker_reads_the_settings_and_nothing_near_them(cluster: Cluster) -> None:
    found = cluster.go(versions.read, cluster.worker)
    assert found is not None and found.newest.settings == of(CONFIG)

    async def change(client: Client) -> object:
        return await versions.change(client, {"features.dns.enabled": False}, "w-1")

    async def elsewhere(client: Client) -> object:
        return await client.get(f"{NAMESPACE}/configmaps/kube-root-ca.crt")

    async def all_of_them(client: Client) -> object:
        return await client.get(f"{NAMESPACE}/configmaps")

    for work in (change, elsewhere, all_of_them):
        with pytest.raises(KubeError) as raised:
            cluster.go(work, cluster.worker)
        assert raised.value.status == 403


def test_a_worker_tells_what_it_follows_on_its_own_node_and_on_no_other(cluster: Cluster) -> None:
    async def tell(client: Client, name: str, version: int) -> None:
        await TellVersion(name, version, Applied()).apply(Machine(cast(Systemd, None), client, {}))

    async def steward(client: Client) -> list[NodeVersion]:
        return await Steward(client, lambda: None, lambda: None).nodes()

    for version in (1, 2):
        cluster.go(partial(tell, name="w-1", version=version), cluster.worker)
    with pytest.raises(KubeError) as raised:
        cluster.go(partial(tell, name="cp-1", version=2), cluster.worker)
    assert raised.value.status == 403
    assert cluster.go(steward) == [NodeVersion("cp-1", None), NodeVersion("w-1", 2)]


def test_a_node_that_is_gone_is_not_made_again(cluster: Cluster) -> None:
    async def late(client: Client) -> None:
        metadata = {
            "name": "w-1",
            "uid": "11111111-2222-3333-4444-555555555555",
            "annotations": {ANNOTATION: "1"},
        }
        told = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        await client.apply(told, manager="basalt-settings", trust=Trust.KUBELET)

    cluster.go(lambda client: client.send("DELETE", "/api/v1/nodes/w-1"))
    with pytest.raises(KubeError) as raised:
        cluster.go(late, cluster.worker)
    assert raised.value.status == 409
    assert cluster.go(lambda client: client.get("/api/v1/nodes/w-1")) is None
