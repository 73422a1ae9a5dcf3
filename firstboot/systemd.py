# SPDX-License-Identifier: Apache-2.0
"""systemd over D-Bus: what units do, and starting them. Jobs are queued, never waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from firstboot.failure import BasaltError

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

NAME = "org.freedesktop.systemd1"
UNIT_INTERFACE = "org.freedesktop.systemd1.Unit"
MANAGER = "/org/freedesktop/systemd1"
RUNNING = ("active", "reloading", "activating")


@dataclass(frozen=True)
class Unit:
    """A service as systemd sees it: e.g. active ``active``, sub ``running`` or ``auto-restart``."""

    name: str
    active: str
    sub: str
    path: str

    @property
    def running(self) -> bool:
        """Whether it has a process or is about to have one."""
        return self.active in RUNNING

    @property
    def up(self) -> bool:
        """Whether it has started completely."""
        return self.active == "active"


class Systemd:
    """A connection to the system manager."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._main: dict[str, tuple[int, str]] = {}

    @classmethod
    async def connect(cls) -> Self:
        """Connect; raises BasaltError when there is no system bus."""
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus

        try:
            return cls(await MessageBus(bus_type=BusType.SYSTEM).connect())
        except OSError as error:
            raise BasaltError(f"systemd cannot be reached over D-Bus: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._bus.disconnect()

    async def units(self, names: Iterable[str]) -> dict[str, Unit]:
        """Return the state of services, by their name without ``.service``."""
        wanted = [f"{name}.service" for name in names]
        (rows,) = await self._call("ListUnitsByNames", "as", [wanted])
        return {row[0].removesuffix(".service"): Unit(row[0], row[3], row[4], row[6]) for row in rows}

    async def hold(self, names: Iterable[str]) -> None:
        """Keep services loaded while this connection lasts.

        systemd forgets a unit that does not run and nobody refers to, and would read its files anew at each question.
        """
        for name in names:
            await self._call("RefUnit", "s", [f"{name}.service"])

    async def main_pid(self, unit: Unit) -> int:
        """Return the PID of the unit's main process, 0 where there is none.

        systemd is asked again only when the process of the last answer has ended: a question costs both sides some
        milliseconds, a look into /proc next to none.
        """
        known = self._main.get(unit.name)
        if known and started_at(known[0]) == known[1]:
            return known[0]
        pid = int(await self._property(unit, "org.freedesktop.systemd1.Service", "MainPID"))
        # Before its start is complete a service may still change its main process.
        if pid and unit.up and (since := started_at(pid)):
            self._main[unit.name] = pid, since
        return pid

    async def unfit(self, unit: Unit) -> bool:
        """Whether a condition of the unit was not met when it was last to be started: it is not for this machine."""
        asked = await self._property(unit, UNIT_INTERFACE, "ConditionTimestampMonotonic")
        return bool(asked) and not await self._property(unit, UNIT_INTERFACE, "ConditionResult")

    async def start(self, name: str) -> None:
        """Queue a start."""
        await self._call("StartUnit", "ss", [f"{name}.service", "replace"])

    async def restart(self, name: str) -> None:
        """Queue a restart."""
        await self._call("RestartUnit", "ss", [f"{name}.service", "replace"])

    async def reload(self, name: str) -> None:
        """Have a service that runs read its configuration again."""
        await self._call("ReloadUnit", "ss", [f"{name}.service", "replace"])

    async def stop(self, name: str) -> None:
        """Queue a stop."""
        await self._call("StopUnit", "ss", [f"{name}.service", "replace"])

    async def power_off(self) -> None:
        """Queue an orderly shutdown, which nothing can call back."""
        # The manager's own PowerOff would end the machine at once, without stopping anything.
        await self._call("StartUnit", "ss", ["poweroff.target", "replace-irreversibly"])

    async def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a job ends: something has started or stopped."""
        from dbus_fast import Message

        await self._call("Subscribe", "", [])
        rule = f"type='signal',sender='{NAME}',path='{MANAGER}',member='JobRemoved'"
        await self._bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )

        def received(message: Any) -> None:
            if message.member == "JobRemoved":
                wake()

        self._bus.add_message_handler(received)

    async def _property(self, unit: Unit, interface: str, name: str) -> Any:
        (variant,) = await self._call(
            "Get", "ss", [interface, name], unit.path, "org.freedesktop.DBus.Properties"
        )
        return variant.value

    async def _call(
        self,
        member: str,
        signature: str,
        body: list[Any],
        path: str = MANAGER,
        interface: str = "org.freedesktop.systemd1.Manager",
    ) -> list[Any]:
        from dbus_fast import Message, MessageType

        reply = await self._bus.call(
            Message(
                destination=NAME,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )
        if reply is None or reply.message_type is MessageType.ERROR:
            reason = reply.body[0] if reply and reply.body else "no answer"
            raise BasaltError(f"systemd refuses {member} {body}: {reason}")
        return list(reply.body)


def started_at(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return when a process started, in clock ticks since boot; None when it is gone.

    Together with the PID it names one process.
    """
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def revision_of(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return the BASALT_REVISION a process was started with, None when it has none or is gone."""
    try:
        environment = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name == b"BASALT_REVISION":
            return value.decode()
    return None


def notify(state: str) -> None:
    """Tell systemd about this service, e.g. ``READY=1``; does nothing outside of a notify service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())
