# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from firstboot.failure import Failure
from firstboot.report.screen import View, block, changes, duration, screen, status_url
from firstboot.report.status import Node, Part, Phase, State, Status
from tests.unit.support_web import BROKEN, DEGRADED, READY

LONG = Failure("bad-value", "cluster.pod-cidr", "found " + "much " * 40, "Write " + "less " * 40)
EVIL = "\033[2J\033]0;title\a\r\n\u202egnp.exe"
STATUSES = [Status(), READY, DEGRADED, replace(DEGRADED, failures=(LONG, BROKEN) * 6)]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (132, 43), (40, 10), (80, 12)])
def test_a_screen_has_its_size_and_the_phase(status: Status, width: int, height: int) -> None:
    lines = screen(status, View(width, height))
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert any(f"==== {status.phase.replace('-', ' ').upper()} " in line for line in lines)


@pytest.mark.parametrize("status", STATUSES)
def test_colour_changes_nothing_but_colour(status: Status) -> None:
    plain, coloured = (screen(status, View(colour=colour)) for colour in (False, True))
    assert plain != coloured
    assert [re.sub(r"\033\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain


def test_a_ready_node_at_a_glance() -> None:
    assert screen(READY, View(uptime=333)) == [
        " Basalt 1.2.3, slot A                                    node-1 - control plane",
        " ==== READY ====================================================================",
        "",
        " Everything the document asks for works.",
        "",
        " Status http://192.0.2.7:9180/ | API https://192.0.2.7:6400",
        " Also at 2001:db8::7 | Cluster settings version 3 | New CA: stage trust",
        " Kubernetes v1.37.2, document from cloud-init, up 5 min",
        "",
        " Components",
        "   k8s-dqlite                healthy     kube-apiserver            healthy",
        "   containerd                healthy     kubelet                   healthy",
        "   kube-controller-manager   healthy     kube-scheduler            healthy",
        "",
        " Features",
        "   network                   healthy     dns                       off",
        "",
        " Seconds since kernel start: agent 7.5, ready 41.2",
        *[""] * 6,
    ]


def test_failures_are_told_in_full_before_anything_else_is() -> None:
    text = "\n".join(screen(replace(DEGRADED, failures=(LONG,)), View()))
    words = " ".join(text.split())
    assert " ".join(LONG.found.split()) in words
    assert " ".join(LONG.remedy.split()) in words
    assert "! cluster.pod-cidr [bad-value]" in words


def test_failures_without_room_are_counted() -> None:
    text = "\n".join(screen(replace(DEGRADED, failures=(BROKEN,) * 20), View()))
    shown = text.count("! kubelet")
    assert 3 <= shown < 20
    assert f"and {20 - shown} more: see http://192.0.2.7:9180/" in text


@pytest.mark.parametrize("status", STATUSES)
def test_a_block_leaves_nothing_out(status: Status) -> None:
    words = " ".join(" ".join(block(status, View(height=5))).split())
    for failure in status.failures:
        assert " ".join(failure.found.split()) in words
        assert " ".join(failure.remedy.split()) in words
    assert all(name in words for name in [*status.components, *status.features, *status.timings])


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, Status(), ["basalt: phase waiting-for-document"]),
        (READY, READY, []),
        (
            Status(),
            READY,
            ["basalt: phase ready", "basalt: milestone agent 7.5 s", "basalt: milestone ready 41.2 s"],
        ),
        (
            READY,
            DEGRADED,
            [
                "basalt: phase degraded",
                "basalt: component kubelet failed: exit code 1",
                "basalt: failure component-failed at kubelet: exit code 1. See `basalt logs kubelet`.",
            ],
        ),
        (
            DEGRADED,
            READY,
            [
                "basalt: phase ready",
                "basalt: component kubelet healthy",
                "basalt: solved component-failed at kubelet",
            ],
        ),
        (
            DEGRADED,
            replace(DEGRADED, failures=(BROKEN, replace(BROKEN, path="", found="other."))),
            ["basalt: failure component-failed: other. See `basalt logs kubelet`."],
        ),
    ],
)
def test_each_change_is_one_line(before: Status | None, after: Status, lines: list[str]) -> None:
    assert changes(before, after) == lines


def test_a_change_of_phase_says_when() -> None:
    assert (
        changes(None, Status(), 12.34)[0] == "basalt: phase waiting-for-document (12.3 s after kernel start)"
    )


def test_nothing_from_outside_reaches_the_terminal_as_it_is() -> None:
    status = replace(
        READY,
        node=Node(EVIL, EVIL, (EVIL, EVIL)),
        kubernetes=EVIL,
        components={EVIL: Part(State.FAILED, EVIL)},
        timings={EVIL: 1.0},
        failures=(Failure(EVIL, EVIL, EVIL, EVIL),),
    )
    for line in [*screen(status, View()), *block(status, View()), *changes(None, status)]:
        assert line.isprintable(), line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("addresses", "url"),
    [
        ((), None),
        (("192.0.2.7",), "http://192.0.2.7:8080/"),
        (("2001:db8::7",), "http://[2001:db8::7]:8080/"),
    ],
)
def test_status_url(addresses: tuple[str, ...], url: str | None) -> None:
    assert status_url(Status(node=Node(addresses=addresses)), 8080) == url


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_explains_itself(phase: Phase) -> None:
    text = "\n".join(screen(replace(READY, phase=phase), View()))
    assert phase.meaning in text
