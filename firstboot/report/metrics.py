# SPDX-License-Identifier: Apache-2.0
"""The status in the text format that Prometheus scrapes (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from firstboot.report.status import Part, Phase, State, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


def render(status: Status) -> str:
    """Return all metrics of a status; every phase and state has a sample, so that alerts can name it."""
    build = {
        "version": status.image.version or "",
        "slot": status.image.slot or "",
        "kubernetes": status.kubernetes or "",
    }
    node = {"node": status.node.name, "role": status.node.role or ""}
    metrics = (
        _metric("build_info", "What runs here.", [(build, 1)]),
        _metric("node_info", "Who the node is.", [(node, 1)]),
        _metric("phase", "1 for the phase that the node is in.", _phases(status.phase)),
        _metric(
            "component_state", "1 for the state of each component.", _states("component", status.components)
        ),
        _metric("feature_state", "1 for the state of each feature.", _states("feature", status.features)),
        _metric("failures", "Number of failures in the status document.", [({}, len(status.failures))]),
        _metric(
            "milestone_seconds",
            "Seconds from the start of the kernel to each milestone.",
            [({"milestone": name}, seconds) for name, seconds in status.timings.items()],
        ),
        _metric(
            "certificate_expiry_timestamp_seconds",
            "End of validity of each certificate, in seconds since 1970.",
            [
                ({"certificate": name}, datetime.fromisoformat(end).timestamp())
                for name, end in status.certificates.items()
            ],
        ),
        _metric(
            "settings_version",
            "Version of the cluster's settings that the node follows.",
            [({}, status.settings.version)] if status.settings else [],
        ),
        _metric(
            "backup_timestamp_seconds",
            "When the newest of the node's own backups was taken, in seconds since 1970.",
            [({}, datetime.fromisoformat(status.backup).timestamp())] if status.backup else [],
        ),
        _metric(
            "ca_rotation_stage",
            "1 for the stage of a rotation of the cluster's CA that is under way.",
            [({"stage": status.rotation.stage}, 1)] if status.rotation else [],
        ),
        _metric(
            "ca_rotation_nodes_behind",
            "Number of nodes that are not through with that stage.",
            [({}, len(status.rotation.behind))]
            if status.rotation and status.rotation.behind is not None
            else [],
        ),
    )
    return "".join(line + "\n" for metric in metrics for line in metric)


def _metric(name: str, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    lines = [f"basalt_{name}{_labels(labels)} {value:.15g}" for labels, value in samples]
    if lines:
        yield f"# HELP basalt_{name} {meaning}"
        yield f"# TYPE basalt_{name} gauge"
        yield from lines


def _phases(phase: Phase) -> list[Sample]:
    return [({"phase": each.value}, each is phase) for each in Phase]


def _states(label: str, parts: Mapping[str, Part]) -> list[Sample]:
    return [
        ({label: name, "state": state.value}, part.state is state)
        for name, part in parts.items()
        for state in State
    ]


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
