# SPDX-License-Identifier: Apache-2.0
"""What acknowledged writes tell: how many a cluster takes, how long each takes, and for how long it takes none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Write:
    """One that was acknowledged to a writer; times are seconds since 1970."""

    writer: int
    started: float
    ended: float


@dataclass(frozen=True)
class Load:
    """Requests that went well per second, and the milliseconds that half of them and 99 in a hundred took at most."""

    per_second: float
    p50: float
    p99: float

    @classmethod
    def of(cls, writes: Sequence[Write]) -> Self:
        """Reckon that of acknowledged writes, from the first request's start to the last answer.

        Raises ValueError where there is nothing.
        """
        if not writes:
            raise ValueError("nothing was acknowledged")
        seconds = max(each.ended for each in writes) - min(each.started for each in writes)
        took = sorted((each.ended - each.started) * 1000 for each in writes)
        return cls(round(len(writes) / seconds, 1), rank(took, 0.5), rank(took, 0.99))


def rank(ascending: Sequence[float], share: float) -> float:
    """Return the least of the values that so many of all do not exceed."""
    return round(ascending[math.ceil(share * len(ascending)) - 1], 1)


def outage(acknowledged: Sequence[float], loss: float) -> float:
    """Return the longest time without an acknowledgement around a loss: it begins with the last one before.

    acknowledged: moments, ascending. Raises ValueError when there is none before the loss, or none after it.
    """
    before = [moment for moment in acknowledged if moment <= loss]
    after = acknowledged[len(before) :]
    if not before or not after:
        raise ValueError("no write was acknowledged before the loss, or none after it")
    moments = [before[-1], *after]
    return max(later - earlier for earlier, later in zip(moments, after, strict=False))


def worst(writes: Sequence[Write], loss: float) -> float:
    """Return the longest outage that one of several writers has met."""
    ended: dict[int, list[float]] = {}
    for each in writes:
        ended.setdefault(each.writer, []).append(each.ended)
    return max(outage(sorted(moments), loss) for moments in ended.values())
