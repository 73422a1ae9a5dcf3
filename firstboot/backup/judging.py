# SPDX-License-Identifier: Apache-2.0
"""Whether a backup may become this node's cluster: all of it is looked at before anything of the node is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from firstboot import files
from firstboot.backup.archive import Contents, require_room, unpack
from firstboot.backup.header import Header, damaged
from firstboot.backup.locks import Opener
from firstboot.backup.sealed import Sealed
from firstboot.cluster import settings
from firstboot.cluster.admission import minor
from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.pki import ca, handover, tokens
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.services.model import Node

OLDEST = 1
"""Minor versions of Kubernetes by which the data may be behind the image: API servers read those of the last one."""

SAME = ("cluster.name", "cluster.pod-cidr", "cluster.service-cidr", "cluster.domain", "datastore.type")
"""Settings that are in the data, in addresses or in certificates, and so have to be the document's."""


@dataclass(frozen=True)
class Judge:
    """The node that the backup is for; kubernetes: version in its image."""

    node: Node
    kubernetes: str | None

    def judge(self, file: Path, opener: Opener, folder: Path) -> tuple[Header, Contents]:
        """Return what is in the file; its snapshot is left in the folder, which has to be empty.

        Raises Refused for a backup that cannot be used here, and BasaltError for what this node lacks.
        """
        with file.open("rb") as opened:
            sealed = Sealed.look(opened)
            self._refuse_version(sealed.header)
            self._refuse_settings({"datastore": {"type": sealed.header.datastore}}, ("datastore.type",))
            scratch = self._scratch(folder)
            key = opener.open(sealed.header.lock)
            contents = unpack(sealed.plain(key), folder, handover.names(scratch))
        self._refuse_settings(contents.settings, SAME)
        _refuse_authorities(scratch, contents.pki)
        # Of the data there will be the snapshot, the new datastore and its log.
        require_room(folder, 2 * contents.snapshot.stat().st_size)
        return sealed.header, contents

    def _refuse_version(self, header: Header) -> None:
        theirs, ours = minor(header.kubernetes), minor(self.kubernetes or "")
        if theirs is None or ours is None or ours - OLDEST <= theirs <= ours:
            return
        if theirs > ours:
            found = f"is of Kubernetes {header.kubernetes}, which is newer than the image's {self.kubernetes}"
        else:
            found = (
                f"is of Kubernetes {header.kubernetes}, more than one minor version behind {self.kubernetes}"
            )
        remedy = f"Restore it with an image of Kubernetes {header.kubernetes}, and upgrade afterwards."
        raise Refused([Failure(Code.VERSION_APART, "backup", found, remedy)])

    def _refuse_settings(self, theirs: Mapping[str, Any], paths: tuple[str, ...]) -> None:
        failures = tuple(_differences(settings.of(self.node.config), theirs, paths))
        if failures:
            raise Refused(failures)

    def _scratch(self, folder: Path) -> Catalogue:
        """Return the node's certificates as they would be below a folder."""
        root = folder / "kubernetes"
        return catalogue(self.node.config, self.node.name, [self.node.ip], root).unowned()


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], paths: tuple[str, ...]
) -> Iterator[Failure]:
    for path in paths:
        own, other = _value(ours, path), _value(theirs, path)
        if own != other:
            yield Failure(
                Code.BACKUP_DIFFERS,
                f"basalt.{path}",
                f"is {own!r}, and {other!r} in the backup",
                "Start a new node with the backup's value in its document, and restore there.",
            )


def _value(data: Any, path: str) -> Any:
    """Return what stands at a path, None where nothing does."""
    return reduce(
        lambda each, key: each.get(key) if isinstance(each, Mapping) else None, path.split("."), data
    )


def _refuse_authorities(scratch: Catalogue, pki: Mapping[str, str]) -> None:
    """Look whether keys and certificates can be used, where nobody else sees them."""
    for folder in scratch.directories:
        files.directory(folder, 0o700)
    files.write_all(handover.take(scratch, pki))
    try:
        for authority in scratch.authorities:
            ca.load(authority)
        wrong = next(filter(None, map(tokens.check, scratch.tokens)), None)
    except BasaltError as error:
        failure = Failure(Code.BACKUP_DAMAGED, "backup", f"has keys that cannot be used: {error}", error.hint)
        raise Refused([failure]) from error
    if wrong:
        raise damaged(f"has keys that do not belong together: {wrong}")
