# SPDX-License-Identifier: Apache-2.0
"""Where the built image lies in the checkout."""

from __future__ import annotations

from pathlib import Path

from firstboot.failure import BasaltError

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
IMAGE = BUILD / "basalt.raw"


def built_image() -> Path:
    """Return the disk image; raises BasaltError when it was not built yet."""
    if not IMAGE.is_file():
        raise BasaltError(f"{IMAGE.relative_to(ROOT)} is missing", "Build it with `make image`.")
    return IMAGE


def kernel() -> Path:
    """Return the image's unified kernel image."""
    found = sorted(BUILD.glob("*.efi"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BasaltError("no unified kernel image lies in build/", "Build the image with `make image`.")
    return found[-1]
