# SPDX-License-Identifier: Apache-2.0
"""One pass over a plan: what is not as it should be is made so, as far as its needs are met."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure
from firstboot.kube import KubeError
from firstboot.steps.model import Finding, Machine, Step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """What a pass has found.

    findings: steps that were not done, in order, with what they lacked
    blocked:  steps that were not looked at -> the need that was not met
    failures: steps that could not be checked or applied
    """

    findings: tuple[tuple[Step, Finding], ...]
    blocked: dict[str, str]
    failures: tuple[Failure, ...]

    @property
    def settled(self) -> bool:
        """Whether everything was as it should be."""
        return not (self.findings or self.blocked or self.failures)

    @property
    def applied(self) -> frozenset[str]:
        """Names of the steps that have done something."""
        failed = {failure.path for failure in self.failures}
        return frozenset(step.name for step, finding in self.findings if not finding.waits) - failed

    @property
    def waits(self) -> tuple[Step, ...]:
        """The steps that have to open by themselves before anything can be done; empty where something was done."""
        if self.failures or not all(finding.waits for _, finding in self.findings):
            return ()
        return tuple(step for step, _ in self.findings)


async def converge(steps: Iterable[Step], machine: Machine, *, dry: bool = False) -> Pass:
    """Check every step whose needs are met, and apply what is missing; with `dry`, only say what it would be.

    A step that fails holds up those that need it and nothing else; the next pass tries it again.
    """
    done: set[str] = set()
    findings: list[tuple[Step, Finding]] = []
    blocked: dict[str, str] = {}
    failures: list[Failure] = []
    for step in steps:
        unmet = next((need for need in step.needs if need not in done), None)
        if unmet is not None:
            blocked[step.name] = unmet
            continue
        if machine.verdicts.holds(step.name):
            done.add(step.name)
            continue
        try:
            finding = await step.check(machine)
            if finding is not None:
                findings.append((step, finding))
                if finding.waits:
                    continue
                if not dry:
                    log.info("%s: %s %s: %s", step.name, finding.action, finding.path, finding.reason)
                    await step.apply(machine)
            else:
                machine.verdicts.note(step)
        except BasaltError as error:
            log.log(_level(step, error, machine), "%s: %s", step.name, error)
            failures.append(_failure(step, error))
            continue
        done.add(step.name)
        machine.verdicts.unanswered.discard(step.name)
    return Pass(tuple(findings), blocked, tuple(failures))


async def moved(steps: Iterable[Step], machine: Machine) -> bool:
    """Whether one of the steps, all of which had to wait, has not to wait any more."""
    for step in steps:
        try:
            finding = await step.check(machine)
        except Exception:
            # The next pass meets it again and tells it.
            return True
        if finding is None or not finding.waits:
            return True
    return False


def _level(step: Step, error: BasaltError, machine: Machine) -> int:
    """Return how loud a failure is told: a busy API server answers the next time, and that is no warning."""
    unanswered = machine.verdicts.unanswered
    if not isinstance(error, KubeError) or error.status or step.name in unanswered:
        return logging.WARNING
    unanswered.add(step.name)
    return logging.INFO


def _failure(step: Step, error: BasaltError) -> Failure:
    hint = error.hint or "It is tried again by itself; `basalt logs basalt` shows each attempt."
    return Failure(Code.STEP_FAILED, step.name, str(error), hint)
