# SPDX-License-Identifier: Apache-2.0
"""Tables for a terminal and for a page alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median


def spread(values: Sequence[float], digits: int) -> str:
    """Return least and median; one number where there is one, a dash where there is none."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{min(values):.{digits}f} / {median(values):.{digits}f}"


def table(head: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> str:
    """Return a Markdown table with columns of one width; numbers need no other alignment to be read."""
    cells = [list(head), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
