# SPDX-License-Identifier: Apache-2.0
"""Reads the licences of Debian packages from their copyright files: called by image/rootfs.py for the SBOM."""

from __future__ import annotations

import re
from pathlib import Path

_FIELD = re.compile(r"^License:[ \t]*(\S.*?)\s*$", re.MULTILINE)


def of_package(text: str) -> list[str]:
    """Return the short names in a machine-readable copyright file; none from one that is prose."""
    if not text.lstrip().startswith("Format:"):
        return []
    return sorted(set(_FIELD.findall(text)))


def collect(root: Path) -> dict[str, str]:
    """Return package name -> its licences joined by commas, for every package of a tree that tells."""
    found = {}
    for path in sorted((root / "usr/share/doc").glob("*/copyright")):
        if path.is_file() and (names := of_package(path.read_text(errors="replace"))):
            found[path.parent.name] = ", ".join(names)
    return found
