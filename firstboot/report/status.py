# SPDX-License-Identifier: Apache-2.0
"""The status document: one frozen tree that console, HTTP, API and command line render.

Its JSON form is described by schemas/status.schema.json. Only cheap modules of the standard library are
imported here, because the agent shows a status before it can afford anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from firstboot.failure import BasaltError, Failure

SCHEMA = "basalt.status/v1"


class State(StrEnum):
    """How a component or a feature stands."""

    OFF = "off"
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"

    @property
    def ok(self) -> bool:
        """Whether nobody needs to look: it works, or it is meant to be off."""
        return self in (State.HEALTHY, State.OFF)

    @property
    def bad(self) -> bool:
        """Whether somebody should look."""
        return self in (State.DEGRADED, State.FAILED)


class Phase(StrEnum):
    """Where the node is in its life."""

    WAITING_FOR_DOCUMENT = "waiting-for-document"
    DOCUMENT_INVALID = "document-invalid"
    STARTING = "starting"
    JOINING = "joining"
    READY = "ready"
    DEGRADED = "degraded"
    UPDATING = "updating"
    LEAVING = "leaving"

    @property
    def ready(self) -> bool:
        """Whether all is as the document wants it."""
        return self is Phase.READY

    @property
    def settled(self) -> bool:
        """Whether the node stays so until something outside it changes."""
        return self in (Phase.READY, Phase.DEGRADED, Phase.DOCUMENT_INVALID, Phase.WAITING_FOR_DOCUMENT)

    @property
    def needs_document(self) -> bool:
        """Whether only a (better) document brings the node further."""
        return self in (Phase.DOCUMENT_INVALID, Phase.WAITING_FOR_DOCUMENT)

    @property
    def bad(self) -> bool:
        """Whether somebody should look."""
        return self in (Phase.DOCUMENT_INVALID, Phase.DEGRADED)

    @property
    def meaning(self) -> str:
        """One sentence for a person who sees the phase for the first time."""
        return MEANINGS[self]


MEANINGS: Mapping[Phase, str] = {
    Phase.WAITING_FOR_DOCUMENT: "No document was given yet; the node waits for one.",
    Phase.DOCUMENT_INVALID: "The document cannot be used; the node waits for a corrected one.",
    Phase.STARTING: "Services are being started.",
    Phase.JOINING: "The node is joining its cluster.",
    Phase.READY: "Everything the document asks for works.",
    Phase.DEGRADED: "Something does not work that worked, or lacks what only others can mend.",
    Phase.UPDATING: "A new image is being installed or tried.",
    Phase.LEAVING: "The node is leaving its cluster.",
}


@dataclass(frozen=True)
class Node:
    """Who the node is; role is "control-plane", "worker" or unknown, addresses are without a prefix."""

    name: str = ""
    role: str | None = None
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """The image that runs: its version and the slot of /usr it was started from ("A" or "B")."""

    version: str | None = None
    slot: str | None = None


@dataclass(frozen=True)
class Part:
    """A component or a feature: its state, one line of detail, and its version where it has one."""

    state: State
    detail: str = ""
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the part as it stands in the document."""
        return {"state": self.state.value, "detail": self.detail, "version": self.version}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a part from its JSON form; raises ValueError for an unknown state."""
        return cls(State(data["state"]), data.get("detail", ""), data.get("version"))


@dataclass(frozen=True)
class Document:
    """The document the status is about: where it came from and its digest ("sha256:…")."""

    origin: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Settings:
    """The version of the cluster's settings that the node follows, and when it was made (RFC 3339, UTC)."""

    version: int
    made: str


@dataclass(frozen=True)
class Rotation:
    """The rotation of the cluster's CA that the node follows, as long as it is not done.

    stage:  trust or sign
    since:  when that began (RFC 3339, UTC)
    behind: names of nodes that are not through with it; None on a worker, and before anybody has looked
    """

    stage: str
    since: str
    behind: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in the document."""
        behind = None if self.behind is None else list(self.behind)
        return {"stage": self.stage, "since": self.since, "behind": behind}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make it from its JSON form."""
        behind = data.get("behind")
        return cls(data["stage"], data["since"], None if behind is None else tuple(behind))


@dataclass(frozen=True)
class Status:
    """The whole status document.

    kubernetes:   version of Kubernetes in the image, e.g. "v1.37.2"
    settings:     of its cluster; None before the node follows any
    timings:      milestone: seconds since the kernel started
    certificates: name: end of validity (RFC 3339, UTC)
    backup:       when the newest of the node's own backups was taken (RFC 3339, UTC)
    rotation:     of the cluster's CA; None where none is under way
    updated:      when the document last changed (RFC 3339, UTC)
    """

    phase: Phase = Phase.WAITING_FOR_DOCUMENT
    node: Node = field(default_factory=Node)
    image: Image = field(default_factory=Image)
    kubernetes: str | None = None
    components: Mapping[str, Part] = field(default_factory=dict)
    features: Mapping[str, Part] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    document: Document = field(default_factory=Document)
    certificates: Mapping[str, str] = field(default_factory=dict)
    settings: Settings | None = None
    backup: str | None = None
    rotation: Rotation | None = None
    updated: str = field(default_factory=lambda: now())

    @property
    def unready(self) -> tuple[str, ...]:
        """Why the node is not ready, one line each; empty exactly when the phase is ready."""
        if self.phase.ready:
            return ()
        parts = {**self.components, **self.features}
        waiting = (
            f"{name} is {part.state}" + (f": {part.detail}" if part.detail else "")
            for name, part in parts.items()
            if not part.state.ok
        )
        return (f"phase is {self.phase}", *waiting, *(str(failure) for failure in self.failures))

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON-ready data, every key present."""
        return {
            "schema": SCHEMA,
            "phase": self.phase.value,
            "node": {
                "name": self.node.name,
                "role": self.node.role,
                "addresses": list(self.node.addresses),
            },
            "image": {"version": self.image.version, "slot": self.image.slot},
            "kubernetes": {"version": self.kubernetes},
            "components": {name: part.to_dict() for name, part in self.components.items()},
            "features": {name: part.to_dict() for name, part in self.features.items()},
            "failures": [failure.to_dict() for failure in self.failures],
            "timings": dict(self.timings),
            "document": {"origin": self.document.origin, "digest": self.document.digest},
            "certificates": dict(self.certificates),
            "settings": asdict(self.settings) if self.settings else None,
            "backup": self.backup,
            "rotation": self.rotation.to_dict() if self.rotation else None,
            "updated": self.updated,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a document made by to_dict(); keys of later versions are passed over.

        Raises BasaltError when it is no status document of this version.
        """
        if data.get("schema") != SCHEMA:
            raise BasaltError(
                f"not a status document that this version understands: schema is {data.get('schema')!r}",
                f"Use a `basalt` of the node's version; this one reads {SCHEMA}.",
            )
        try:
            return cls(
                phase=Phase(data["phase"]),
                node=_node(data["node"]),
                image=Image(data["image"].get("version"), data["image"].get("slot")),
                kubernetes=data["kubernetes"].get("version"),
                components=_parts(data["components"]),
                features=_parts(data["features"]),
                failures=tuple(_failure(failure) for failure in data["failures"]),
                timings=dict(data["timings"]),
                document=Document(data["document"].get("origin"), data["document"].get("digest")),
                certificates=dict(data.get("certificates", {})),
                settings=_settings(data.get("settings")),
                backup=data.get("backup"),
                rotation=Rotation.from_dict(data["rotation"]) if data.get("rotation") else None,
                updated=data["updated"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BasaltError(f"the status document is damaged: {error!r}") from None


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _node(data: Mapping[str, Any]) -> Node:
    return Node(data.get("name", ""), data.get("role"), tuple(data.get("addresses", ())))


def _settings(data: Mapping[str, Any] | None) -> Settings | None:
    return None if data is None else Settings(int(data["version"]), data["made"])


def _parts(data: Mapping[str, Any]) -> dict[str, Part]:
    return {name: Part.from_dict(part) for name, part in data.items()}


def _failure(data: Mapping[str, Any]) -> Failure:
    return Failure(data["code"], data["path"], data["found"], data["remedy"])
