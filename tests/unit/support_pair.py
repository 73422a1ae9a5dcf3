# SPDX-License-Identifier: Apache-2.0
"""Two control planes of one cluster that ask each other over real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from firstboot import files, pki
from firstboot.api import nodes
from firstboot.api.access import Tls
from firstboot.api.server import TlsDoor
from firstboot.cluster.admission import Admission
from firstboot.config import Config
from firstboot.pki import ca, handover
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.services.model import Node

T = TypeVar("T")


@dataclass
class Pair:
    """Two control planes of a cluster: their certificates."""

    survivor: Catalogue
    other: Catalogue

    def admission(self, node: Node, find_anew: Callable[[], None] = lambda: None) -> Admission:
        """Return the survivor's, of which the datastore and the cluster are asked nothing."""
        none = cast(Any, None)
        return Admission(
            none, lambda: node, tuple, lambda: self.survivor, none, bool, lambda: None, find_anew
        )

    def recover(self) -> None:
        """Let the survivor's datastore have the authority that a recovery gives it."""
        authority = self.survivor.authority("dqlite/ca")
        key, certificate = ca.successor(authority)
        files.write_all([files.File(authority.key, key), files.File(authority.certificate, certificate)])


def made(folder: Path, config: Config) -> Pair:
    """Make both, the other one with what the survivor has given it."""
    survivor, other = (
        catalogue(config, name, ["127.0.0.1"], folder / name).unowned() for name in ("cp-2", "cp-1")
    )
    pki.apply(survivor, Ledger())
    for folder in other.directories:
        files.directory(folder)
    files.write_all(handover.take(other, handover.give(survivor)))
    pki.apply(other, Ledger())
    return Pair(survivor, other)


def over_tls(pair: Pair, admission: Admission, ask: Callable[[int], T]) -> T:
    """Serve the survivor's door for machines, and ask at its port."""

    async def go() -> T:
        door = TlsDoor(lambda: nodes.application(admission))
        api = pair.survivor.certificate("basalt-api")
        authority = pair.survivor.authority("ca").trusted.read_text()
        await door.listen(Tls(api.certificate, api.key, (authority,), required=False), "127.0.0.1:0")
        try:
            assert door.port is not None
            return await asyncio.to_thread(ask, door.port)
        finally:
            await door.close()

    return asyncio.run(go())
