# SPDX-License-Identifier: Apache-2.0
"""Kubernetes quantities of bytes: read exactly, written as the API server writes them, shown to people."""

from __future__ import annotations

import math
import re
from fractions import Fraction

BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([KMGTPE]i)|([eE][+-]?\d{1,3})|([numkMGTPE]?))", re.ASCII)


def parse(text: str) -> int:
    """Return the bytes of a quantity such as ``1.5Gi``, ``1e9`` or ``100M``; a part of a byte counts as one.

    Raises ValueError for text that is no quantity.
    """
    found = QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    sign, number, binary, exponent, decimal = found.groups()
    value = Fraction(number.rstrip("."))
    if binary:
        value *= 1024 ** (BINARY.index(binary) + 1)
    else:
        value *= Fraction(10) ** (int(exponent[1:]) if exponent else DECIMAL[decimal])
    return math.ceil(-value if sign == "-" else value)


def write(count: int) -> str:
    """Return bytes as a quantity, with the largest binary unit that they are a whole number of."""
    unit = ""
    for each in BINARY:
        if count == 0 or count % 1024:
            break
        count, unit = count // 1024, each
    return f"{count}{unit}"


def show(count: int) -> str:
    """Return bytes as people read them, e.g. ``1.5 GiB``; never more than there are."""
    unit = "bytes"
    whole = Fraction(count)
    for each in BINARY:
        if whole < 1024:
            break
        whole, unit = whole / 1024, f"{each}B"
    tenths = math.floor(whole * 10)
    return f"{tenths // 10} {unit}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10} {unit}"
