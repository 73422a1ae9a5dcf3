# SPDX-License-Identifier: Apache-2.0
"""Which tests stay together."""

from __future__ import annotations

import pytest

from tests.lanes import lane


@pytest.mark.parametrize(
    ("test", "machines", "expected"),
    [
        ("tests/vm/test_life.py::test_kill[dqlite]", 1, "machines"),
        ("tests/nspawn/test_move.py::test_move", 1, "containers"),
        ("tests/nspawn/test_move.py::test_move", 2, "containers"),
        ("tests/vm/test_life.py::test_kill[dqlite]", 2, "tests/vm/test_life.py"),
        ("tests/unit/test_lanes.py::test_lane[a::b]", 1, "tests/unit/test_lanes.py"),
        ("tests/torture/test_single.py::test_kill[etcd]", 1, "tests/torture/test_single.py::test_kill[etcd]"),
    ],
)
def test_lane(test: str, machines: int, expected: str) -> None:
    assert lane(test, machines) == expected
