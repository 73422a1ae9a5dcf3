# SPDX-License-Identifier: Apache-2.0
"""No unit test changes the machine that it runs on, whoever runs it there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support_host import Host

HOST = Host()


@pytest.fixture(autouse=True)
def untouched() -> Iterator[list[str]]:
    """Refuse what would change it; give what was refused, which ends the test as failed unless it is taken out."""
    with HOST.guarded() as refused:
        yield refused
    assert not refused, "a unit test may not touch the machine that it runs on"
