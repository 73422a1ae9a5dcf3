# SPDX-License-Identifier: Apache-2.0
"""Text for terminals: on one line, in columns."""

from __future__ import annotations

from collections.abc import Sequence


def clean(text: str) -> str:
    """Return the text on one line, with every character that is not printable replaced by "?"."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of which are the heads, as lines of columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows
    )
    return "\n".join(line.rstrip() for line in lines)
