# SPDX-License-Identifier: Apache-2.0
"""Clocks of machines: right, or two hours ahead."""

from __future__ import annotations

import time

from firstboot.codes import Code

from .machine import Machine

TWO_HOURS = 7200


def set_clock(machine: Machine, ahead: int = 0) -> None:
    """Set a machine's clock to that of the host, or ahead of it by some seconds."""
    machine.run(f"date --utc --set=@{time.time() + ahead:.3f}")


def agrees(machine: Machine) -> bool:
    """Whether a machine that answers tells of no clocks that are apart."""
    return machine.status() is not None and not machine.tells(Code.CLOCKS_APART)
