# SPDX-License-Identifier: Apache-2.0
"""Linters and types are part of what the tests prove; a missing tool is a failure, never a skip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CODE = [name for name in ("firstboot", "image", "tests") if (REPOSITORY / name).is_dir()]


@pytest.mark.parametrize(
    "arguments",
    [["ruff", "check", "--quiet"], ["ruff", "format", "--check", "--quiet"], ["mypy", "--no-error-summary"]],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_linter(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *CODE], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"
