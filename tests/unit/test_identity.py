# SPDX-License-Identifier: Apache-2.0
"""What a document may not change about a node that exists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.identity import PATHS, Identity

IDENTITY = Identity.of(Config.from_dict({"role": "control-plane"}), "cp1")


def test_the_same_is_accepted() -> None:
    assert IDENTITY.refuses(IDENTITY) == ()


@pytest.mark.parametrize(("field", "path"), PATHS.items())
def test_each_change_is_refused_where_it_stands(field: str, path: str) -> None:
    (failure,) = IDENTITY.refuses(replace(IDENTITY, **{field: "else"}))
    assert failure.path == path
    assert "'else'" in failure.found
    assert repr(getattr(IDENTITY, field)) in failure.found


def test_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    assert Identity.load(path) is None
    IDENTITY.save(path)
    assert Identity.load(path) == IDENTITY


@pytest.mark.parametrize("text", ["", "{", "[]", '{"role": "worker"}'])
def test_a_damaged_record_is_not_taken_for_a_new_node(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(text)
    with pytest.raises(BasaltError, match="is damaged"):
        Identity.load(path)
