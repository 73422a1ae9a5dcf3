# SPDX-License-Identifier: Apache-2.0
"""The agent's process: one round after another, until systemd ends it, and the doors by which it is reached."""

from __future__ import annotations

import asyncio
import logging
import signal

from firstboot import log as logs
from firstboot import paths, systemd
from firstboot.backup.places import Places
from firstboot.cluster.leaving import Leaver
from firstboot.codes import Code
from firstboot.doors import Doors
from firstboot.failure import BasaltError, Failure
from firstboot.intake import Intake
from firstboot.kube import Client
from firstboot.milestones import Milestones
from firstboot.pki.verdict import Ledger
from firstboot.plan import UNITS, Memory
from firstboot.services.timesync import UNIT as TIME_UNIT
from firstboot.steps.objects import Applied
from firstboot.systemd import Systemd

from .rounds import Agent
from .standing import Standing

log = logging.getLogger(__name__)

BUG = "This is a bug of Basalt; `basalt logs basalt` has the details."


async def run() -> None:
    """Run until SIGTERM. Services go on without the agent; the next one finds everything as it is."""
    milestones = Milestones(paths.RUN / "milestones.json")
    milestones.mark("agent")
    manager = await Systemd.connect()
    async with Client() as client:
        intake = Intake()
        memory = Memory(Ledger(paths.STATE / "certificates.json"), Applied(), intake.membership)
        standing = Standing(client, memory, Leaver(manager, client, paths.STATE / "leaving.json"))
        agent = Agent(manager, intake, milestones, standing)
        doors = Doors(agent.answers, agent.answers.for_nodes)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await _tidy(standing.places)
        await manager.hold((*UNITS, TIME_UNIT))
        await manager.on_change(standing.wake.set)
        systemd.notify("READY=1")
        rounds = asyncio.create_task(_rounds(agent, doors))
        await asyncio.wait({rounds, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        systemd.notify("STOPPING=1")
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await doors.close()
    manager.close()


async def _tidy(places: Places) -> None:
    """Remove what a power cut has left of backups; an agent that cannot has more important things to do."""
    try:
        await asyncio.to_thread(places.sweep)
    except BasaltError as error:
        log.warning("%s", error)


async def _rounds(agent: Agent, doors: Doors) -> None:
    """Make rounds for ever; a bug in one is shown and the next one is made all the same."""
    standing = agent.standing
    while True:
        standing.wake.clear()
        try:
            await agent.round()
            shut = await doors.follow(standing.course.node.config if standing.course else None)
            if shut:
                standing.add_failures(shut)
        except (BasaltError, OSError) as error:
            log.warning("%s", error)
            standing.add_failures([_internal(error, "It is tried again every few seconds.")])
        except Exception as error:
            log.exception("a round ended by a bug")
            standing.add_failures([_internal(error, BUG)])
        doors.show(standing.current)
        systemd.notify("WATCHDOG=1")
        await agent.pause()


def _internal(error: BaseException, remedy: str) -> Failure:
    return Failure(Code.AGENT_ERROR, "basalt", f"{type(error).__name__}: {error}", remedy)


def main() -> int:
    """Start the agent; the entry point of basalt.service."""
    logs.setup()
    asyncio.run(run())
    return 0
