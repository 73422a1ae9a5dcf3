# SPDX-License-Identifier: Apache-2.0
"""Results for people, for a terminal and for docs/benchmarks.md alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from image.artefacts import LIMIT, MB

from . import cluster_tables, feature_tables
from .markdown import spread, table
from .memory import Use
from .results import Boot, Builds, Host, Results, Side

MIB = 1 << 20
USED_LIMIT = 771 * MIB
"""What kubeadm's control plane uses on the same kind of machine with neither DNS nor a pod network."""
DISTURBED = 0.1
"""Share of the host's processors used by others from which on a boot is slower for it than any change makes it."""
MILESTONES = ("api ready", "node Ready", "pod running")
"""Those that must not come later than by hand."""
BEGIN, END = "<!-- results: python3 -m tests.bench docs -->", "<!-- end of results -->"
CLUSTERS_BEGIN, CLUSTERS_END = "<!-- clusters: python3 -m tests.bench docs -->", "<!-- end of clusters -->"
FEATURES_BEGIN, FEATURES_END = "<!-- features: python3 -m tests.bench docs -->", "<!-- end of features -->"


@dataclass(frozen=True)
class Goal:
    """Something that is to be reached, and how far it was."""

    what: str
    found: str
    met: bool

    def row(self) -> list[str]:
        """Return its line of the table."""
        return [self.what, self.found, "yes" if self.met else "**no**"]


def goals(results: Results) -> list[Goal]:
    """Return the goals that these results can tell something about."""
    found = []
    if results.ratios(MILESTONES[0]):
        found = [_not_slower(results, milestone) for milestone in MILESTONES]
        used = results.used(Side.BASALT)
        what = f"memory in use when idle, at most {USED_LIMIT // MIB} MiB"
        found.append(Goal(what, f"{used / MIB:.0f} MiB", used <= USED_LIMIT))
    total = results.sizes.usr + results.sizes.uki
    found.append(
        Goal(
            f"/usr and UKI, at most {LIMIT // MB} MB",
            f"{results.sizes.usr / MB:.0f} + {results.sizes.uki / MB:.0f} = {total / MB:.0f} MB",
            total <= LIMIT,
        ),
    )
    return found


def _not_slower(results: Results, milestone: str) -> Goal:
    ratio = median(results.ratios(milestone))
    return Goal(f"{milestone} not later than by hand", f"{ratio:.2f} times", ratio <= 1)


def render(results: Results) -> str:
    """Return everything that was measured."""
    return "\n\n".join((*_parts(results), *_cluster_parts(results), *_feature_parts(results)))


def _origin(host: Host) -> str:
    return (
        f"Basalt {host.version} (commit {host.commit}) on {host.date}. Host: {host.cpus} × {host.processor}, "
        f"{host.memory / (1 << 30):.0f} GiB."
    )


def _cluster_parts(results: Results) -> Iterator[str]:
    if results.clusters:
        yield _origin(results.clusters.host)
        yield from cluster_tables.parts(results.clusters)


def _feature_parts(results: Results) -> Iterator[str]:
    if results.features:
        yield _origin(results.features.host)
        yield from feature_tables.parts(results.features)


def _parts(results: Results) -> Iterator[str]:
    if not results.boots and results.builds == Builds():
        return
    yield f"{_origin(results.host)} Guest: {results.host.guest}, {results.host.accelerator.upper()}."
    yield table(["goal", "found", "met"], [goal.row() for goal in goals(results)])
    if any(boot.others > DISTURBED for boot in results.boots):
        yield "**The host had other things to do meanwhile: these times say little.**"
    if results.ratios(MILESTONES[0]):
        yield table(["seconds since the kernel started", *_BOTH, "ratio"], _boot_rows(results))
        yield table(["MiB when idle", *_BOTH], _memory_rows(results))
        yield table(["MiB by service: anonymous / PSS / charged", *_BOTH], _service_rows(results))
    yield table(["build", "seconds"], _build_rows(results.builds))


_BOTH = ["Basalt", "by hand"]


def _boot_rows(results: Results) -> Iterator[list[str]]:
    names = dict.fromkeys(name for boot in results.boots for name in boot.seconds)
    for name in sorted(names, key=lambda name: median(boot.seconds[name] for boot in results.boots)):
        cells = [_spread(results, side, lambda boot, name=name: boot.seconds[name]) for side in Side]  # type: ignore[misc]
        ratios = results.ratios(name)
        yield [name, *cells, spread(ratios, 2)]
    yield [
        "firmware and boot loader before",
        *(_spread(results, side, lambda boot: boot.firmware) for side in Side),
        "",
    ]
    yield [
        "percent of the host used by others",
        *(_spread(results, side, lambda boot: boot.others * 100) for side in Side),
        "",
    ]


def _spread(results: Results, side: Side, value: Callable[[Boot], float]) -> str:
    return spread([value(boot) for boot in results.of(side)], 1)


def _memory_rows(results: Results) -> Iterator[list[str]]:
    yield ["used", *(f"{results.used(side) / MIB:.0f}" for side in Side)]
    for name in ("available", "total"):
        cells = (median(getattr(boot.memory, name) for boot in results.of(side)) for side in Side)
        yield [name, *(f"{cell / MIB:.0f}" for cell in cells)]


def _service_rows(results: Results) -> Iterator[list[str]]:
    last = {side: results.of(side)[-1].memory.services for side in Side}
    names = {name for services in last.values() for name in services}

    def weight(name: str) -> int:
        return -max(services.get(name, Use()).anon for services in last.values())

    for name in sorted(names, key=weight):
        yield [name, *(_use(last[side].get(name)) for side in Side)]
    yield ["sum", *(_use(sum(last[side].values(), Use())) for side in Side)]


def _use(use: Use | None) -> str:
    return f"{use.anon / MIB:.0f} / {use.pss / MIB:.0f} / {use.current / MIB:.0f}" if use else "–"


def _build_rows(builds: Builds) -> Iterator[list[str]]:
    for what, seconds in (
        ("`make image`, nothing changed", builds.current),
        ("`make image`, all in the caches but the image", builds.image),
        ("`make image`, empty caches", builds.cold),
    ):
        yield [what, "not measured" if seconds is None else f"{seconds:.0f}"]
    names = ", ".join(f"{name} {seconds:.0f}" for name, seconds in builds.components.items())
    total = sum(builds.components.values())
    yield [f"components, when they were last built: {names}", f"{total:.0f}"]


def write_into(page: Path, results: Results) -> None:
    """Replace what stands between the marks of a page, but leave what these results tell nothing about."""
    text = page.read_text()
    for begin, end, parts in (
        (BEGIN, END, tuple(_parts(results))),
        (CLUSTERS_BEGIN, CLUSTERS_END, tuple(_cluster_parts(results))),
        (FEATURES_BEGIN, FEATURES_END, tuple(_feature_parts(results))),
    ):
        if not parts:
            continue
        before, _, rest = text.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"{page}: no {begin} … {end}")
        text = "\n".join((f"{before}{begin}", "\n\n".join(parts), f"{end}{after}"))
    page.write_text(text)
