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

from .memory import Memory

FILE = BUILD / "bench.json"


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


@dataclass(frozen=True)
class Results:
    """All of one run."""

    host: Host
    sizes: Sizes
    builds: Builds = field(default_factory=Builds)
    boots: tuple[Boot, ...] = ()

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
        )
