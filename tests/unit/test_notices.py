# SPDX-License-Identifier: Apache-2.0
"""Which module's code is inside a program, and the licences that come with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.failure import BasaltError
from image import notices, sbom
from image.components import Module

PLAIN = Module("example.org/a", "v1.0.0", "h1:x")
STAGING = Module("k8s.io/mount-utils", "v0.0.0", "h1:x", "k8s.io/mount-utils v0.37.2")
FORK = Module("example.org/a", "v1.0.0", "h1:x", "example.org/fork v1.1.0")
EDITED = Module("example.org/a", "v1.0.0", "", "./edited/a (devel)")


@pytest.mark.parametrize(
    ("module", "purl", "comment"),
    [
        (PLAIN, "pkg:golang/example.org/a@v1.0.0", ""),
        (STAGING, "pkg:golang/k8s.io/mount-utils@v0.37.2", ""),
        (FORK, "pkg:golang/example.org/fork@v1.1.0", "In the place of example.org/a"),
        (EDITED, "pkg:golang/example.org/a@v1.0.0", "Built from ./edited/a (devel) in its place"),
    ],
)
def test_entry_of_a_module(module: Module, purl: str, comment: str) -> None:
    entry = sbom.module(module)
    assert (entry.purl, entry.comment) == (purl, comment)


def test_licences_of_a_folder(tmp_path: Path) -> None:
    for name in ("LICENSE", "NOTICE", "license.go", "README.md"):
        (tmp_path / name).write_text(f" {name} \n")
    (tmp_path / "licenses").mkdir()
    assert notices.of_folder(tmp_path) == {"LICENSE": "LICENSE", "NOTICE": "NOTICE"}


def test_a_module_without_licence_is_not_shipped(tmp_path: Path) -> None:
    (tmp_path / "NOTICE").write_text("by somebody")
    with pytest.raises(BasaltError, match="no licence"):
        notices.of_folder(tmp_path)
