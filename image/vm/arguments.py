# SPDX-License-Identifier: Apache-2.0
"""From the description of a machine to QEMU's argument list: frozen dataclasses and pure functions."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

CHANNEL_PORT = "basalt.test"
"""Name of the virtio-serial port that carries the tests' commands."""

JOURNAL_PORT = "basalt.journal"
"""Name of the port whose input is a file on the host: what is written there outlives any power cut."""

FW_CFG_PREFIX = "opt/io.systemd.credentials/"
FW_CFG_NAME_LIMIT = 55
"""QEMU refuses longer names of firmware configuration files."""


EMULATED_PROCESSOR = "Opteron_G3,-misalignsse,+ssse3,+sse4.1,+sse4.2"
"""The least with all that the image's programs use (x86-64-v2): what it lacks need not be emulated.

It is no Intel model, because Linux isolates the kernel's page tables on those (Meltdown): two changes of page
tables for each system call, after each of which QEMU forgets all that it had translated addresses to.
"""


class Accelerator(StrEnum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"

    @property
    def arguments(self) -> tuple[str, ...]:
        """QEMU's arguments for it, the processor's model included."""
        if self is Accelerator.KVM:
            return ("-accel", "kvm", "-cpu", "host")
        # Half a gigabyte of translated code is outgrown by Kubernetes.
        return ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", EMULATED_PROCESSOR)

    @property
    def slowness(self) -> float:
        """By how much time limits made for emulation can be divided, as a factor to multiply with."""
        return 0.3 if self is Accelerator.KVM else 1.0


class Carrier(StrEnum):
    """How a systemd credential travels from the host into the machine."""

    SMBIOS = "smbios"
    FW_CFG = "fw_cfg"


@dataclass(frozen=True)
class Credential:
    """A systemd credential for the machine's system manager."""

    name: str
    content: str
    carrier: Carrier = Carrier.SMBIOS

    @property
    def arguments(self) -> tuple[str, ...]:
        """QEMU's arguments that hand it over; raises ValueError for a name that fw_cfg cannot carry."""
        if self.carrier is Carrier.SMBIOS:
            encoded = base64.b64encode(self.content.encode()).decode()
            return ("-smbios", f"type=11,value=io.systemd.credential.binary:{self.name}={encoded}")
        name = FW_CFG_PREFIX + self.name
        if len(name) > FW_CFG_NAME_LIMIT:
            raise ValueError(f"{name}: longer than the {FW_CFG_NAME_LIMIT} characters that fw_cfg allows")
        return ("-fw_cfg", f"name={name},string={escape(self.content)}")


@dataclass(frozen=True)
class Forward:
    """A TCP port of the guest on 127.0.0.1 of the host; host 0: one that is free."""

    guest: int
    host: int = 0

    @property
    def option(self) -> str:
        """The part of -netdev user that makes it."""
        return f"hostfwd=tcp:127.0.0.1:{self.host}-:{self.guest}"


@dataclass(frozen=True)
class GuestForward:
    """An address inside the guest's network behind which a command of the host answers each connection."""

    address: str
    port: int
    command: str

    @property
    def option(self) -> str:
        """The part of -netdev user that makes it."""
        return f"guestfwd=tcp:{self.address}:{self.port}-cmd:{escape(self.command)}"


@dataclass(frozen=True)
class UserNetwork:
    """QEMU's own small network: DHCP, the forwards, and the outside only where open is set."""

    forwards: tuple[Forward, ...] = ()
    guest_forwards: tuple[GuestForward, ...] = ()
    open: bool = False
    dhcp: bool = True
    network: str | None = None
    host: str | None = None

    def netdev(self, name: str) -> str:
        """The value of -netdev."""
        options = ["user", f"id={name}"]
        if not self.open:
            options.append("restrict=on")
        if self.network:
            options.append(f"net={self.network}")
        if self.host:
            options.append(f"host={self.host}")
        options += [forward.option for forward in self.forwards]
        options += [forward.option for forward in self.guest_forwards]
        return ",".join(options)


@dataclass(frozen=True)
class SwitchNetwork:
    """A port of a network among machines: frames go over a unix socket to a switch on the host."""

    socket: Path

    def netdev(self, name: str) -> str:
        """The value of -netdev."""
        return f"stream,id={name},server=off,addr.type=unix,addr.path={escape(str(self.socket))}"


@dataclass(frozen=True)
class EmptyNetwork:
    """Nothing behind the card: it has a link, what it sends goes nowhere, and nothing of that is in a saved state.

    A hub without another port would not do: QEMU holds the frames back until somebody can take them, and the guest's
    kernel tells every five seconds that its card hangs.
    """

    def netdev(self, name: str) -> None:
        """No -netdev."""


Network = UserNetwork | SwitchNetwork | EmptyNetwork


@dataclass(frozen=True)
class Firmware:
    """UEFI: read-only code, and this machine's variables (qcow2, so that they can be saved)."""

    code: str
    variables: Path


@dataclass(frozen=True)
class Hardware:
    """A whole machine.

    memory:     MiB
    disk:       the system disk, qcow2
    extra:      read-only raw disks: seeds, test data
    console:    file that takes what the serial console prints
    monitor:    unix socket for QMP
    system:     fields of SMBIOS type 1 by QEMU's names, such as manufacturer; clouds are known by them
    channel:    unix socket for the tests' commands, if there is one
    journal:    file that takes what the guest writes to the journal port, if there is one
    wait:       do not start: the state comes by QMP migrate-incoming
    """

    name: str
    disk: Path
    firmware: Firmware
    console: Path
    monitor: Path
    accelerator: Accelerator = Accelerator.TCG
    memory: int = 3072
    cpus: int = 2
    extra: tuple[Path, ...] = ()
    networks: tuple[Network, ...] = field(default_factory=lambda: (UserNetwork(),))
    credentials: tuple[Credential, ...] = ()
    system: tuple[tuple[str, str], ...] = ()
    channel: Path | None = None
    journal: Path | None = None
    wait: bool = False


def escape(value: str) -> str:
    """Double the commas of a value inside one of QEMU's comma-separated options."""
    return value.replace(",", ",,")


def mac_address(machine: str, index: int) -> str:
    """A stable, locally administered address for one of a machine's network cards."""
    digest = hashlib.sha256(f"{machine}/{index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *digest[:3]))


def qemu_arguments(hardware: Hardware) -> list[str]:
    """The argument list without the program's name; the order decides the PCI addresses, so it is fixed."""
    return [
        *machine_arguments(hardware),
        *firmware_arguments(hardware.firmware),
        *disk_arguments(hardware.disk, hardware.extra),
        *network_arguments(hardware.name, hardware.networks),
        *serial_arguments(hardware.console, hardware.channel, hardware.journal),
        *monitor_arguments(hardware.monitor),
        *(argument for credential in hardware.credentials for argument in credential.arguments),
        *(("-incoming", "defer") if hardware.wait else ()),
    ]


def machine_arguments(hardware: Hardware) -> list[str]:
    """Board, processors, memory, clock, random numbers; no device that was not asked for."""
    return [
        *("-name", f"{hardware.name},debug-threads=on"),
        *("-machine", "q35"),
        *hardware.accelerator.arguments,
        *("-smp", str(hardware.cpus)),
        *("-m", str(hardware.memory)),
        # The guest's clock goes on where it stood when a saved machine is started again.
        *("-rtc", "base=utc,clock=vm"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *system_arguments(hardware.system),
        *("-device", "virtio-rng-pci"),
    ]


def system_arguments(system: tuple[tuple[str, str], ...]) -> list[str]:
    """What the machine calls itself, if anything is to be said."""
    fields = "".join(f",{name}={escape(value)}" for name, value in system)
    return ["-smbios", f"type=1{fields}"] if fields else []


def firmware_arguments(firmware: Firmware) -> list[str]:
    """UEFI flash: code and variables."""
    return [
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={escape(firmware.code)}"),
        *("-drive", f"if=pflash,format=qcow2,unit=1,file={escape(str(firmware.variables))}"),
    ]


def disk_arguments(disk: Path, extra: Sequence[Path]) -> list[str]:
    """The system disk on virtio-blk, then the read-only disks."""
    arguments = [
        *("-drive", f"if=none,id=system,format=qcow2,discard=unmap,file={escape(str(disk))}"),
        *("-device", "virtio-blk-pci,drive=system,bootindex=1,serial=system"),
    ]
    for index, path in enumerate(extra):
        arguments += [
            *("-drive", f"if=none,id=extra{index},format=raw,readonly=on,file={escape(str(path))}"),
            *("-device", f"virtio-blk-pci,drive=extra{index},serial=extra{index}"),
        ]
    return arguments


def network_arguments(machine: str, networks: Sequence[Network]) -> list[str]:
    """One virtio card a network."""
    arguments = []
    for index, network in enumerate(networks):
        name = f"net{index}"
        card = f"virtio-net-pci,id=card{index},mac={mac_address(machine, index)}"
        if (netdev := network.netdev(name)) is not None:
            arguments += ["-netdev", netdev]
            card += f",netdev={name}"
        arguments += ["-device", card]
    return arguments


def serial_arguments(console: Path, channel: Path | None, journal: Path | None) -> list[str]:
    """The serial console into a file, and the named ports that no getty claims."""
    arguments = [
        *("-chardev", f"file,id=console,append=on,path={escape(str(console))}"),
        *("-serial", "chardev:console"),
    ]
    if channel or journal:
        arguments += ["-device", "virtio-serial-pci"]
    if channel:
        arguments += [
            *("-chardev", f"socket,id=channel,server=on,wait=off,path={escape(str(channel))}"),
            *("-device", f"virtserialport,chardev=channel,name={CHANNEL_PORT}"),
        ]
    if journal:
        arguments += [
            *("-chardev", f"file,id=journal,append=on,path={escape(str(journal))}"),
            *("-device", f"virtserialport,chardev=journal,name={JOURNAL_PORT}"),
        ]
    return arguments


def monitor_arguments(monitor: Path) -> list[str]:
    """QMP on a unix socket."""
    return [
        *("-chardev", f"socket,id=monitor,server=on,wait=off,path={escape(str(monitor))}"),
        *("-mon", "chardev=monitor,mode=control"),
    ]
