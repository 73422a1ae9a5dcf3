# SPDX-License-Identifier: Apache-2.0
"""The Python environment of the tests and linters: made once for each set of requirements, kept in the cache.

python3 -m image.venv   print its folder, making it when it is missing
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from firstboot.failure import BasaltError

from . import host

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
PIP_SECONDS = 600.0


def requirements(text: str) -> list[str]:
    """Return what the project's pyproject.toml asks for, extras included, without the project itself."""
    project = tomllib.loads(text)["project"]
    groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    return sorted(
        {entry for group in groups for entry in group if not entry.startswith(f"{project['name']}[")}
    )


def folder(wanted: Sequence[str]) -> Path:
    """Return where the environment with these requirements is, or will be."""
    facts = f"{sys.version} {sys.prefix} {' '.join(wanted)} {CONSTRAINTS.read_text()}"
    return host.cache() / "venv" / hashlib.sha256(facts.encode()).hexdigest()[:16]


def make(wanted: Sequence[str]) -> Path:
    """Return the environment, making it when it is missing; raises CommandError with pip's last lines."""
    path = folder(wanted)
    complete = path / "complete"
    if complete.is_file():
        return path
    _require_venv()
    with host.locked(f"venv-{path.name}"):
        if not complete.is_file():
            print(
                f"python: installing {len(wanted)} packages for tests and linters",
                file=sys.stderr,
                flush=True,
            )
            shutil.rmtree(path, ignore_errors=True)
            log = host.cache() / "logs" / "venv.log"
            host.run([sys.executable, "-m", "venv", path], log=log, timeout=120)
            pip: list[str | Path] = [path / "bin/python", "-m", "pip", "install", "--quiet"]
            host.run([*pip, f"--constraint={CONSTRAINTS}", *wanted], log=log, timeout=PIP_SECONDS)
            complete.touch()
    return path


def _require_venv() -> None:
    """Install what Debian splits off from Python, where that is missing."""
    if importlib.util.find_spec("ensurepip"):
        return
    major, minor = sys.version_info[:2]
    package = f"python{major}.{minor}-venv"
    if os.geteuid():
        raise BasaltError(
            f"this Python has no venv: the package {package} is missing",
            f"Install it with `sudo apt-get install {package}`.",
        )
    # A file that is missing names the package that brings it.
    host.require_packages({f"/usr/lib/python{major}.{minor}/ensurepip/__init__.py": package})


def main(arguments: Sequence[str]) -> int:
    """Run the command line described above."""
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    print(make(requirements(PROJECT.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
