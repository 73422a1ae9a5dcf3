# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from firstboot.files import File
from firstboot.steps.files import Files
from firstboot.steps.model import Machine


@pytest.fixture
def agents_mask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_who_reads_a_file_gets_at_it(agents_mask: None, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    path = private / "new/newer/ca.crt"
    step = Files("files:ca", (File(path, b"certificate", 0o644),))
    nobody = cast(Machine, None)
    assert asyncio.run(step.check(nobody))
    asyncio.run(step.apply(nobody))
    assert asyncio.run(step.check(nobody)) is None
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent, private)]
    assert modes == [0o644, 0o755, 0o755, 0o700]
