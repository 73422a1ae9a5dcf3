# SPDX-License-Identifier: Apache-2.0
"""`make run` and `make stop`: one machine in the background, from the built image to a Ready node.

    python3 -m image.run start [--open] [USER_DATA]   boot, or go on with the last machine, and wait until Ready
    python3 -m image.run stop                         press its power button

The machine's network ends at this host; --open lets it out, for pods whose images come from a registry.

build/run holds what belongs to the machine. The disk stays there when it is off, so that the next start goes
on with the same node; a new image begins a new one and puts the old folder aside as build/run.previous.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from firstboot.failure import BasaltError
from firstboot.report.status import Phase, Status
from image import host
from image.vm import accelerator, administration, disks, process, seed
from image.vm.arguments import Accelerator, Firmware, Forward, Hardware, UserNetwork
from image.vm.place import BUILD, ROOT, built_image, kernel
from image.vm.qmp import Monitor, QmpError
from image.vm.status import fetch
from image.vm.userdata import with_client_ca

FOLDER = BUILD / "run"
PREVIOUS = BUILD / "run.previous"
EXAMPLE = ROOT / "examples" / "control-plane.yaml"
NAME = "node-1"
DISK_SIZE = "20G"
STATUS, REST, KUBERNETES = 9180, 6400, 6443
PORTS = {STATUS: "status", REST: "REST API", KUBERNETES: "Kubernetes API"}
CLOSED, OPEN = UserNetwork(), UserNetwork(open=True)
READY_SECONDS = 900.0
STOP_SECONDS = 120.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class State:
    """What is written down about the machine: process id, image, user-data, ports (guest to host)."""

    pid: int
    image: str
    user_data: str
    accelerator: str
    ports: dict[str, int]

    def port(self, guest: int) -> int:
        """Return the host's port for one of the guest's."""
        return self.ports[str(guest)]

    @property
    def running(self) -> bool:
        """Whether the process lives and is still the machine, not a stranger with the same number."""
        try:
            arguments = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False
        return os.fsencode(FOLDER / "disk.qcow2") in arguments


def load(path: Path) -> State | None:
    """Return what was written down, or None where there is no machine."""
    if not path.is_file():
        return None
    return State(**json.loads(path.read_text()))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.touch(mode)
    partial.chmod(mode)
    partial.write_text(text)
    partial.replace(path)


def main(arguments: Sequence[str]) -> int:
    """Run the command line described above."""
    match list(arguments):
        case ["start"]:
            return start(EXAMPLE, CLOSED)
        case ["start", "--open"]:
            return start(EXAMPLE, OPEN)
        case ["start", "--open", path]:
            return start(Path(path), OPEN)
        case ["start", path]:
            return start(Path(path), CLOSED)
        case ["stop"]:
            return stop()
        case _:
            print(__doc__, file=sys.stderr)
            return 2


def start(user_data: Path, network: UserNetwork) -> int:
    """Start the machine in a network, or find it running, and show it once it is Ready."""
    host.require_root()
    if not user_data.is_file():
        raise BasaltError(f"{user_data}: no such file", "USER_DATA names a #cloud-config file.")
    image = built_image()
    digest = disks.digest(image)
    state = load(FOLDER / "machine.json")
    if state and state.running:
        _say_running(state, digest, user_data)
    else:
        _put_aside(state, digest, user_data)
        state = _boot(image, digest, user_data, network)
    status = _wait_ready(state)
    _show(state, status)
    return 0


def _say_running(state: State, digest: str, user_data: Path) -> None:
    print(f"run: the machine is already running (process {state.pid})", flush=True)
    if state.image != digest:
        print("run: it runs an older image; `make stop` and `make run` start a new machine from the new one")
    elif state.user_data != user_data.read_text():
        print("run: it was made with other user-data; `make stop` and `make run` start a new one with this")


def _put_aside(state: State | None, digest: str, user_data: Path) -> None:
    """Keep the folder of a machine that this image and user-data would not have made, out of the way."""
    if state is None:
        # What a start that was interrupted left behind is no machine.
        shutil.rmtree(FOLDER, ignore_errors=True)
        return
    reasons = []
    if state.image != digest:
        reasons.append("the image has changed")
    if state.user_data != user_data.read_text():
        reasons.append("the user-data has changed")
    if not reasons:
        print("run: going on with the machine of last time", flush=True)
        return
    shutil.rmtree(PREVIOUS, ignore_errors=True)
    FOLDER.rename(PREVIOUS)
    print(f"run: {' and '.join(reasons)}: a new machine; the old one's files are in {_shown(PREVIOUS)}")


def _boot(image: Path, digest: str, user_data: Path, network: UserNetwork) -> State:
    FOLDER.mkdir(parents=True, exist_ok=True)
    credentials = administration.make_credentials(FOLDER)
    if not (FOLDER / "disk.qcow2").is_file():
        _make_disks(image, user_data.read_text(), credentials)
    for name in ("monitor", "status.json", "kubeconfig"):
        (FOLDER / name).unlink(missing_ok=True)
    ports = choose_ports()
    hardware = _hardware(accelerator.detect(kernel()), network, ports)
    if hardware.accelerator is Accelerator.TCG:
        print("run: no usable KVM here: the processor is emulated, Ready takes a minute or two", flush=True)
    write(FOLDER / "command.txt", process.repeat_command(hardware) + "\n")
    qemu = process.start(hardware, FOLDER / "qemu.log", tied=False)
    state = State(
        qemu.pid,
        digest,
        user_data.read_text(),
        hardware.accelerator.value,
        {str(guest): used for guest, used in ports.items()},
    )
    write(FOLDER / "machine.json", json.dumps(asdict(state), indent=2) + "\n")
    print(f"run: started (process {qemu.pid}), console in {_shown(FOLDER / 'console.log')}", flush=True)
    return state


def _make_disks(image: Path, text: str, credentials: administration.Credentials) -> None:
    """Make the machine's disks; its image has a name here too, because a build removes the one in build/."""
    added = with_client_ca(text, credentials.authority.read_text())
    if added is None:
        print("run: the user-data names its own access.client-ca, so build/run/kubeconfig is not fetched")
    seed.nocloud_iso(FOLDER / "seed.iso", added or text, seed.Instance.named(NAME))
    write(FOLDER / "user-data", added or text)
    disks.firmware_variables(FOLDER / "variables.qcow2")
    base = disks.link_or_copy(image, FOLDER / "image.raw")
    disks.overlay(base, FOLDER / "disk.qcow2", size=DISK_SIZE)


def _hardware(chosen: Accelerator, network: UserNetwork, ports: dict[int, int]) -> Hardware:
    forwards = tuple(Forward(guest, used) for guest, used in ports.items())
    return Hardware(
        name=NAME,
        disk=FOLDER / "disk.qcow2",
        firmware=Firmware(disks.FIRMWARE_CODE, FOLDER / "variables.qcow2"),
        console=FOLDER / "console.log",
        monitor=FOLDER / "monitor",
        accelerator=chosen,
        extra=(FOLDER / "seed.iso",),
        networks=(replace(network, forwards=forwards),),
    )


def choose_ports() -> dict[int, int]:
    """Return a free port on 127.0.0.1 for each of the node's, the same number where it is free."""
    chosen = {}
    for guest, name in PORTS.items():
        chosen[guest] = _free(guest) or _free(0)
        if chosen[guest] != guest:
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


def _wait_ready(state: State) -> Status:
    """Print each milestone as it is reached, until the node is Ready or can get no further by itself."""
    end = time.monotonic() + READY_SECONDS
    shown: set[str] = set()
    last = ""
    while time.monotonic() < end:
        if not state.running:
            raise BasaltError(f"the machine ended\n{process.tail(FOLDER / 'console.log')}", _logs_hint())
        status = fetch(state.port(STATUS))
        if status:
            write(FOLDER / "status.json", json.dumps(status.to_dict(), indent=2) + "\n")
            last = _milestones(status, shown, last)
            if status.phase.ready:
                return status
            if status.phase is Phase.DOCUMENT_INVALID:
                found = "\n".join(map(str, status.failures))
                raise BasaltError(f"the document was refused:\n{found}", _refused_hint())
        time.sleep(POLL_SECONDS)
    raise BasaltError(f"not Ready within {READY_SECONDS:.0f} s; last: {last or 'no status'}", _logs_hint())


def _milestones(status: Status, shown: set[str], last: str) -> str:
    for name, seconds in sorted(status.timings.items(), key=lambda item: item[1]):
        if name not in shown:
            shown.add(name)
            print(f"run: {seconds:7.1f} s  {name}", flush=True)
    now = "; ".join(status.unready)
    if not status.phase.ready and status.phase.bad and now != last:
        print(f"run: {now}", flush=True)
    return now


def _logs_hint() -> str:
    return f"Read {_shown(FOLDER / 'console.log')} and {_shown(FOLDER / 'qemu.log')}."


def _refused_hint() -> str:
    return "Correct the user-data, then `make stop` and `make run`."


def _show(state: State, status: Status) -> None:
    print(f"\n{status.node.name} is Ready: Kubernetes {status.kubernetes}, image {status.image.version}")
    if _administers():
        server = f"https://127.0.0.1:{state.port(KUBERNETES)}"
        text = administration.kubeconfig(state.port(REST), server, administration.make_credentials(FOLDER))
        write(FOLDER / "kubeconfig", text, 0o600)
        print(f"\n{administration.node_table(text, state.port(KUBERNETES))}\n")
        print(f"kubeconfig   export KUBECONFIG={FOLDER / 'kubeconfig'}")
    print(f"status page  http://127.0.0.1:{state.port(STATUS)}/")
    print(f"console      {FOLDER / 'console.log'}")
    print("stop it      make stop   (make run goes on with the same machine)")


def _administers() -> bool:
    """Whether the certificate made here is one that the document lets in."""
    authority = FOLDER / "client-ca.crt"
    return authority.read_text().splitlines()[1] in (FOLDER / "user-data").read_text()


def stop() -> int:
    """Press the power button; take the power away if that has no effect."""
    state = load(FOLDER / "machine.json")
    if not state or not state.running:
        print("stop: no machine is running")
        return 0
    print("stop: shutting the machine down", flush=True)
    with suppress(OSError, QmpError), Monitor(FOLDER / "monitor") as monitor:
        monitor.execute("system_powerdown")
    if not _wait_ended(state, STOP_SECONDS):
        print(f"stop: still on after {STOP_SECONDS:.0f} s, ending it", flush=True)
        with suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGKILL)
        _wait_ended(state, 10)
    print("stop: off; `make run` goes on with it")
    return 0


def _wait_ended(state: State, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while state.running:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
