# SPDX-License-Identifier: Apache-2.0
"""The results of features for people."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from .markdown import spread, table
from .results import Features

MIB = 1 << 20


def parts(features: Features) -> Iterator[str]:
    """Yield one table for each question."""
    idle = features.idle.items()
    yield table(
        ["service when idle", "MiB (PSS)", "percent of a processor"],
        [[unit, f"{each.pss / MIB:.0f}", f"{each.processor * 100:.2f}"] for unit, each in idle],
    )
    yield table(
        ["seconds from `kubectl apply` to the first good answer", "least / median"],
        [[kind, spread(seconds, 2)] for kind, seconds in features.first_answers.items()],
    )
    starts = features.starts
    ratios = [each.claimed / each.alone for each in starts]
    yield table(
        [
            f"seconds to a pod's first answer, {features.host.accelerator.upper()}",
            "alone",
            "with a claim",
            "ratio",
        ],
        [
            [
                "least / median",
                spread([each.alone for each in starts], 1),
                spread([each.claimed for each in starts], 1),
                spread(ratios, 2),
            ]
        ],
    )
    yield table(["requests of 8 connections", "directly", "through ingress", "ratio"], list(_rates(features)))


def _rates(features: Features) -> Iterator[list[str]]:
    pairs = list(zip(features.direct, features.ingress, strict=True))
    for name, value, digits in (
        ("per second", "per_second", 0),
        ("half within, ms", "p50", 2),
        ("99 % within, ms", "p99", 2),
    ):
        direct, ingress = ([getattr(pair[side], value) for pair in pairs] for side in (0, 1))
        ratio = median(through / straight for straight, through in zip(direct, ingress, strict=True))
        yield [name, spread(direct, digits), spread(ingress, digits), f"{ratio:.2f}"]
