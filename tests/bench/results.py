# SPDX-License-Identifier: Apache-2.0
"""What was measured, and how it is kept as JSON (build/bench.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Self

from image.artefacts import Sizes
from image.vm.place import BUILD

from .availability import Load
from .memory import Memory

FILE = BUILD / "bench.json"
DATASTORES = ("dqlite", "etcd")
MEMBERS = (1, 3)
"""Control planes of the clusters that are measured; three have a worker."""


class Side(StrEnum):
    """What runs in the machine."""

    BASALT = "basalt"
    BY_HAND = "by hand"


@dataclass(frozen=True)
class Boot:
    """One machine, from power-on to idle.

    seconds:     milestone -> seconds since the kernel started
    firmware:    seconds from power-on to the kernel
    uncertainty: seconds by which the kernel's start may be wrong, and with it all of `seconds` alike
    others:      share of the host's processors that was used by others, from power-on to the running pod
    timings:     what the agent's status document said itself
    """

    side: Side
    seconds: Mapping[str, float]
    firmware: float
    uncertainty: float
    others: float
    memory: Memory
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        return cls(**{**data, "side": Side(data["side"]), "memory": Memory.from_dict(data["memory"])})


@dataclass(frozen=True)
class Builds:
    """Seconds of `make image`, None where not measured, and what components' builds took when they were built.

    current: nothing changed    image: all in the caches but the image itself    cold: with empty caches
    """

    current: float | None = None
    image: float | None = None
    cold: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """The machine on which all of it ran; memory in bytes, commit with a `+` for what is not committed."""

    processor: str
    cpus: int
    memory: int
    accelerator: str
    guest: str
    version: str
    commit: str
    date: str


class Loss(StrEnum):
    """How a control plane is lost: its connections end with it, or nothing is heard of it any more."""

    KILLED = "killed"
    CUT_OFF = "cut off"


@dataclass(frozen=True)
class Outage:
    """Seconds without an acknowledged write after the datastore's leader was lost, for who writes where.

    datastore: to the datastore's member of another control plane
    survivor:  through that one's API server
    worker:    through a worker's balancer, the longest of several connections
    """

    loss: Loss
    datastore: float
    survivor: float
    worker: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        return cls(**{**data, "loss": Loss(data["loss"])})


@dataclass(frozen=True)
class Move:
    """Seconds without an acknowledged write through the API's virtual address after its carrier was lost."""

    loss: Loss
    seconds: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        return cls(**{**data, "loss": Loss(data["loss"])})


@dataclass(frozen=True)
class Weight:
    """Bytes of memory of one control plane, on average: the datastore's service, and all processes."""

    datastore: float
    node: float


@dataclass(frozen=True)
class Cluster:
    """One cluster in containers, from power-on to its end.

    datastore: dqlite or etcd
    members:   control planes: one alone, or three and a worker
    ready:     seconds from power-on until all were Ready
    idle, used: before and after the load
    load:      of writes through one API server
    """

    datastore: str
    members: int
    ready: float
    idle: Weight
    used: Weight
    load: Load
    outages: tuple[Outage, ...] = ()
    moves: tuple[Move, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        parts = {
            "idle": Weight(**data["idle"]),
            "used": Weight(**data["used"]),
            "load": Load(**data["load"]),
            "outages": tuple(Outage.from_dict(each) for each in data["outages"]),
            "moves": tuple(Move.from_dict(each) for each in data.get("moves", ())),
        }
        return cls(**{**data, **parts})


@dataclass(frozen=True)
class Clusters:
    """All clusters of one run, in the order in which they were measured."""

    host: Host
    measured: tuple[Cluster, ...] = ()

    def of(self, datastore: str, members: int) -> list[Cluster]:
        """Return those of one kind."""
        return [each for each in self.measured if (each.datastore, each.members) == (datastore, members)]

    def ratios(self, datastore: str) -> list[float]:
        """Return the seconds to Ready of three and a worker over those of one alone, for each round."""
        rounds = zip(self.of(datastore, 3), self.of(datastore, 1), strict=False)
        return [three.ready / one.ready for three, one in rounds]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        return cls(Host(**data["host"]), tuple(Cluster.from_dict(each) for each in data["measured"]))


@dataclass(frozen=True)
class Idle:
    """What a service uses that nobody asks anything: bytes of memory (PSS), and its share of a processor."""

    pss: int
    processor: float


@dataclass(frozen=True)
class Start:
    """Seconds from `kubectl apply` to a pod's first answer, for one alone and for one with a claim."""

    alone: float
    claimed: float


@dataclass(frozen=True)
class Features:
    """Features on one control plane in a container, but volumes on a machine.

    idle:            service -> what it uses
    first_answers:   kind -> seconds from `kubectl apply` to the first good answer, of several objects
    direct, ingress: requests to the same server, in pairs
    starts:          of pods on a machine, in pairs
    """

    host: Host
    idle: Mapping[str, Idle]
    first_answers: Mapping[str, tuple[float, ...]]
    direct: tuple[Load, ...]
    ingress: tuple[Load, ...]
    starts: tuple[Start, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        direct, ingress = (tuple(Load(**each) for each in data[side]) for side in ("direct", "ingress"))
        idle = {unit: Idle(**each) for unit, each in data["idle"].items()}
        answers = {kind: tuple(seconds) for kind, seconds in data["first_answers"].items()}
        starts = tuple(Start(**each) for each in data["starts"])
        return cls(Host(**data["host"]), idle, answers, direct, ingress, starts)


@dataclass(frozen=True)
class Results:
    """All that was measured last; clusters and features may be of another run than the rest."""

    host: Host
    sizes: Sizes
    builds: Builds = field(default_factory=Builds)
    boots: tuple[Boot, ...] = ()
    clusters: Clusters | None = None
    features: Features | None = None

    def of(self, side: Side) -> list[Boot]:
        """Return one side's boots, in the order of the pairs."""
        return [boot for boot in self.boots if boot.side is side]

    def ratios(self, milestone: str) -> list[float]:
        """Return Basalt's seconds over those by hand, for each pair."""
        pairs = zip(self.of(Side.BASALT), self.of(Side.BY_HAND), strict=False)
        return [ours.seconds[milestone] / theirs.seconds[milestone] for ours, theirs in pairs]

    def used(self, side: Side) -> float:
        """Return the median of the bytes in use."""
        return median(boot.memory.used for boot in self.of(side))

    def save(self, path: Path = FILE) -> None:
        """Write the file in one step."""
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path = FILE) -> Self:
        """Read a file that save() wrote."""
        data = json.loads(path.read_text())
        return cls(
            Host(**data["host"]),
            Sizes(**data["sizes"]),
            Builds(**data["builds"]),
            tuple(Boot.from_dict(boot) for boot in data["boots"]),
            Clusters.from_dict(data["clusters"]) if data.get("clusters") else None,
            Features.from_dict(data["features"]) if data.get("features") else None,
        )
