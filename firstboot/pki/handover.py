# SPDX-License-Identifier: Apache-2.0
"""Authorities and token keys that one control plane gives to another: every control plane signs by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki.catalogue import Catalogue


def give(described: Catalogue) -> dict[str, str]:
    """Return name -> PEM of all that another control plane needs. Raises BasaltError when something is missing."""
    given = {}
    for name, path, _, _ in _entries(described):
        content = files.read_or_none(path)
        if content is None:
            raise BasaltError(f"{path} is missing", "Restore it from a backup or from another control plane.")
        given[name] = content.decode()
    return given


def names(described: Catalogue) -> frozenset[str]:
    """Return the names of all that `give` gives."""
    return frozenset(name for name, _, _, _ in _entries(described))


def take(described: Catalogue, given: Mapping[str, str]) -> list[files.File]:
    """Return the files as they should be written, keys first. Raises BasaltError when something is missing."""
    taken = []
    for name, path, mode, owner in _entries(described):
        if not isinstance(given.get(name), str):
            raise BasaltError(
                f"the control plane has not given {name}", "Are both of versions that fit together?"
            )
        taken.append(files.File(path, given[name].encode(), mode, owner))
    return taken


def _entries(described: Catalogue) -> Iterator[tuple[str, Path, int, files.Owner | None]]:
    """Yield name, path, mode and owner; a certificate without its key would be an authority lost, so keys lead."""
    for pair in described.tokens:
        yield f"{pair.name}.key", pair.private, pair.mode, pair.owner
    for authority in described.authorities:
        yield f"{authority.name}.key", authority.key, authority.mode, authority.owner
    for pair in described.tokens:
        yield f"{pair.name}.pub", pair.public, 0o644, None
    for authority in described.authorities:
        yield f"{authority.name}.crt", authority.certificate, 0o644, None
