# SPDX-License-Identifier: Apache-2.0
"""The only door to other programs: argument lists, no standard input unless given, always a time limit."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstboot.failure import BasaltError

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

NOT_FOUND = 127
"""Exit code reported for a program that cannot be started, as a shell does."""

TAIL_LINES = 12
"""Lines of standard error that an error message repeats."""

PIECE_BYTES = 64 * 1024
"""Most that a stream hands over at once."""

REAP_SECONDS = 30.0
"""How long a killed program may take to be collected: long on a busy machine, and for nothing else."""


@dataclass(frozen=True)
class Completed:
    """A program that ended: its arguments, exit code (negative: the signal that killed it) and output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the program ended with exit code 0."""
        return self.returncode == 0


class RunError(BasaltError):
    """A program failed, could not be started (returncode 127) or ran out of time (returncode None)."""

    def __init__(
        self, argv: Sequence[str], returncode: int | None, stderr: str, reason: str, hint: str = ""
    ) -> None:
        self.argv = tuple(argv)
        self.cmd = shlex.join(argv)
        self.returncode = returncode
        self.stderr = stderr
        tail = "\n".join(stderr.strip().splitlines()[-TAIL_LINES:])
        super().__init__(f"{self.cmd}: {reason}" + (f": {tail}" if tail else ""), hint)

    @property
    def timed_out(self) -> bool:
        """Whether the program was ended because its time was over."""
        return self.returncode is None


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    input: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end and return its output as text.

    timeout: seconds; afterwards the program and its children in the same process group are killed.
    input:   what it reads; without it, standard input is /dev/null. Secrets go here, never into argv,
             because argv is logged and visible to every process.
    check:   raise RunError for an exit code other than 0.
    env:     variables added to this process's environment.
    """
    args = _arguments(argv)
    try:
        process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(env),
            process_group=0,
        )
    except OSError as error:
        raise _not_started(args, error) from None
    with process:
        try:
            stdout, stderr = process.communicate(_encode(input), timeout)
        except subprocess.TimeoutExpired as expired:
            _kill_group(process.pid)
            raise _out_of_time(args, timeout, _decode(expired.stderr)) from None
        except BaseException:
            _kill_group(process.pid)
            raise
    return _completed(args, process.returncode, stdout, stderr, check)


async def run_async(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    input: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Do as run() does without holding up the event loop; a cancelled call kills the program."""
    import asyncio

    args = _arguments(argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *args,
            stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(env),
            process_group=0,
        )
    except OSError as error:
        raise _not_started(args, error) from None
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(_encode(input))
    except BaseException as error:
        await _end(process)
        if isinstance(error, TimeoutError):
            raise _out_of_time(args, timeout, "") from None
        raise
    assert process.returncode is not None
    return _completed(args, process.returncode, stdout, stderr, check)


@asynccontextmanager
async def stream(
    argv: Sequence[str | os.PathLike[str]], *, timeout: float
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Run a program and give its output in pieces as it comes; leaving the block ends the program.

    timeout: seconds for everything; afterwards the output simply ends. Standard error is left out.
    """
    import asyncio

    args = _arguments(argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        raise _not_started(args, error) from None
    assert process.stdout is not None
    try:
        yield _pieces(process.stdout, asyncio.get_running_loop().time() + timeout)
    finally:
        await _end(process)


async def _pieces(reader: asyncio.StreamReader, deadline: float) -> AsyncIterator[bytes]:
    import asyncio

    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout_at(deadline):
                piece = await reader.read(PIECE_BYTES)
            if not piece:
                return
            yield piece


async def _end(process: asyncio.subprocess.Process) -> None:
    import asyncio

    if process.returncode is None:
        _kill_group(process.pid)
    try:
        # A grandchild that left the group may hold the pipes open, so collecting has a limit too.
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), REAP_SECONDS)
    finally:
        # Output that nobody read to its end keeps its pipe open otherwise; asyncio has no public name for this.
        process._transport.close()  # type: ignore[attr-defined]


def _arguments(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(argv, str) or not argv:
        raise TypeError("a program is given as a list of arguments")
    args = tuple(os.fspath(argument) for argument in argv)
    log.debug("run: %s", shlex.join(args))
    return args


def _environment(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else {**os.environ, **env}


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _decode(data: bytes | str | None) -> str:
    return data if isinstance(data, str) else (data or b"").decode(errors="replace")


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _not_started(args: tuple[str, ...], error: OSError) -> RunError:
    return RunError(args, NOT_FOUND, "", f"cannot be started: {error.strerror}")


def _out_of_time(args: tuple[str, ...], timeout: float, stderr: str) -> RunError:
    return RunError(args, None, stderr, f"did not end within {timeout:g} seconds")


def _completed(
    args: tuple[str, ...], returncode: int, stdout: bytes, stderr: bytes, check: bool
) -> Completed:
    completed = Completed(args, returncode, _decode(stdout), _decode(stderr))
    if check and returncode != 0:
        raise RunError(args, returncode, completed.stderr, _reason(returncode))
    return completed


def _reason(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
