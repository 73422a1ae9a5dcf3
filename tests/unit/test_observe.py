# SPDX-License-Identifier: Apache-2.0
"""States of parts over time, and the phase they add up to."""

from __future__ import annotations

import asyncio

import pytest

from firstboot.codes import Code
from firstboot.features.model import Feature
from firstboot.observe import LACK_PATIENCE, PATIENCE, Observer, feature_part, phase
from firstboot.probes import Lack
from firstboot.report.status import Part, Phase, State
from tests.unit.test_plan import service
from tests.unit.test_reconcile import Answer, machine, unit


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def look(observer: Observer, active: str, answer: str | None) -> Part:
    return asyncio.run(observer.part(machine(unit(active)), "kubelet", Answer(answer)))


def test_a_part_starts_works_and_degrades() -> None:
    observer = Observer(Clock())
    assert look(observer, "inactive", None).state is State.STARTING
    assert look(observer, "activating", None).state is State.STARTING
    assert look(observer, "active", "answers 500: no").state is State.STARTING
    assert look(observer, "active", None).state is State.HEALTHY
    assert look(observer, "active", "answers 500: no") == Part(State.DEGRADED, "answers 500: no")
    assert look(observer, "failed", None) == Part(State.DEGRADED, "kubelet.service is failed")


def test_a_part_that_never_worked_fails_in_the_end() -> None:
    clock = Clock()
    observer = Observer(clock)
    assert look(observer, "activating", None).state is State.STARTING
    clock.now = PATIENCE + 1
    assert look(observer, "activating", None).state is State.FAILED


def test_a_part_that_lacks_something_from_outside_is_degraded_and_never_failed() -> None:
    clock = Clock()
    observer = Observer(clock)
    lack = Lack("no BGP session with 192.0.2.1: active")
    clock.now = 100
    assert look(observer, "active", lack) == Part(State.STARTING, lack)
    clock.now = 100 + LACK_PATIENCE
    part = look(observer, "active", lack)
    assert part == Part(State.DEGRADED, lack) and observer.lacking
    (failure,) = observer.failures({"kubelet": part})
    assert (failure.code, failure.found) == (Code.COMPONENT_DEGRADED, lack)
    assert "started again" not in failure.remedy and "basalt logs kubelet" in failure.remedy
    clock.now = 100 + LACK_PATIENCE + PATIENCE
    assert look(observer, "active", lack).state is State.DEGRADED
    assert look(observer, "active", None).state is State.HEALTHY
    part = look(observer, "failed", lack)
    assert "started again" in observer.failures({"kubelet": part})[0].remedy


def test_a_part_that_was_not_wanted_meanwhile_starts_anew() -> None:
    observer = Observer(Clock())
    look(observer, "active", None)
    observer.forget([])
    assert look(observer, "activating", None).state is State.STARTING


STARTING, HEALTHY, DEGRADED, FAILED, OFF = (
    Part(state) for state in (State.STARTING, State.HEALTHY, State.DEGRADED, State.FAILED, State.OFF)
)


@pytest.mark.parametrize(
    ("parts", "was_ready", "expected"),
    [
        ([HEALTHY, OFF], False, Phase.READY),
        ([HEALTHY, STARTING], False, Phase.STARTING),
        ([HEALTHY, STARTING], True, Phase.DEGRADED),
        ([HEALTHY, FAILED], False, Phase.DEGRADED),
        ([HEALTHY, DEGRADED], True, Phase.DEGRADED),
        ([HEALTHY, DEGRADED], False, Phase.STARTING),
    ],
)
def test_the_phase(parts: list[Part], was_ready: bool, expected: Phase) -> None:
    assert phase(parts, was_ready) is expected


def test_a_node_that_waits_for_others_is_degraded_before_it_was_ever_ready() -> None:
    assert phase([HEALTHY, DEGRADED], was_ready=False, lacking=True) is Phase.DEGRADED
    assert phase([HEALTHY, OFF], was_ready=False, lacking=True) is Phase.READY


def test_a_feature_is_as_good_as_its_worst_service() -> None:
    feature = Feature("network", (service("flanneld"), service("kube-proxy")))
    parts = {"flanneld": Part(State.STARTING, "slow"), "kube-proxy": Part(State.DEGRADED, "gone")}
    assert feature_part(feature, parts) == Part(State.DEGRADED, "kube-proxy: gone")
    assert feature_part(feature, {"flanneld": HEALTHY, "kube-proxy": HEALTHY}) == HEALTHY
    assert feature_part(Feature("network"), {}) == OFF


def test_only_bad_parts_become_failures() -> None:
    parts = {"kubelet": Part(State.DEGRADED, "gone"), "containerd": STARTING}
    (failure,) = Observer().failures(parts)
    assert (failure.path, failure.found) == ("kubelet", "gone")
    assert "basalt logs kubelet" in failure.remedy
