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
from typing import Any, Self

from firstboot.failure import BasaltError
from firstboot.report.status import Phase, Status
from image.vm import disks, process, seed
from image.vm.arguments import Accelerator, Credential, Firmware, Forward, Hardware, Network, UserNetwork
from image.vm.place import ROOT
from image.vm.qmp import Monitor
from image.vm.status import fetch

from . import artefacts
from .channel import Channel, Result, credentials
from .console import Console
from .drives import Drive

STATUS_PORT, REST_PORT, KUBERNETES_PORT = 9180, 6400, 6443
FORWARDS = tuple(Forward(port) for port in (STATUS_PORT, REST_PORT, KUBERNETES_PORT))
CLOSED = UserNetwork(FORWARDS)
ADMIN_KUBECONFIG = "/etc/kubernetes/admin.kubeconfig"

FOLDER = ROOT / "build" / "vm"

READY_SECONDS = 1500.0
"""From power-on to Ready under emulation on a busy host; what has failed does not wait for it."""
BOOT_SECONDS = 600.0
"""From power-on to the first answered command."""
POLL_SECONDS = 1.0
UNITS_SECONDS = 10.0
"""Seconds between two looks at failed units while waiting: each costs the guest a process."""


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


class MachineFailed(BasaltError):
    """The machine did something that no test wants, or did not do what was waited for in time."""


@dataclass(frozen=True)
class Parts:
    """The files of a machine that is off: its disk, firmware variables and read-only disks."""

    disk: Path
    variables: Path
    extra: tuple[Path, ...]


class Machine:
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
        self.folder = FOLDER / f"{self.setup.name}.{uuid.uuid4().hex[:8]}.{os.getpid()}"
        self.folder.mkdir(parents=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="basalt-"))
        self.parts = self._make_parts(self.folder)
        self.console = Console(self.folder / "console.log", self.setup.allowed)
        artefacts.remember(self)

    def _new_parts(self, folder: Path) -> Parts:
        extra = [drive.make(folder, f"extra{index}") for index, drive in enumerate(self.setup.extra)]
        if self.setup.document is not None:
            text = seed.user_data(self.setup.document)
            extra.append(seed.nocloud_iso(folder / "seed", text, seed.Instance.named(self.setup.name)))
        return Parts(
            disks.overlay(self.image, folder / "disk.qcow2", size=self.setup.disk),
            disks.firmware_variables(folder / "variables.qcow2"),
            tuple(extra),
        )

    @property
    def hardware(self) -> Hardware:
        """The machine as QEMU gets it."""
        return Hardware(
            name=self.setup.name,
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
            raise MachineFailed(f"{self.setup.name} is off")
        return self._channel

    def kubectl(self, *arguments: str, timeout: float = 90, check: bool = True, stdin: str = "") -> Result:
        """Run kubectl on the machine as the cluster's administrator."""
        command = ["kubectl", f"--kubeconfig={ADMIN_KUBECONFIG}", *arguments]
        return self.run(command, timeout=timeout, check=check, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get … -o json` says."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def write(self, path: str, content: str | bytes, mode: str = "0644") -> None:
        """Write a file of the machine in one step, folders included."""
        script = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run(["sh", "-ec", script, "sh", path, mode], stdin=content)

    def status(self) -> Status | None:
        """Return the status document, or None while nobody answers."""
        return fetch(self.port(STATUS_PORT), timeout=10)

    def watch(self) -> None:
        """Raise MachineFailed if QEMU ended or the console shows what it never may."""
        if not self.on:
            code = self._process.returncode if self._process else None
            raise MachineFailed(
                f"{self.setup.name}: QEMU ended ({code}): {process.tail(self.folder / 'qemu.log')}\n"
                + self.console.tail()
            )
        if not self._reporting and (offence := self.console.offence()):
            raise MachineFailed(f"{self.setup.name}: the console says: {offence}\n{self.report()}")

    def wait_until(self, what: str, condition: Callable[[], object], timeout: float) -> None:
        """Look once a second whether a condition holds; fail at once if the machine does."""
        end = time.monotonic() + timeout
        while True:
            self.watch()
            if condition():
                return
            if time.monotonic() > end:
                raise MachineFailed(f"{self.setup.name}: not within {timeout:g} s: {what}\n{self.report()}")
            time.sleep(POLL_SECONDS)

    def wait_for_boot(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until commands are answered."""
        self.channel.wait(timeout)

    def wait_for_phase(
        self, phase: Phase = Phase.READY, timeout: float = READY_SECONDS, *, failed_units: bool = False
    ) -> Status:
        """Wait for a phase and return the status then.

        Fails at once when the document is refused though that is not what was waited for, when a unit failed
        (unless failed_units says that this may be), and on everything that watch() finds.
        """
        end = time.monotonic() + timeout
        look_at_units = time.monotonic() + UNITS_SECONDS
        while True:
            self.watch()
            status = self.status()
            if status and status.phase is phase:
                return status
            if status and status.phase is Phase.DOCUMENT_INVALID:
                raise MachineFailed(f"{self.setup.name}: the document was refused\n{self.report(status)}")
            now = time.monotonic()
            if status and not failed_units and now > look_at_units:
                self._refuse_failed_units()
                look_at_units = now + UNITS_SECONDS
            if now > end:
                late = f"{self.setup.name}: not {phase} within {timeout:g} s"
                raise MachineFailed(f"{late}\n{self.report(status)}")
            time.sleep(POLL_SECONDS)

    def failed_units(self) -> list[str]:
        """Return the names of units that failed."""
        lines = self.run("systemctl list-units --state=failed --plain --no-legend", timeout=60).stdout
        return [line.split()[0] for line in lines.splitlines()]

    def _refuse_failed_units(self) -> None:
        if failed := self.failed_units():
            raise MachineFailed(f"{self.setup.name}: failed: {', '.join(failed)}\n{self.report()}")

    def report(self, status: Status | None = None) -> str:
        """Tell how the machine stands, for an error: status, failed units, journal, console."""
        # What else the console says meanwhile must not cut the report short.
        self._reporting = True
        try:
            return self._report(status)
        finally:
            self._reporting = False

    def _report(self, status: Status | None) -> str:
        lines = [f"--- {self.setup.name}, {self.age:.0f} s after power-on"]
        status = status or self._quietly(self.status)
        lines += status.unready if status else ["no status document"]
        for title, command in (
            ("failed units", "systemctl list-units --state=failed,auto-restart --plain --no-legend"),
            ("journal", "journalctl --no-pager -b -p warning -n 25 -o short-monotonic"),
        ):
            lines += [f"--- {title}", self._output(command)]
        return "\n".join([*lines, "--- console", self.console.tail()])

    def _output(self, command: str) -> str:
        result = self._quietly(lambda: self.channel.run(command, timeout=20, check=False))
        return str(result.stdout.rstrip()) if result else "(no answer)"

    def _quietly(self, look: Callable[[], Any]) -> Any:
        try:
            return look() if self.on else None
        except BasaltError:
            return None

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
            raise MachineFailed(f"{self.setup.name}: still on after {timeout:g} s\n{self.report()}") from None
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
