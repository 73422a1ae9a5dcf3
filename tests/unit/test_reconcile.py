# SPDX-License-Identifier: Apache-2.0
"""One pass: order, needs, failures, and that nothing happens in a dry one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from firstboot.failure import BasaltError
from firstboot.kube import Client, KubeError
from firstboot.reconcile import Pass, converge, moved
from firstboot.steps.gates import Gate
from firstboot.steps.model import Finding, Machine, Verdicts
from firstboot.steps.units import Running, Stopped
from firstboot.systemd import Systemd, Unit
from tests.unit.test_plan import service


def machine(units: dict[str, Unit] | None = None, systemd: Any = None) -> Machine:
    return Machine(cast(Systemd, systemd), cast(Client, None), units or {})


@dataclass
class Work:
    """A step that is missing until applied."""

    name: str
    needs: tuple[str, ...] = ()
    action: str = "write"
    lasts: bool = False
    error: str | BasaltError = ""
    applied: list[str] = field(default_factory=list)

    async def check(self, machine: Machine) -> Finding | None:
        return None if self.applied else Finding(f"/{self.name}", self.action, "is missing")

    async def apply(self, machine: Machine) -> None:
        if isinstance(self.error, BasaltError):
            raise self.error
        if self.error:
            raise BasaltError(self.error, "Look at it.")
        self.applied.append(self.name)


def go(*steps: Work, dry: bool = False) -> Pass:
    return asyncio.run(converge(steps, machine(), dry=dry))


def test_a_pass_applies_in_order_and_the_next_has_nothing_to_do() -> None:
    first, second = Work("first"), Work("second", needs=("first",))
    assert not go(first, second).settled
    assert (first.applied, second.applied) == (["first"], ["second"])
    assert go(first, second).settled


def test_waiting_holds_up_those_in_need_and_nobody_else() -> None:
    gate, behind, beside = Work("gate", action="wait"), Work("behind", needs=("gate",)), Work("beside")
    result = go(gate, behind, beside)
    assert result.blocked == {"behind": "gate"}
    assert (gate.applied, behind.applied, beside.applied) == ([], [], ["beside"])


def test_what_has_to_open_by_itself_is_all_that_need_be_looked_at() -> None:
    gate, behind = Work("gate", action="wait"), Work("behind", needs=("gate",))
    assert go(gate, behind).waits == (gate,)
    assert go(gate, Work("beside")).waits == ()
    assert go(gate, Work("broken", error="no")).waits == ()
    assert not asyncio.run(moved([gate], machine()))
    gate.applied.append("by itself")
    assert asyncio.run(moved([gate], machine()))


def test_a_failure_is_told_and_holds_up_those_in_need() -> None:
    broken, behind, beside = Work("broken", error="no"), Work("behind", needs=("broken",)), Work("beside")
    result = go(broken, behind, beside)
    (failure,) = result.failures
    assert (failure.code, failure.path, failure.found) == ("step-failed", "broken", "no")
    assert failure.remedy == "Look at it."
    assert result.blocked == {"behind": "broken"}
    assert beside.applied


def test_no_answer_is_a_warning_when_the_next_pass_gets_none_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "firstboot.reconcile")
    verdicts = Verdicts()

    def told(error: BasaltError | str) -> list[str]:
        caplog.clear()
        step = Work("objects", error=error)
        result = asyncio.run(converge([step], replace(machine(), verdicts=verdicts)))
        assert bool(result.failures) == bool(error)
        return [record.levelname for record in caplog.records if "objects: PATCH" in record.message]

    missed, refused = KubeError("PATCH", "/api", 0, "no answer"), KubeError("PATCH", "/api", 403, "no")
    assert (told(missed), told(missed)) == (["INFO"], ["WARNING"])
    assert (told(""), told(missed)) == ([], ["INFO"])
    assert told(refused) == ["WARNING"]


def test_a_dry_pass_changes_nothing_and_goes_on_as_if_it_had() -> None:
    first, second = Work("first"), Work("second", needs=("first",))
    result = go(first, second, dry=True)
    assert [step.name for step, _ in result.findings] == ["first", "second"]
    assert not first.applied
    assert not second.applied


def test_a_lasting_verdict_is_not_sought_again_until_it_is_old() -> None:
    now = 0.0
    verdicts = Verdicts(seconds=5, clock=lambda: now)
    lasting, other = Work("lasting", lasts=True, applied=["x"]), Work("other", applied=["x"])
    passing = replace(machine(), verdicts=verdicts)
    asyncio.run(converge([lasting, other], passing))
    for step in (lasting, other):
        step.applied.clear()
    now = 4.9
    assert [step.name for step, _ in asyncio.run(converge([lasting, other], passing)).findings] == ["other"]
    now = 5.1
    assert [step.name for step, _ in asyncio.run(converge([lasting], passing)).findings] == ["lasting"]


class Jobs:
    """Records what systemd would be asked to do."""

    def __init__(self, pid: int = 0, *, fit: bool = True) -> None:
        self.asked: list[tuple[str, str]] = []
        self.pid = pid
        self.fit = fit

    async def start(self, name: str) -> None:
        self.asked.append(("start", name))

    async def restart(self, name: str) -> None:
        self.asked.append(("restart", name))

    async def stop(self, name: str) -> None:
        self.asked.append(("stop", name))

    async def main_pid(self, unit: Unit) -> int:
        return self.pid

    async def unfit(self, unit: Unit) -> bool:
        return not self.fit


def unit(active: str) -> dict[str, Unit]:
    return {"kubelet": Unit("kubelet.service", active, "running", "/path")}


@pytest.mark.parametrize(
    ("active", "revision", "job"),
    [
        ("inactive", None, ("start", "kubelet")),
        ("failed", None, ("start", "kubelet")),
        ("active", "another", ("restart", "kubelet")),
        ("active", "same", None),
        ("activating", "same", None),
        ("activating", None, None),
        ("activating", "another", ("restart", "kubelet")),
        ("active", None, ("restart", "kubelet")),
        ("deactivating", None, None),
    ],
)
def test_a_unit_runs_with_the_inputs_of_now(
    monkeypatch: pytest.MonkeyPatch, active: str, revision: str | None, job: tuple[str, str] | None
) -> None:
    kubelet = service("kubelet")
    found = kubelet.revision if revision == "same" else revision
    monkeypatch.setattr("firstboot.steps.units.revision_of", lambda pid: found)
    jobs = Jobs(pid=1)
    asyncio.run(converge([Running(kubelet)], machine(unit(active), jobs)))
    assert jobs.asked == ([job] if job else [])


def test_a_unit_that_its_own_conditions_keep_from_starting_is_not_asked_again() -> None:
    jobs = Jobs(fit=False)
    passed = asyncio.run(converge([Running(service("kubelet"))], machine(unit("inactive"), jobs)))
    assert jobs.asked == [] and passed.findings == ()


@pytest.mark.parametrize(("active", "stops"), [("active", True), ("activating", True), ("inactive", False)])
def test_a_unit_nobody_asks_for_is_stopped(active: str, stops: bool) -> None:
    jobs = Jobs()
    asyncio.run(converge([Stopped("kubelet")], machine(unit(active), jobs)))
    assert jobs.asked == ([("stop", "kubelet")] if stops else [])


@dataclass(frozen=True)
class Answer:
    """A probe with a fixed answer."""

    answer: str | None

    async def __call__(self, client: Client) -> str | None:
        return self.answer


@pytest.mark.parametrize(
    ("active", "answer", "reason"),
    [
        ("inactive", None, "kubelet.service is inactive"),
        ("active", "answers 500", "answers 500"),
        ("active", None, None),
    ],
)
def test_a_gate_opens_when_its_service_works(active: str, answer: str | None, reason: str | None) -> None:
    finding = asyncio.run(Gate("node", Answer(answer), unit="kubelet").check(machine(unit(active))))
    assert (finding.reason if finding else None) == reason


def test_a_pass_names_what_it_has_done() -> None:
    done, broken, waiting = Work("done"), Work("broken", error="no space"), Work("waiting", action="wait")
    assert go(done, broken, waiting).applied == {"done"}
    assert go(done).applied == frozenset()
