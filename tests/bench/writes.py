# SPDX-License-Identifier: Apache-2.0
"""Writes objects through an API server, and keeps a journal of those that were acknowledged.

python3 -m tests.bench.writes --kubeconfig FILE --journal FILE --writers N [--server ADDRESS]

Each writer makes ConfigMaps of 1 KiB over a connection of its own, one after the other, until the program is
asked to end. What is not answered within five seconds is given up, and the next request connects anew. It
talks to port 6443, if not told otherwise of the loopback address: on a control plane to its API server, on a worker to
its balancer.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from subprocess import Popen
from typing import TextIO

from image.vm.place import ROOT

from ..node import NodeFailed
from .availability import Write
from .observe import Api

LOCAL, PORT = "127.0.0.1", 6443
OBJECTS = "/api/v1/namespaces/default/configmaps"
CONTENT = "x" * 1024
DOWN_SECONDS = 0.02
"""Between two requests to who does not answer: there is no use in asking more often."""
END_SECONDS = 30.0


def read(journal: Path) -> list[Write]:
    """Return what a journal has so far; its last line may not be whole yet."""
    text = journal.read_text() if journal.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    fields = (line.split() for line in lines)
    return [Write(int(writer), float(started), float(ended)) for writer, started, ended in fields]


@contextmanager
def writing(
    enter: Sequence[str], kubeconfig: Path, journal: Path, writers: int, server: str = LOCAL
) -> Iterator[None]:
    """Let writers write meanwhile; enter: goes before the program, to run it elsewhere."""
    options = [
        f"--kubeconfig={kubeconfig}",
        f"--journal={journal}",
        f"--writers={writers}",
        f"--server={server}",
    ]
    with Popen([*enter, sys.executable, "-m", __name__, *options], cwd=ROOT) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(END_SECONDS)
    if process.returncode:
        raise NodeFailed(f"the writers through an API server failed ({process.returncode})")


def main(args: Sequence[str]) -> int:
    """Run the command line described above."""
    parser = argparse.ArgumentParser(prog=__name__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--writers", type=int, required=True)
    parser.add_argument("--server", default=LOCAL)
    options = parser.parse_args(args)
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    text = options.kubeconfig.read_text()
    with options.journal.open("w", buffering=1) as journal, ThreadPoolExecutor(options.writers) as pool:
        work = [
            pool.submit(write, Api(PORT, text, options.server), number, journal, end)
            for number in range(options.writers)
        ]
    for each in work:
        each.result()
    return 0


def write(api: Api, writer: int, journal: TextIO, end: threading.Event) -> None:
    """Make one object after the other until the end, and write down those that were acknowledged."""
    run = uuid.uuid4().hex
    for number in itertools.count():
        if end.is_set():
            return
        started = time.time()
        if make(api, f"bench-{run}-{number}"):
            journal.write(f"{writer} {started:.6f} {time.time():.6f}\n")
        else:
            end.wait(DOWN_SECONDS)


def make(api: Api, name: str) -> bool:
    """Whether an object was made, as far as was told."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"content": CONTENT}}
    return api.ask(OBJECTS, body)[0] == HTTPStatus.CREATED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
