# SPDX-License-Identifier: Apache-2.0
"""How long `make image` takes, measured in a copy of the checkout, so that neither it nor the caches lose anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from image import components, host
from image.vm.place import ROOT

from .results import Builds

FINISHED = "finished"
"""Folder of the cache with whole images."""
COLD_SECONDS, WARM_SECONDS = 3 * 3600.0, 1800.0


class Build(StrEnum):
    """Which builds to measure; cold: also one with empty caches, which takes as long as everything else together."""

    NONE = "none"
    WARM = "warm"
    COLD = "cold"


def measure(wanted: Build) -> Builds:
    """Build as often as is wanted."""
    image = current = cold = None
    if wanted is not Build.NONE:
        with copied_checkout() as checkout:
            cache = warm_cache(checkout.with_name("cache"))
            print("build: an image, with everything it consists of in the caches …", end=" ", flush=True)
            image = build(checkout, cache, WARM_SECONDS)
            print("build: the same again …", end=" ", flush=True)
            current = build(checkout, cache, WARM_SECONDS)
    if wanted is Build.COLD:
        with copied_checkout() as checkout:
            print("build: with empty caches …", end=" ", flush=True)
            cold = build(checkout, checkout.with_name("cache"), COLD_SECONDS)
    return Builds(current, image, cold, recorded())


def recorded() -> dict[str, float]:
    """Return the seconds that components took when they were built, as far as the cache has them."""
    results = map(components.cached, components.image_components())
    return {result.component.name: float(result.data["seconds"]) for result in results if result}


@contextmanager
def copied_checkout() -> Iterator[Path]:
    """Copy what git knows of the checkout, changes included, beside an empty place for a cache."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as folder:
        target = Path(folder) / "checkout"
        shutil.copytree(ROOT / ".git", target / ".git", symlinks=True)
        listed = host.run(["git", "-C", ROOT, "ls-files", "-z", "-co", "--exclude-standard"], timeout=60)
        for name in filter(None, listed.split("\0")):
            source = ROOT / name
            if source.is_symlink() or source.is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name, follow_symlinks=False)
        yield target


def warm_cache(folder: Path) -> Path:
    """Make a cache that shares everything with the user's but finished images."""
    own = folder / host.cache().name
    own.mkdir(parents=True)
    for entry in host.cache().iterdir():
        if entry.name != FINISHED:
            (own / entry.name).symlink_to(entry)
    return folder


def build(checkout: Path, cache: Path, limit: float) -> float:
    """Run `make image`'s command in a checkout and return its seconds."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [sys.executable, "-m", "image.build"],
            cwd=checkout,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=limit,
        )
        seconds = time.monotonic() - started
        output.seek(0)
        if done.returncode:
            raise host.CommandError(f"the build failed:\n{output.read().decode(errors='replace')}")
    print(f"{seconds:.1f} s", flush=True)
    return round(seconds, 1)
