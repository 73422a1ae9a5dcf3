# SPDX-License-Identifier: Apache-2.0
"""`make run` and `make stop`: machines in the background, from the built image to Ready nodes.

    python3 -m image.run start [OPTIONS] [USER_DATA]   boot, or go on with the last machines, and wait until Ready
    python3 -m image.run stop                          press their power buttons

    --open                let the machines out, for pods whose images come from a registry
    --control-planes=N    a cluster of machines on a network of their own, by documents written here;
    --workers=N           one machine and USER_DATA unless there is more than one

A machine's network ends at this host unless it is open. build/run holds what belongs to the first machine, a folder
in it what belongs to each other one. The disks stay there when machines are off, so that the next start goes on with
the same nodes; a new image or other documents begin new ones and put the old folder aside as build/run.previous.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstboot.failure import BasaltError
from firstboot.report.status import Phase, Status
from image import host
from image.vm import accelerator, administration, disks, fleet, process, seed
from image.vm import switch as switching
from image.vm.arguments import Accelerator, Firmware, Forward, Hardware, Network, SwitchNetwork, UserNetwork
from image.vm.background import Background, write
from image.vm.fleet import Member
from image.vm.place import BUILD, ROOT, built_image, kernel
from image.vm.status import fetch
from image.vm.userdata import with_client_ca

FOLDER = BUILD / "run"
PREVIOUS = BUILD / "run.previous"
EXAMPLE = ROOT / "examples" / "control-plane.yaml"
DISK_SIZE = "20G"
STATUS, REST, KUBERNETES = 9180, 6400, 6443
PORTS = {STATUS: "status", REST: "REST API", KUBERNETES: "Kubernetes API"}
READY_SECONDS = 900.0
"""For one machine; a cluster has this much for each."""
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Wanted:
    """What is to run: the machines, the image's digest, and the network's way out."""

    members: tuple[Member, ...]
    image: str
    open: bool

    def folder(self, member: Member) -> Path:
        """Return where the machine's files are."""
        return FOLDER if member is self.members[0] else FOLDER / member.name

    def machine(self, member: Member) -> Background:
        """Return the machine, running or not."""
        return Background(self.folder(member))

    @property
    def several(self) -> bool:
        """Whether there is a network among them."""
        return len(self.members) > 1


def main(arguments: Sequence[str]) -> int:
    """Run the command line described above."""
    parser = argparse.ArgumentParser(prog="image.run", usage=__doc__)
    parser.add_argument("command", choices=("start", "stop"))
    parser.add_argument("user_data", nargs="?", type=Path)
    parser.add_argument("--open", action="store_true")
    parser.add_argument("--control-planes", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.command == "stop":
        return stop()
    return start(given.user_data, given.control_planes, given.workers, open=given.open)


def start(user_data: Path | None, control_planes: int, workers: int, *, open: bool) -> int:
    """Start the machines, or find them running, and show them once they are Ready."""
    host.require_root()
    image = built_image()
    members = _members(user_data, control_planes, workers)
    wanted = Wanted(members, disks.digest(image), open)
    if running := _running():
        _refuse_others(wanted, running)
        _say_running(wanted)
    else:
        _put_aside(wanted)
    _boot(wanted, image)
    statuses = _wait_ready(wanted)
    _show(wanted, statuses[0])
    return 0


def _members(user_data: Path | None, control_planes: int, workers: int) -> tuple[Member, ...]:
    if control_planes < 1 or workers < 0:
        raise BasaltError(
            "a cluster has one control plane at least", "CONTROL_PLANES=1, 3 or 5, WORKERS=0 or more."
        )
    if control_planes + workers == 1:
        path = user_data or EXAMPLE
        if not path.is_file():
            raise BasaltError(f"{path}: no such file", "USER_DATA names a #cloud-config file.")
        return fleet.alone(path.read_text())
    if user_data is not None:
        raise BasaltError(
            "a cluster's documents are written by this command",
            "Leave out USER_DATA, or boot one machine with it.",
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    authority = administration.make_credentials(FOLDER).authority.read_text()
    emulated = accelerator.detect(kernel()) is Accelerator.TCG
    return fleet.cluster(control_planes, workers, fleet.token(FOLDER), authority, emulated=emulated)


def _running() -> list[Background]:
    """Return the machines that run, whoever is wanted now."""
    folders = [FOLDER, *sorted(path.parent for path in FOLDER.glob("*/machine.json"))]
    return [machine for folder in folders if (machine := Background(folder)).running]


def _refuse_others(wanted: Wanted, running: Sequence[Background]) -> None:
    """Machines of one cluster and of another one, or of none, are not mixed."""
    documents = {wanted.folder(member): member.user_data for member in wanted.members}
    others = [
        machine
        for machine in running
        if machine.folder not in documents
        or (wanted.several and machine.state and machine.state.user_data != documents[machine.folder])
    ]
    if others:
        raise BasaltError(
            f"{len(running)} machines of another `make run` are running"
            if len(running) > 1
            else "the machine of another `make run` is running",
            "`make stop` first, or `make run` with the USER_DATA, CONTROL_PLANES and WORKERS that it was given.",
        )


def _say_running(wanted: Wanted) -> None:
    for member in wanted.members:
        state = wanted.machine(member).state
        if state is None or not wanted.machine(member).running:
            continue
        print(f"run: {member.name} is already running (process {state.pid})", flush=True)
        if state.image != wanted.image:
            print(
                "run: it runs an older image; `make stop` and `make run` start a new machine from the new one"
            )
        elif state.user_data != member.user_data:
            print(
                "run: it was made with other user-data; `make stop` and `make run` start a new one with this"
            )


def _put_aside(wanted: Wanted) -> None:
    """Keep the folder of machines that this image and these documents would not have made, out of the way."""
    states = [wanted.machine(member).state for member in wanted.members]
    if states[0] is None:
        # What a start that was interrupted left behind is no machine; keys and token are used again.
        for path in FOLDER.glob("*"):
            if path.suffix in (".qcow2", ".raw", ".iso"):
                path.unlink()
        return
    reasons = []
    if any(state and state.image != wanted.image for state in states):
        reasons.append("the image has changed")
    pairs = zip(states, wanted.members, strict=True)
    if any(state and state.user_data != member.user_data for state, member in pairs):
        reasons.append("the user-data has changed")
    if not reasons:
        print("run: going on with what ran last time", flush=True)
        return
    shutil.rmtree(PREVIOUS, ignore_errors=True)
    FOLDER.rename(PREVIOUS)
    FOLDER.mkdir()
    for name in ("client-ca.crt", "client-ca.key", "client.crt", "client.key", "token"):
        if (PREVIOUS / name).is_file():
            shutil.copy2(PREVIOUS / name, FOLDER / name)
    print(f"run: {' and '.join(reasons)}: all new; the old files are in {_shown(PREVIOUS)}")


def _boot(wanted: Wanted, image: Path) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = accelerator.detect(kernel())
    if chosen is Accelerator.TCG:
        print(
            "run: no usable KVM here: the processor is emulated, Ready takes a minute or two for each",
            flush=True,
        )
    sockets = (
        switching.background(FOLDER / "switch", [m.name for m in wanted.members]) if wanted.several else {}
    )
    for member in wanted.members:
        machine = wanted.machine(member)
        if machine.running:
            continue
        machine.folder.mkdir(exist_ok=True)
        for name in ("status.json", "kubeconfig"):
            (machine.folder / name).unlink(missing_ok=True)
        if not (machine.folder / "disk.qcow2").is_file():
            _make_disks(image, member, machine.folder)
        first = member is wanted.members[0]
        ports = choose_ports(prefer=first)
        outside = UserNetwork(tuple(Forward(guest, used) for guest, used in ports.items()), open=wanted.open)
        private = (SwitchNetwork(sockets[member.name]),) if wanted.several else ()
        hardware = _hardware(member, machine.folder, chosen, (*private, outside))
        state = machine.start(hardware, wanted.image, member.user_data, ports)
        print(
            f"run: {member.name} started (process {state.pid}), console in {_shown(machine.folder / 'console.log')}"
        )


def _make_disks(image: Path, member: Member, folder: Path) -> None:
    """Make a machine's disks; its image has a name here too, because a build removes the one in build/."""
    text = member.user_data
    if member.network is None:
        added = with_client_ca(text, administration.make_credentials(folder).authority.read_text())
        if added is None:
            print("run: the user-data names its own access.client-ca, so build/run/kubeconfig is not fetched")
        text = added or text
    seed.nocloud_iso(folder / "seed.iso", text, seed.Instance.named(member.name), member.network)
    write(folder / "user-data", text, 0o600)
    disks.firmware_variables(folder / "variables.qcow2")
    base = disks.link_or_copy(image, folder / "image.raw")
    disks.overlay(base, folder / "disk.qcow2", size=DISK_SIZE)


def _hardware(member: Member, folder: Path, chosen: Accelerator, networks: tuple[Network, ...]) -> Hardware:
    return Hardware(
        name=member.name,
        disk=folder / "disk.qcow2",
        firmware=Firmware(disks.FIRMWARE_CODE, folder / "variables.qcow2"),
        console=folder / "console.log",
        monitor=folder / "monitor",
        accelerator=chosen,
        memory=member.memory,
        extra=(folder / "seed.iso",),
        networks=networks,
    )


def choose_ports(*, prefer: bool = True) -> dict[int, int]:
    """Return a free port on 127.0.0.1 for each of the node's; prefer: the same number where it is free."""
    chosen = {}
    for guest, name in PORTS.items():
        chosen[guest] = (_free(guest) if prefer else 0) or _free(0)
        if prefer and chosen[guest] != guest:
            print(f"run: port {guest} is taken; the {name} is on 127.0.0.1:{chosen[guest]}", flush=True)
    return chosen


def _free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _wait_ready(wanted: Wanted) -> list[Status]:
    """Print each milestone as it is reached, until every node is Ready or one can get no further by itself."""
    end = time.monotonic() + READY_SECONDS * len(wanted.members)
    watched = [
        Watched(member.name if wanted.several else "", wanted.machine(member)) for member in wanted.members
    ]
    while time.monotonic() < end:
        statuses = [each.look() for each in watched]
        ready = [status for status in statuses if status and status.phase.ready]
        if len(ready) == len(watched):
            return ready
        time.sleep(POLL_SECONDS)
    late = next(each for each in watched if not each.ready)
    raise BasaltError(f"not Ready in time; last: {late.last or 'no status'}", late.hint)


class Watched:
    """A machine whose milestones are told as they come; name: put before each line, empty for the only one."""

    def __init__(self, name: str, machine: Background) -> None:
        self._name, self._machine = name, machine
        self._shown: set[str] = set()
        self._trouble: tuple[str, ...] = ()
        self.last = ""
        self.ready = False

    def look(self) -> Status | None:
        """Tell what is new. Raises BasaltError when the machine can get no further by itself."""
        state = self._machine.state
        if state is None or not self._machine.running:
            raise BasaltError(
                f"the machine ended\n{process.tail(self._machine.folder / 'console.log')}", self.hint
            )
        status = fetch(state.port(STATUS))
        if status is None:
            return None
        write(self._machine.folder / "status.json", json.dumps(status.to_dict(), indent=2) + "\n")
        self._milestones(status)
        if status.phase is Phase.DOCUMENT_INVALID:
            found = "\n".join(map(str, status.failures))
            raise BasaltError(
                f"the document was refused:\n{found}", "Correct it, then `make stop` and `make run`."
            )
        self.ready = status.phase.ready
        return status

    @property
    def hint(self) -> str:
        """Where to read on."""
        folder = self._machine.folder
        return f"Read {_shown(folder / 'console.log')} and {_shown(folder / 'qemu.log')}."

    def _milestones(self, status: Status) -> None:
        where = f"{self._name}  " if self._name else ""
        for name, seconds in sorted(status.timings.items(), key=lambda item: item[1]):
            if name not in self._shown:
                self._shown.add(name)
                print(f"run: {where}{seconds:7.1f} s  {name}", flush=True)
        self.last = "; ".join(status.unready)
        # What is wrong is told once, not again with every detail that changes.
        trouble = (status.phase, *(failure.code for failure in status.failures))
        if not status.phase.ready and (status.phase.bad or status.failures) and trouble != self._trouble:
            print(f"run: {where}{self.last}", flush=True)
        self._trouble = trouble


def _show(wanted: Wanted, status: Status) -> None:
    state = wanted.machine(wanted.members[0]).state
    assert state is not None
    who = f"{len(wanted.members)} nodes are" if wanted.several else f"{status.node.name} is"
    print(f"\n{who} Ready: Kubernetes {status.kubernetes}, image {status.image.version}")
    if _administers():
        server = f"https://127.0.0.1:{state.port(KUBERNETES)}"
        text = administration.kubeconfig(state.port(REST), server, administration.make_credentials(FOLDER))
        write(FOLDER / "kubeconfig", text, 0o600)
        print(f"\n{administration.node_table(text, state.port(KUBERNETES))}\n")
        print(f"kubeconfig   export KUBECONFIG={FOLDER / 'kubeconfig'}")
    for member in wanted.members:
        each = wanted.machine(member).state
        if each:
            name = f"   {member.name}" if wanted.several else ""
            print(f"status page  http://127.0.0.1:{each.port(STATUS)}/{name}")
    print(f"console      {FOLDER / 'console.log'}")
    print("stop it      make stop   (make run goes on with the same machines)")


def _administers() -> bool:
    """Whether the certificate made here is one that the document lets in."""
    authority = FOLDER / "client-ca.crt"
    return authority.read_text().splitlines()[1] in (FOLDER / "user-data").read_text()


def stop() -> int:
    """Press the power buttons; take the power away where that has no effect."""
    machines = _running()
    if not machines:
        print("stop: no machine is running")
    for machine in machines:
        machine.press_power_button()
    for machine in machines:
        print(f"stop: {_shown(machine.folder)} is shutting down", flush=True)
        if not machine.wait_off():
            print("stop: it was still on and its power has been taken away", flush=True)
    switching.end(FOLDER / "switch")
    if machines:
        print("stop: off; `make run` goes on with it")
    return 0


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
