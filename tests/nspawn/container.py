# SPDX-License-Identifier: Apache-2.0
"""A node in a container: started, waited for, commanded, killed.

with Container("node-1", address(1), document, wires, tree, folder) as node:
    node.wait_for_phase()
    print(node.kubectl("get", "nodes").stdout)

Its root is a folder of the host with the image's /usr in it, which outlives its end; /var may be a disk of its own, one
that can be full. It is told who it is as in a cloud: by a NoCloud seed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firstboot.failure import BasaltError
from firstboot.report.status import Status
from image.trees import with_tools
from image.vm import seed
from image.vm.process import tail
from tests.node import CommandFailed, Node, NodeFailed, Result, describe
from tests.torture.programs import Torture

from .wires import CARD, Wire

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LANG": "C.UTF-8"}
NSPAWN = {
    # The image is made for nothing else than one hierarchy of control groups.
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    # kube-proxy sets limits of the container's own connection tracking.
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
}
KERNEL = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
"""Settings of the kernel that the image makes and the kubelet insists on; a container's kernel is the host's."""
KUBELET = {"cgroups-per-qos": "false", "enforce-node-allocatable": "none"}
"""Arguments of a kubelet whose control groups have no controllers, as where the host has given them to version 1."""
GROUPS = Path("/sys/fs/cgroup/unified")
"""Where control groups are that a container's systemd makes, on a host that has given the controllers to version 1."""
BOOT_SECONDS = 60.0
END_SECONDS = 120.0


@dataclass(frozen=True)
class Tree:
    """The image's /usr: a partition of its disk."""

    disk: Path
    offset: int

    def mount(self, target: Path) -> str:
        """Return the shell command that mounts it."""
        return f"mount -t erofs -o ro,loop,offset={self.offset} {shlex.quote(str(self.disk))} {target}"


class Container(Node):
    """One node; a context manager that leaves neither a process nor a file behind."""

    def __init__(
        self,
        name: str,
        address: str,
        document: Mapping[str, Any],
        wire: Wire,
        tree: Tree,
        folder: Path,
        room: int | None = None,
        further: Sequence[str] = (),
    ) -> None:
        """Describe a node with this address and a document to which name and address are added.

        further: more addresses of its card, with prefix lengths
        room: MiB of a disk of its own; None: as much as the host has
        """
        self.name = name
        self.address = address
        self.root = folder / name
        self._document = document
        self._wire = wire
        self._tree = tree
        self._room = room
        self._further = tuple(further)
        self._disk = folder / f"{name}.disk"
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        self._furnish()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """End it and remove what it had."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)
        for folder, _, _ in os.walk(self._group, topdown=False):
            # A process that has just been killed may still be counted; an empty group more does no harm.
            with suppress(OSError):
                os.rmdir(folder)
        self._disk.unlink(missing_ok=True)

    def _furnish(self) -> None:
        for name in ("usr", "etc", "run", "proc", "sys", "dev", "tmp", "root", "var"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        text = seed.user_data(self.document)
        instance = seed.Instance.named(self.name)
        for name, content in seed.nocloud_files(text, instance, self._network_config()).items():
            write(self.root / "var/lib/cloud/seed/nocloud" / name, str(content))
        binds = []
        for key, value in KERNEL.items():
            write(self.root / "var/lib/kernel" / key, f"{value}\n")
            binds.append(f"BindReadOnlyPaths=/var/lib/kernel/{key}:/proc/sys/{key}\n")
        drop_in = self.root / "etc/systemd/system/kubelet.service.d/container.conf"
        write(drop_in, "".join(["[Service]\n", *binds]))
        if self._room:
            # No part of the disk is kept for root, who would still write where the datastore cannot.
            mkfs = ("mkfs.ext4", "-q", "-m", "0", "-d", self.root / "var", self._disk, f"{self._room}M")
            subprocess.run(with_tools(mkfs), check=True, capture_output=True, timeout=60)

    @property
    def document(self) -> dict[str, Any]:
        """The node's document."""
        node = {**self._document.get("node", {}), "name": self.name, "ip": self.address}
        services = {"kubelet": {"extra-args": KUBELET}, **self._document.get("services", {})}
        return {**self._document, "node": node, "services": services}

    def _network_config(self) -> str:
        card = {"match": {"macaddress": self._wire.mac}, "addresses": [f"{self.address}/24", *self._further]}
        return json.dumps({"version": 2, "ethernets": {CARD: card}})

    def start(self) -> None:
        """Switch it on and wait until commands can be given."""
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *(f"--machine={self.name}", f"--directory={self.root}"),
            f"--network-namespace-path={self._wire.path}",
            # As on a machine, where root is root; the kubelet reads the kernel's log.
            *("--capability=all", "--system-call-filter=@keyring bpf quotactl_fd", "--bind=/dev/kmsg"),
        ]
        disk = f"mount -o loop {self._disk} {self.root}/var && " if self._room else ""
        script = f"{self._tree.mount(self.root / 'usr')} && {disk}{self._apart()}exec {shlex.join(nspawn)}"
        with self._log.open("ab") as output:
            # It ends with the thread that called this, so that an aborted test leaves none behind.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *with_tools(["sh", "-ec", script])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **NSPAWN},
            )
        self._started = time.monotonic()
        self.wait_until("its systemd answers", self._answers, BOOT_SECONDS)

    def _apart(self) -> str:
        """Return the shell command that gives it a control group of its own.

        Otherwise all have the same one, and of two that end a service at once each removes the other's group.
        """
        if not (GROUPS / "cgroup.procs").exists():
            return ""
        return f"mkdir -p {self._group} && echo $$ > {self._group}/cgroup.procs && "

    @property
    def _group(self) -> Path:
        return GROUPS / f"basalt-{self._wire.namespace}"

    def _answers(self) -> bool:
        try:
            return "ing" in self.run("systemctl is-system-running", check=False, timeout=10).stdout
        except CommandFailed:
            return False

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def _first_process(self) -> int | None:
        """Return the container's process 1 by the host's number, once there is one."""
        assert self._process
        try:
            children = (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            )
            return next(
                (int(each) for each in children if Path(f"/proc/{each}/root/run/systemd").exists()), None
            )
        except OSError:
            return None

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60,
        check: bool = True,
        stdin: bytes | str = b"",
    ) -> Result:
        """Run shell text or an argument list as root; see Node.run."""
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        shown = command if isinstance(command, str) else shlex.join(command)
        first = self._first_process() if self.on else None
        if first is None:
            raise CommandFailed(f"{self.name} does not run yet, or no more: {shown}")
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        try:
            done = subprocess.run(
                ["nsenter", f"--target={first}", "--all", "env", "--chdir=/", "-i", *environment, *argv],
                input=stdin.encode() if isinstance(stdin, str) else stdin,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{self.name}: not finished after {timeout:g} s: {shown}") from None
        result = Result(shown, done.returncode, done.stdout, done.stderr)
        if check and not result.ok:
            raise CommandFailed(f"{self.name}: exit code {result.code}: {describe(result)}")
        return result

    def torture(self, datastore: str, program: Path, journal: Path, prefix: str) -> Torture:
        """Return writers for the node's datastore, which run on the host and outlive the node."""
        if datastore == "dqlite":
            endpoint = f"unix:///proc/{self._first_process()}/root/run/k8s-dqlite/kine.sock"
            return Torture(program, endpoint, journal, prefix)
        pki = self.root / "etc/kubernetes/pki"
        client = pki / "apiserver-etcd-client"
        options = ("--cacert", f"{pki}/etcd/ca.crt", "--cert", f"{client}.crt", "--key", f"{client}.key")
        return Torture(program, "https://127.0.0.1:2379", journal, prefix, options, self.beside)

    @property
    def beside(self) -> tuple[str, ...]:
        """What goes before a program of the host that is to have the node's network; it outlives the node."""
        return ("ip", "netns", "exec", self._wire.namespace)

    def status(self) -> Status | None:
        """Return the status document, or None while the agent does not answer."""
        try:
            answer = self.run("basalt status --json", check=False, timeout=20)
            return Status.from_dict(json.loads(answer.stdout)) if answer.stdout else None
        except (BasaltError, ValueError):
            return None

    def watch(self) -> None:
        """Raise NodeFailed if it ended."""
        if not self.on:
            code = self._process.returncode if self._process else None
            raise NodeFailed(f"{self.name}: ended ({code})\n{self.last_words()}")

    def last_words(self) -> str:
        """Return what nspawn and the container's systemd printed last."""
        age = time.monotonic() - self._started
        return f"--- output, {age:.0f} s after its start\n{tail(self._log)}"

    def shutdown(self) -> None:
        """End it in good order."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._wait()

    def wait_for_power_off(self, timeout: float = END_SECONDS) -> None:
        """Wait until it has ended by itself."""
        self._wait(timeout)

    def _wait(self, timeout: float = END_SECONDS) -> None:
        assert self._process
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NodeFailed(f"{self.name}: still on after {timeout:g} s\n{self.report()}") from None
        self._process = None

    def kill(self) -> None:
        """End all its processes at once; what the host's kernel has of its files stays."""
        if self._process:
            # All others end with process 1, and nspawn after them; nspawn's own end would leave them to go on.
            if first := self._first_process():
                os.kill(first, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait(END_SECONDS)
            self._process = None


def write(path: Path, text: str) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
