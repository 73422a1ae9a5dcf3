# SPDX-License-Identifier: Apache-2.0
"""CPU time of both datastores under a real API server: ``python3 -m tests.torture.apiserver [STORE...]``.

An API server starts on an empty store, then a controller manager joins it, and then nothing happens for a minute.
Printed are the seconds of processor time the store and the API server used until /readyz said 200, and while idle
per cent of one core, and how often threads were put to sleep: under emulation that costs more than what they do.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image import components

from .certificates import token_key
from .programs import Programs, built_programs, component
from .stores import STORES, free_port, wait_until

ROUNDS = 3
SETTLE_SECONDS = 25
IDLE_SECONDS = 60
TOKEN = "measured"
USER = f"{TOKEN},measure,1,system:masters\n"
# The certificate the API server makes for itself is of no authority.
UNVERIFIED = ssl._create_unverified_context()
PROCESSOR_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a process used since its start: seconds of processor time, switches to another thread or to none."""

    seconds: float
    switches: int

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.seconds - other.seconds, self.switches - other.switches)


def usage(process: subprocess.Popen[bytes]) -> Usage:
    """Return what a process has used so far, with all its threads that still are."""
    folder = Path(f"/proc/{process.pid}")
    fields = (folder / "stat").read_text().rpartition(") ")[2].split()
    switches = 0
    for task in (folder / "task").iterdir():
        lines = (task / "status").read_text().splitlines()
        switches += sum(int(line.split()[1]) for line in lines if "voluntary_ctxt_switches" in line)
    return Usage((int(fields[11]) + int(fields[12])) / PROCESSOR_TICKS, switches)


@contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the measured one."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def apiserver_argv(program: Path, folder: Path, endpoint: str, port: int) -> list[str]:
    """Return an API server's command: as on a node, but for its users."""
    tokens = folder / "tokens"
    tokens.write_text(USER)
    return [
        str(program / "kube-apiserver"),
        f"--etcd-servers={endpoint}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        # The address would be the loopback's, which is refused as an endpoint of a service.
        "--endpoint-reconciler-type=none",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-cluster-ip-range=10.152.183.0/24",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={folder / 'sa.key'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--profiling=false",
    ]


def controller_argv(program: Path, folder: Path, port: int) -> list[str]:
    """Return a controller manager's command."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: it, cluster: {{server: "https://127.0.0.1:{port}", insecure-skip-tls-verify: true}}}}]
users: [{{name: it, user: {{token: {TOKEN}}}}}]
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
current-context: it
"""
    )
    return [
        str(program / "kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--secure-port={free_port('127.0.0.1')}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / 'certificates'}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={folder / 'sa.key'}",
        "--profiling=false",
    ]


def is_ready(port: int) -> bool:
    """Ask the API server whether it is ready."""
    request = urllib.request.Request(f"https://127.0.0.1:{port}/readyz")
    request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request, timeout=5, context=UNVERIFIED) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ready_or_ended(apiserver: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether waiting is over."""
    return apiserver.poll() is not None or is_ready(port)


def measure(name: str, programs: Programs, kubernetes: Path) -> None:
    """Start everything on an empty folder and print one line of the table."""
    folder = Path(tempfile.mkdtemp(prefix="measure-", dir="/var/tmp"))
    token_key(folder / "sa.key")
    port = free_port("127.0.0.1")
    try:
        with STORES[name](programs, folder) as store:
            assert store.process
            started = time.monotonic()
            argv = apiserver_argv(kubernetes, folder, store.endpoint, port)
            with running(argv, folder / "apiserver.log") as apiserver:
                wait_until("the API server is ready", lambda: ready_or_ended(apiserver, port), 120)
                assert apiserver.poll() is None, (folder / "apiserver.log").read_text()[-2000:]
                ready = time.monotonic() - started
                first = usage(store.process), usage(apiserver)
                with running(controller_argv(kubernetes, folder, port), folder / "controllers.log"):
                    time.sleep(SETTLE_SECONDS)
                    before = usage(store.process), usage(apiserver)
                    time.sleep(IDLE_SECONDS)
                    after = usage(store.process), usage(apiserver)
            idle = [late - early for late, early in zip(after, before, strict=True)]
            print(
                f"{name:<8}ready {ready:5.1f} s, used {first[0].seconds:5.2f} s, API server {first[1].seconds:5.2f} s; "
                f"settled {before[0].seconds:5.2f} s; idle {idle[0].seconds / IDLE_SECONDS:6.2%}, "
                f"{idle[0].switches / IDLE_SECONDS:5.0f} switches/s, "
                f"API server {idle[1].seconds / IDLE_SECONDS:6.2%}; {store.resident():4.0f} MiB",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)


def main(names: Sequence[str]) -> None:
    """Alternate between the datastores, so that whatever else the machine does hits both."""
    programs = built_programs()
    kubernetes = components.build(component("kubernetes")).folder / "tree/usr/bin"
    for _ in range(ROUNDS):
        for name in names or sorted(STORES):
            measure(name, programs, kubernetes)


if __name__ == "__main__":
    main(sys.argv[1:])
