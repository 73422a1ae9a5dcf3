# SPDX-License-Identifier: Apache-2.0
"""The settings of a cluster as an object in it: one ConfigMap with the newest version and those before it.

A new version is the old object with one more entry, written on the condition that nobody has written meanwhile. So
there is one newest version at any time, it is there completely or not at all, and it is in every backup.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from firstboot.cluster import changes
from firstboot.cluster.records import NAMESPACE, sent
from firstboot.cluster.settings import DATASTORE, SECTIONS, Values, paths, stored_in
from firstboot.codes import Code
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError, DocumentError, Failure, Refused
from firstboot.features.model import allow, bind_group_in, role
from firstboot.kube import Client, KubeError, Object
from firstboot.pki.catalogue import NODES
from firstboot.report.status import now

NAME = "basalt-settings"
PATH = f"{NAMESPACE}/configmaps/{NAME}"
KEPT = 20
"""How many versions are kept, the newest among them."""
ATTEMPTS = 5
"""How often a change is tried that another one comes before."""

ACCESS: tuple[Object, ...] = (
    role("basalt:settings", "kube-system", [{**allow("core", "configmaps", "get"), "resourceNames": [NAME]}]),
    bind_group_in("kube-system", "basalt:settings", NODES),
)
"""What agents of workers need: this one object."""


@dataclass(frozen=True)
class Change:
    """One setting that a version has otherwise than the one before; None stands for no value."""

    path: str
    before: Any
    after: Any

    def to_dict(self) -> dict[str, Any]:
        """Return the change as the API shows it."""
        return asdict(self)


@dataclass(frozen=True)
class Version:
    """The settings from one change to the next.

    time:     when it was made (RFC 3339, UTC)
    author:   common name of the administrator's certificate, "root", or the node whose document it is of
    settings: as in firstboot.cluster.settings
    """

    number: int
    time: str
    author: str
    settings: Mapping[str, Any]
    changes: tuple[Change, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it: without the settings."""
        made = [change.to_dict() for change in self.changes]
        return {"version": self.number, "time": self.time, "author": self.author, "changes": made}


@dataclass(frozen=True)
class Versions:
    """All versions that are kept, oldest first; revision: of the object they are in."""

    kept: tuple[Version, ...]
    revision: str = ""

    @property
    def newest(self) -> Version:
        """The version that counts."""
        return self.kept[-1]

    def find(self, number: int) -> Version | None:
        """Return the version of that number, None for one that is not kept."""
        return next((each for each in self.kept if each.number == number), None)


@dataclass(frozen=True)
class Outcome:
    """What a change has come to: the newest version, and whether it was made for it."""

    version: Version
    made: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        made = [change.to_dict() for change in self.version.changes] if self.made else []
        return {"version": self.version.number, "changes": made}


async def read(client: Client) -> Versions | None:
    """Return the versions, None before there is one. Raises KubeError, and BasaltError for a damaged object."""
    found = await client.get(PATH)
    if found is None:
        return None
    try:
        entries = {int(number): json.loads(text) for number, text in found.get("data", {}).items()}
        kept = tuple(_version(number, entries[number]) for number in sorted(entries))
        if kept and kept[0].number < 1:
            raise ValueError("a version is not a number from 1 on")
        revision = found["metadata"]["resourceVersion"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(repr(error)) from None
    if not kept:
        raise _damaged("it is empty")
    return Versions(kept, revision)


async def create(client: Client, version: Version) -> bool:
    """Write the first version; False when there is one already. Raises KubeError."""
    return await sent(client, "POST", f"{NAMESPACE}/configmaps", _object(Versions((version,))))


async def change(client: Client, wanted: Values, author: str, expected: int | None = None) -> Outcome:
    """Make a version with other values, unless these are the values already.

    expected: number of the version that the change is meant for
    Raises DocumentError for values that cannot be, Refused when somebody else was quicker, and KubeError.
    """

    def revised(known: Versions) -> Mapping[str, Any]:
        return changes.changed(known.newest.settings, wanted)

    return await _make(client, revised, tuple(wanted), author, expected)


async def revert(client: Client, number: int, author: str, expected: int | None = None) -> Outcome:
    """Make a version with the values of an older one; see change. Raises Refused where that is not kept."""

    def revised(known: Versions) -> Mapping[str, Any]:
        old = known.find(number)
        if old is None:
            found = f"version {number} is not kept; there are {known.kept[0].number} to {known.newest.number}"
            raise Refused([Failure(Code.VERSION_UNKNOWN, "", found, "`basalt get --history` lists them.")])
        if failures := changes.problems(old.settings):
            raise DocumentError(failures)
        # What the datastore is since it was moved no version takes back.
        return changes.put(old.settings, {DATASTORE: known.newest.settings["datastore"]["type"]})

    return await _make(client, revised, paths(), author, expected)


async def put_right(client: Client, datastore: DatastoreType, author: str) -> Outcome:
    """Make a version that names the datastore in which the versions are, if the newest one names another.

    Raises Refused where somebody else does the same otherwise, and KubeError.
    """

    def revised(known: Versions) -> Mapping[str, Any]:
        return stored_in(known.newest.settings, datastore)

    return await _make(client, revised, (DATASTORE,), author, None)


Revised = Callable[[Versions], Mapping[str, Any]]
"""From the versions that there are to the settings of the next one. Raises DocumentError."""


async def _make(
    client: Client, revised: Revised, touched: Sequence[str], author: str, expected: int | None
) -> Outcome:
    """Make a version, again where another one comes before it that leaves alone what this one touches."""
    seen: Version | None = None
    for _ in range(ATTEMPTS):
        known = await read(client)
        if known is None:
            break
        _refuse_other(known.newest, touched, seen, expected)
        seen = known.newest
        made = await asyncio.to_thread(_next, known, revised, author)
        if made is None:
            return Outcome(known.newest, made=False)
        if await _replaced(client, Versions((*known.kept[1 - KEPT :], made), known.revision)):
            return Outcome(made, made=True)
    raise BasaltError(
        "the cluster's settings are not there, or change all the time", "Try again in some seconds."
    )


def _next(known: Versions, revised: Revised, author: str) -> Version | None:
    """Return the version that comes of a change, None where that changes nothing. Raises DocumentError."""
    newest, settings = known.newest, revised(known)
    made = tuple(_differences(newest.settings, settings))
    return Version(newest.number + 1, now(), author, settings, made) if made else None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = changes.effective(old), changes.effective(new)
    for path, value in after.items():
        if before[path] != value:
            yield Change(path, before[path], value)


def _refuse_other(
    newest: Version, touched: Sequence[str], seen: Version | None, expected: int | None
) -> None:
    """Raise Refused where the change was meant for other settings than those of now."""
    if expected is not None and newest.number != expected:
        raise _overtaken("", f"the newest version is {newest.number}, not {expected}")
    others = () if seen is None else _differences(seen.settings, newest.settings)
    if clash := next((each.path for each in others if each.path in touched), None):
        raise _overtaken(clash, f"{newest.author} has set it in version {newest.number} meanwhile")


def _overtaken(path: str, found: str) -> Refused:
    remedy = "Look at it (`basalt get --history`) and decide again."
    return Refused([Failure(Code.SETTINGS_CHANGED, path, found, remedy)])


async def _replaced(client: Client, versions: Versions) -> bool:
    """Write the versions over those they come from; False when these have changed or are gone."""
    try:
        return await sent(client, "PUT", PATH, _object(versions))
    except KubeError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise


def _object(versions: Versions) -> Object:
    metadata = {"name": NAME, "namespace": "kube-system"}
    if versions.revision:
        metadata["resourceVersion"] = versions.revision
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {str(each.number): _entry(each) for each in versions.kept},
    }


def _entry(version: Version) -> str:
    made = [change.to_dict() for change in version.changes]
    entry = {"time": version.time, "author": version.author, "changes": made, "settings": version.settings}
    return json.dumps(entry, indent=2)


def _version(number: int, entry: Mapping[str, Any]) -> Version:
    settings = entry["settings"]
    if not all(isinstance(settings[section], dict) for section in SECTIONS):
        raise ValueError("a section is no object")
    made = tuple(Change(each["path"], each["before"], each["after"]) for each in entry["changes"])
    return Version(number, entry["time"], entry["author"], settings, made)


def _damaged(why: str) -> BasaltError:
    return BasaltError(
        f"ConfigMap {NAME} in kube-system is damaged: {why}",
        f"Remove it (`kubectl -n kube-system delete configmap {NAME}`): a control plane makes it again of the "
        "settings it follows.",
    )
