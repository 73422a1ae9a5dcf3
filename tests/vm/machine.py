# SPDX-License-Identifier: Apache-2.0
"""A machine under test: started, waited for, commanded, cut off from power, saved.

with Machine(Setup(document=CONTROL_PLANE), image) as machine:
    machine.wait_for_phase(Phase.READY)
    print(machine.kubectl("get", "nodes").stdout)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from firstboot.report.status import Status
from image.vm import disks, process, seed
from image.vm.arguments import Accelerator, Credential, Firmware, Forward, Hardware, Network, UserNetwork
from image.vm.place import ROOT
from image.vm.qmp import Monitor
from image.vm.status import fetch
from tests.node import Node, NodeFailed, Result

from . import artefacts
from .channel import Channel, credentials
from .console import Console
from .drives import Drive

STATUS_PORT, REST_PORT, KUBERNETES_PORT = 9180, 6400, 6443
FORWARDS = tuple(Forward(port) for port in (STATUS_PORT, REST_PORT, KUBERNETES_PORT))
CLOSED = UserNetwork(FORWARDS)

FOLDER = ROOT / "build" / "vm"

BOOT_SECONDS = 600.0
"""From power-on to the first answered command."""


@dataclass(frozen=True)
class Setup:
    """What makes a machine, apart from the image.

    document:    given as NoCloud user-data; None: no document that way
    credentials: besides those of the tests' channel
    extra:       read-only disks
    memory:      MiB
    disk:        size the system disk is grown to
    system:      what the machine calls itself: fields of SMBIOS type 1
    allowed:     console patterns this test expects although they are forbidden
    """

    name: str = "node-1"
    document: seed.Document | None = None
    credentials: tuple[Credential, ...] = ()
    extra: tuple[Drive, ...] = ()
    networks: tuple[Network, ...] = (CLOSED,)
    memory: int = 3072
    cpus: int = 2
    disk: str = "12G"
    system: tuple[tuple[str, str], ...] = ()
    allowed: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Text that is the same for setups whose saved machines can stand in for each other."""
        plain = (self.name, json.dumps(self.document, sort_keys=True), self.memory, self.cpus, self.disk)
        return repr((*plain, self.system, self.networks, self.credentials, self.extra))


@dataclass(frozen=True)
class Parts:
    """The files of a machine that is off: its disk, firmware variables and read-only disks."""

    disk: Path
    variables: Path
    extra: tuple[Path, ...]


class Machine(Node):
    """One machine; a context manager that leaves neither a process nor a file behind.

    Its files are kept in build/test-logs when the block ends with an exception.
    """

    def __init__(
        self,
        setup: Setup,
        image: Path,
        *,
        accelerator: Accelerator = Accelerator.TCG,
        parts: Callable[[Path], Parts] | None = None,
        memory: Path | None = None,
    ) -> None:
        """Describe a machine that boots the image, or one of other parts that goes on from a memory."""
        self.setup = setup
        self.name = setup.name
        self.image = image
        self.accelerator = accelerator
        self._make_parts = parts or self._new_parts
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ports: dict[int, int] = {}
        self._started = 0.0
        self._reporting = False

    def __enter__(self) -> Self:
        self.prepare()
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            artefacts.keep(self)
        self.kill()
        artefacts.forget(self)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def prepare(self) -> None:
        """Make the folder and disks; a unix socket's path is short, so sockets have a folder of their own."""
        sweep(FOLDER)
        self.folder = FOLDER / f"{self.name}.{uuid.uuid4().hex[:8]}.{os.getpid()}"
        self.folder.mkdir(parents=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="basalt-"))
        self.parts = self._make_parts(self.folder)
        self.console = Console(self.folder / "console.log", self.setup.allowed)
        artefacts.remember(self)

    def _new_parts(self, folder: Path) -> Parts:
        extra = [drive.make(folder, f"extra{index}") for index, drive in enumerate(self.setup.extra)]
        if self.setup.document is not None:
            text = seed.user_data(self.setup.document)
            extra.append(seed.nocloud_iso(folder / "seed", text, seed.Instance.named(self.name)))
        return Parts(
            disks.overlay(self.image, folder / "disk.qcow2", size=self.setup.disk),
            disks.firmware_variables(folder / "variables.qcow2"),
            tuple(extra),
        )

    @property
    def hardware(self) -> Hardware:
        """The machine as QEMU gets it."""
        return Hardware(
            name=self.name,
            disk=self.parts.disk,
            firmware=Firmware(disks.FIRMWARE_CODE, self.parts.variables),
            console=self.console.path,
            monitor=self._sockets / "monitor",
            channel=self._sockets / "channel",
            journal=self.folder / "journal",
            accelerator=self.accelerator,
            memory=self.setup.memory,
            system=self.setup.system,
            cpus=self.setup.cpus,
            extra=self.parts.extra,
            networks=self.setup.networks,
            credentials=(*credentials(), *self.setup.credentials),
            wait=self._memory is not None,
        )

    def start(self, *, run: bool = True) -> None:
        """Switch it on; with a memory, load that first and, with run, go on from there."""
        hardware = self.hardware
        (self.folder / "command.txt").write_text(process.repeat_command(hardware) + "\n")
        self._started = time.monotonic()
        self._process = process.start(hardware, self.folder / "qemu.log", tied=True)
        self._channel = Channel(self._sockets / "channel", self.watch)
        with self.monitor() as monitor:
            self._ports = monitor.forwards()
            if self._memory:
                monitor.restore(self._memory, run=run)
        self._memory = None

    def monitor(self) -> Monitor:
        """Open QEMU's monitor; close it again soon, there is only one at a time."""
        return Monitor(self._sockets / "monitor")

    @property
    def on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def age(self) -> float:
        """Seconds since it was switched on."""
        return time.monotonic() - self._started

    def port(self, guest: int) -> int:
        """Return the port on 127.0.0.1 that leads to a port of the machine."""
        return self._ports[guest]

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60,
        check: bool = True,
        stdin: bytes | str = b"",
    ) -> Result:
        """Run a command as root; see Channel.run."""
        return self.channel.run(command, timeout=timeout, check=check, stdin=stdin)

    @property
    def channel(self) -> Channel:
        """The way in for commands."""
        if self._channel is None:
            raise NodeFailed(f"{self.name} is off")
        return self._channel

    def status(self) -> Status | None:
        """Return the status document, or None while nobody answers."""
        return fetch(self.port(STATUS_PORT), timeout=10)

    def watch(self) -> None:
        """Raise NodeFailed if QEMU ended or the console shows what it never may."""
        if not self.on:
            code = self._process.returncode if self._process else None
            raise NodeFailed(
                f"{self.name}: QEMU ended ({code}): {process.tail(self.folder / 'qemu.log')}\n"
                + self.console.tail()
            )
        if not self._reporting and (offence := self.console.offence()):
            raise NodeFailed(f"{self.name}: the console says: {offence}\n{self.report()}")

    def wait_for_boot(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until commands are answered."""
        self.channel.wait(timeout)

    def report(self, status: Status | None = None) -> str:
        """Tell how the machine stands; what else the console says meanwhile must not cut that short."""
        self._reporting = True
        try:
            return super().report(status)
        finally:
            self._reporting = False

    def last_words(self) -> str:
        """Return the end of the console."""
        return f"--- console, {self.age:.0f} s after power-on\n{self.console.tail()}"

    def boot_id(self) -> str:
        """Return what is different after each start of the kernel."""
        return self.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def reboot(self, timeout: float = BOOT_SECONDS) -> None:
        """Restart it in good order and wait until commands are answered again."""
        before = self.boot_id()
        self.run("systemctl reboot --no-block")
        self.channel.wait(timeout, f"test $(cat /proc/sys/kernel/random/boot_id) != {before}")

    def shutdown(self, timeout: float = 300) -> None:
        """Press the power button and wait until it is off."""
        with self.monitor() as monitor:
            monitor.execute("system_powerdown")
        self.wait_for_power_off(timeout)

    def wait_for_power_off(self, timeout: float = 300) -> None:
        """Wait until it has switched itself off."""
        assert self._process
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NodeFailed(f"{self.name}: still on after {timeout:g} s\n{self.report()}") from None
        self.kill()

    def power_cut(self) -> None:
        """Take the power away: what the guest did not flush is lost, QEMU's caches included."""
        self.kill()
        self.console.skip()

    def kill(self) -> None:
        """End QEMU without asking."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._channel:
            self._channel.close()
            self._channel = None
        for path in self._sockets.glob("*"):
            path.unlink()

    def save(self, memory: Path) -> Parts:
        """Freeze the machine: its memory into a file, its disks as they are. It cannot go on here."""
        with self.monitor() as monitor:
            monitor.save(memory)
            monitor.quit()
        self.kill()
        return self.parts

    def relink(self, networks: tuple[Network, ...]) -> None:
        """Give the machine other networks before it starts; the cards stay the same."""
        self.setup = replace(self.setup, networks=networks)


def sweep(place: Path) -> None:
    """Remove the folders of machines whose process was killed before it could do so itself."""
    for path in place.glob("*.*.*"):
        if not Path("/proc", path.name.rpartition(".")[2]).exists():
            shutil.rmtree(path, ignore_errors=True)
