# SPDX-License-Identifier: Apache-2.0
"""A backup of the real programs under load, restored into a new folder: all that was acknowledged before is there.

The whole way: the datastore's own snapshot while eight write, sealed, opened, built, started. Revisions go on upward.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot import pki
from firstboot.backup.custodian import Custodian
from firstboot.backup.locks import Passphrase
from firstboot.backup.making import Source
from firstboot.backup.places import Places, exchange
from firstboot.config import Config
from firstboot.datastores import etcd
from firstboot.datastores.dqlite import Dqlite as DqliteMember
from firstboot.datastores.etcd import Etcd as EtcdMember
from firstboot.datastores.store import DatastoreStatus, Store
from firstboot.kube import Client
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node

from .programs import Programs, Torture, finish
from .stores import Dqlite
from .stores import Store as Server
from .test_single import wait_progress

LEAP = etcd.REVISION_LEAP
PASSPHRASE = Passphrase("correct horse battery")


@pytest.fixture
def in_path(programs: Programs, folder: Path, store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the programs into PATH by the names the agent calls them, speaking to the server under test."""
    put_in_path(programs, folder / "bin", store, monkeypatch)


def put_in_path(programs: Programs, place: Path, store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder of scripts by those names, and have it looked at first."""
    place.mkdir()
    built = Path(programs.etcd[0]).parent
    control = f"--control=unix://{store.folder}/control.sock"
    # The server under test has neither the image's address nor its certificates.
    scripts = {
        "k8s-dqlite": f'case $1 in restore | salvage) set -- "$@" ;; *) q=$1; shift; set -- $q {control} "$@" ;; esac\n'
        f'exec {" ".join(programs.k8s_dqlite)} "$@"',
        "etcdctl": f'for last; do :; done\nexec {built}/etcdctl --endpoints={store.endpoint} snapshot save "$last"',
        "etcdutl": f'exec {built}/etcdutl "$@"',
    }
    for name, text in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")


class PlainEtcd(EtcdMember):
    """The gateway wants certificates that the server under test has not."""

    async def status(self) -> DatastoreStatus:
        return DatastoreStatus(Config.from_dict({"role": "control-plane"}).datastore.type, True, (), 0, 0)


def member(server: Server) -> Store:
    """Return the agent's view of the server under test."""
    found: Store = DqliteMember() if isinstance(server, Dqlite) else PlainEtcd(Client())
    found.folder = server.folder / "data"
    return found


def custodian(server: Server) -> Custodian:
    """Return who looks after the server's data as the agent does."""
    kind = "dqlite" if isinstance(server, Dqlite) else "etcd"
    config = Config.from_dict({"role": "control-plane", "datastore": {"type": kind}})
    node = Node(config, "node-1", "192.0.2.7")
    described = catalogue(config, node.name, [node.ip], server.folder / "kubernetes").unowned()
    pki.apply(described, Ledger())
    state = server.folder / "basalt"
    state.mkdir(exist_ok=True)
    source = Source(node, described, member(server), "1.2.3", "v1.37.2")
    return Custodian(
        lambda: source, lambda: None, nullcontext, Places(state, (source.store.folder,), owner=None)
    )


async def backup(keeper: Custodian, path: Path) -> int:
    """Write a backup and return its revision."""
    async with keeper.backup(PASSPHRASE) as made:
        with path.open("wb") as file:
            async for piece in made.pieces():
                file.write(piece)
        return made.header.revision


async def pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(100_000):
            yield piece


def test_backup_under_load_and_restore(
    store: Server, torture: Torture, programs: Programs, folder: Path, in_path: None
) -> None:
    keeper, file = custodian(store), folder / "cluster.backup"
    before = replace(torture, prefix="/registry/before/", journal=folder / "before")
    finish(before.write(1.0))
    with torture.writing() as writers:
        wait_progress(torture, writers, store)
        revision = asyncio.run(backup(keeper, file))
        assert writers.poll() is None, "the backup was taken while they wrote"

    asyncio.run(keeper.restore(PASSPHRASE, pieces(file)))
    store.stop()
    exchange(folder / "data")
    store.start()
    # What was there before the leap counts as compacted: of history there is only what it ended with.
    result = before.verify()
    assert result["broken"] == {}, result["instances"]
    assert result["survivors"] > 0
    after = replace(torture, prefix="/registry/after/", journal=folder / "after")
    finish(after.write(1.0))
    told = after.verify()
    assert told["broken"] == {} and told["made"] > 0, told["instances"]
    assert min(revisions(after.journal)) > revision + LEAP, "behind all that anybody has seen"


def revisions(journal: Path) -> list[int]:
    lines = (json.loads(line) for line in journal.read_text().splitlines())
    return [line["revision"] for line in lines if line["revision"]]
