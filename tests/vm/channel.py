# SPDX-License-Identifier: Apache-2.0
"""Root commands inside a machine, over a virtio-serial port that only a test's machine has."""

from __future__ import annotations

import base64
import itertools
import json
import queue
import shlex
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from firstboot.failure import BasaltError
from image.vm.arguments import CHANNEL_PORT, Credential
from tests.node import CommandFailed, Result, describe

GUEST_PROGRAM = Path(__file__).parent / "guest" / "channel.py"
UNIT = "basalt-test-channel"
PROGRAM = "test.channel"
RULE = "udev.rules.90-basalt-test"
SYSTEM_CREDENTIALS = "/run/credentials/@system"

START = f"""\
/usr/bin/systemd-run --no-block --collect --unit={UNIT} --property=DefaultDependencies=no \
--property=Restart=always --property=OOMScoreAdjust=-900 \
/usr/bin/python3 {SYSTEM_CREDENTIALS}/{PROGRAM} /dev/%k"""

GRACE = 30.0
"""Seconds that the channel itself may need on top of a command's own time."""
SLICE = 0.5
"""Seconds between two looks at whether the machine is still well while an answer is awaited."""


class ChannelClosed(BasaltError):
    """The connection to the machine ended while an answer was awaited."""


def credentials() -> tuple[Credential, ...]:
    """Return what starts the channel's other end inside the machine, as soon as its device is there.

    A udev rule rather than a unit, because the device's appearance is what starts it.
    """
    rule = f'ACTION=="add", SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{CHANNEL_PORT}", RUN+="{START}"\n'
    return Credential(RULE, rule), Credential(PROGRAM, GUEST_PROGRAM.read_text())


class Channel:
    """The host's end: any number of threads may run commands at the same time."""

    def __init__(self, path: Path, watch: Callable[[], None] = lambda: None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._watch = watch
        self._writing = threading.Lock()
        self._waiting: dict[str, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._session = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._reader = threading.Thread(target=self._read, name="channel", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Hang up; a command that runs goes on without anybody to answer."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # QEMU was first.
        self._reader.join()
        self._socket.close()

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60,
        check: bool = True,
        stdin: bytes | str = b"",
    ) -> Result:
        """Run shell text or an argument list as root and return how it ended.

        Raises CommandFailed when it takes longer than timeout seconds or, with check, fails.
        """
        shown = command if isinstance(command, str) else shlex.join(command)
        request = {
            "command": command if isinstance(command, str) else list(command),
            "timeout": timeout,
            "stdin": base64.b64encode(stdin.encode() if isinstance(stdin, str) else stdin).decode(),
        }
        answer = self._ask(request, timeout + GRACE)
        if answer is None:
            raise CommandFailed(f"no answer within {timeout + GRACE:g} s to: {shown}")
        result = Result(
            shown,
            -1 if answer["code"] is None else int(answer["code"]),
            base64.b64decode(answer["stdout"]),
            base64.b64decode(answer["stderr"]),
        )
        if answer["code"] is None:
            raise CommandFailed(f"not finished after {timeout:g} s: {describe(result)}")
        if check and not result.ok:
            raise CommandFailed(f"exit code {result.code}: {describe(result)}")
        return result

    def wait(self, timeout: float, condition: str = "true") -> None:
        """Wait until a shell condition holds in the machine; what a restart swallowed is asked again."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            answer = self._ask({"command": condition, "timeout": 10}, min(left, 10))
            if answer is not None and answer["code"] == 0:
                return
            if answer is not None:
                time.sleep(SLICE)
        raise CommandFailed(f"the machine's command channel did not answer within {timeout:g} s")

    def _ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        name = f"{self._session}-{next(self._numbers)}"
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._waiting[name] = answers
        try:
            # An empty line first ends whatever an earlier connection left unfinished.
            data = b"\n" + json.dumps({"id": name, **request}).encode() + b"\n"
            with self._writing:
                self._socket.sendall(data)
            return self._await(answers, timeout)
        except OSError as error:
            raise ChannelClosed(f"the machine's command channel: {error}") from None
        finally:
            del self._waiting[name]

    def _await(
        self, answers: queue.SimpleQueue[dict[str, Any] | None], timeout: float
    ) -> dict[str, Any] | None:
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            try:
                answer = answers.get(timeout=min(left, SLICE))
            except queue.Empty:
                self._watch()
                continue
            if answer is None:
                self._watch()
                raise ChannelClosed("the machine's command channel was closed")
            return answer
        return None

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            try:
                for line in stream:
                    self._deliver(line)
            except OSError:
                pass  # A reset is an end like any other: everybody who waits is told below.
        for answers in list(self._waiting.values()):
            answers.put(None)

    def _deliver(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            return
        if answers := self._waiting.get(answer.get("id")):
            answers.put(answer)
