# SPDX-License-Identifier: Apache-2.0
"""Text for terminals."""

from __future__ import annotations

import pytest

from firstboot.text import clean, table


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("plain", "plain"), (" two\n lines\t", "two lines"), ("\033[31mred", "?[31mred"), ("größe", "größe")],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_the_table_aligns_its_columns() -> None:
    assert table([("a", "bbb", "c"), ("aaaa", "b", "")]) == "a     bbb  c\naaaa  b"
