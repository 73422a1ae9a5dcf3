# SPDX-License-Identifier: Apache-2.0
"""Measures boots, memory, sizes, builds, clusters and features, and says whether the goals are met.

python3 -m tests.bench [run] [--pairs N] [--build none|warm|cold] [--clusters N] [--settle SECONDS]
python3 -m tests.bench boots       also sizes and builds, beside the last results of the rest; [--pairs N] [--build …]
python3 -m tests.bench clusters    only these, beside the last results of the rest; [--clusters N] [--settle SECONDS]
python3 -m tests.bench features    only these, beside the last results of the rest; [--settle SECONDS]
python3 -m tests.bench show        print the last results once more
python3 -m tests.bench docs        put them into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from image import host
from image.build import load_sizes
from image.vm import accelerator as detection
from image.vm import disks
from image.vm.place import BUILD, ROOT, built_image, kernel

from ..nspawn.host import built_tree, lacking
from . import boots, builds, claims, features, tables
from .builds import Build
from .clusters import rounds
from .results import FILE, Builds, Clusters, Host, Results, Side

PAGE = ROOT / "docs" / "benchmarks.md"


def main(args: Sequence[str]) -> int:
    """Run the command line described above."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "action", nargs="?", default="run", choices=("run", "boots", "clusters", "features", "show", "docs")
    )
    parser.add_argument("--pairs", type=int, default=2, help="boots of each side; 0: none")
    parser.add_argument("--build", type=Build, default=Build.WARM, choices=tuple(Build))
    parser.add_argument("--clusters", type=int, default=1, help="rounds of clusters in containers; 0: none")
    parser.add_argument("--settle", type=float, default=boots.SETTLE_SECONDS, help="before memory is read")
    options = parser.parse_args(args)
    match options.action:
        case "run":
            results = run_boots(known(), options.pairs, options.build, options.settle)
            results = run_clusters(results, options.clusters, options.settle)
            results = run_features(results, options.settle)
        case "boots":
            results = run_boots(known(), options.pairs, options.build, options.settle)
        case "clusters":
            results = run_clusters(known(), options.clusters, options.settle)
        case "features":
            results = run_features(known(), options.settle)
        case _:
            results = Results.load()
    if options.action == "docs":
        tables.write_into(PAGE, results)
        print(f"{PAGE.relative_to(ROOT)} has these results")
    else:
        print(f"\n{tables.render(results)}\n\nAll numbers: {FILE.relative_to(ROOT)}")
    return 0


def run_boots(results: Results, pairs: int, build: Build, settle: float) -> Results:
    """Measure boots, sizes and builds, keeping what there is after each boot; the results' others stay as they are."""
    host.require_root()
    image, found = disks.pinned(built_image()), detection.detect(kernel())
    results = replace(results, host=describe(found.value), sizes=load_sizes(BUILD), builds=Builds(), boots=())
    for boot in boots.pairs(image, found, pairs, settle):
        results = replace(results, boots=(*results.boots, boot))
        results.save()
    results = replace(results, builds=builds.measure(build))
    results.save()
    return results


def run_clusters(results: Results, count: int, settle: float) -> Results:
    """Measure clusters, keeping what there is after each; the results' others stay as they are."""
    host.require_root()
    if count and (reason := lacking()):
        print(f"no clusters: {reason}")
        return results
    clusters = Clusters(describe(""))
    for measured in rounds(built_tree(), count, settle) if count else ():
        clusters = replace(clusters, measured=(*clusters.measured, measured))
        results = replace(results, clusters=clusters)
        results.save()
    return results


def run_features(results: Results, settle: float) -> Results:
    """Measure features; the results' others stay as they are."""
    host.require_root()
    if reason := lacking():
        print(f"no features: {reason}")
        return results
    image, found = disks.pinned(built_image()), detection.detect(kernel())
    print("features in a container …", flush=True)
    measured = features.measure(built_tree(), describe(found.value), settle)
    replace(results, features=measured).save()
    print("volumes on a machine …", flush=True)
    results = replace(results, features=replace(measured, starts=claims.measure(image, found)))
    results.save()
    return results


def known() -> Results:
    """Return the last results, or none."""
    return Results.load() if FILE.exists() else Results(describe(""), load_sizes(BUILD))


def describe(accelerator: str) -> Host:
    """Return what one has to know of this host and of the guest to compare the numbers with others."""
    machine = boots.setup(Side.BASALT)
    return Host(
        processor=processor(),
        cpus=os.cpu_count() or 0,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        accelerator=accelerator,
        guest=f"{machine.cpus} processors, {machine.memory} MiB",
        version=kernel().name.removeprefix("basalt_").removesuffix(".efi"),
        commit=commit(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def processor() -> str:
    """Return the processor's name as the kernel has it."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def commit() -> str:
    """Return the checkout's commit, with a `+` when files differ from it."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    name = host.run([*git, "rev-parse", "--short", "HEAD"], timeout=60).strip()
    changed = host.run([*git, "status", "--porcelain", "--untracked-files=no"], timeout=60).strip()
    return f"{name}+" if changed else name


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
