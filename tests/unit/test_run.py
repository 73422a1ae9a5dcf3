# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstboot.run import Completed, RunError, run, run_async, stream

Runner = Callable[..., Completed]


def in_loop(argv: list[str], **options: Any) -> Completed:
    return asyncio.run(run_async(argv, **options))


both = pytest.mark.parametrize("runner", [run, in_loop], ids=["run", "run_async"])


@both
def test_output_and_arguments_arrive_as_they_are(runner: Runner) -> None:
    done = runner(["printf", "%s|", "a b", "$HOME", "*"], timeout=10)
    assert (done.stdout, done.stderr, done.ok) == ("a b|$HOME|*|", "", True)


@both
def test_standard_input_is_empty_unless_given(runner: Runner) -> None:
    assert runner(["cat"], timeout=10).stdout == ""
    assert runner(["cat"], timeout=10, input="größe").stdout == "größe"


@both
def test_environment_is_added_to(runner: Runner) -> None:
    done = runner(["sh", "-c", 'echo "$PATH:$BASALT_TEST"'], timeout=10, env={"BASALT_TEST": "x"})
    assert done.stdout == f"{os.environ['PATH']}:x\n"


@both
@pytest.mark.parametrize(
    ("argv", "returncode", "message"),
    [
        (["sh", "-c", "echo why >&2; exit 7"], 7, "exit code 7: why"),
        (["sh", "-c", "kill -9 $$"], -9, "killed by SIGKILL"),
        (["basalt-no-such-program"], 127, "cannot be started: No such file or directory"),
    ],
)
def test_failures_say_command_and_reason(
    runner: Runner, argv: list[str], returncode: int, message: str
) -> None:
    with pytest.raises(RunError) as raised:
        runner(argv, timeout=10)
    assert raised.value.returncode == returncode
    assert str(raised.value) == f"{raised.value.cmd}: {message}"
    assert raised.value.argv == tuple(argv)


@both
def test_unchecked_failure_is_a_result(runner: Runner) -> None:
    done = runner(["sh", "-c", "echo out; exit 3"], timeout=10, check=False)
    assert (done.returncode, done.stdout) == (3, "out\n")


@both
def test_only_the_end_of_long_errors_is_repeated(runner: Runner) -> None:
    with pytest.raises(RunError) as raised:
        runner(["sh", "-c", "seq 1000 >&2; exit 1"], timeout=10)
    assert str(raised.value).splitlines()[-1] == "1000"
    assert len(str(raised.value).splitlines()) == 12
    assert raised.value.stderr.startswith("1\n2\n")


@both
def test_when_time_is_over_children_end_too(runner: Runner, tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = time.monotonic()
    with pytest.raises(RunError) as raised:
        runner(["sh", "-c", f"sleep 60 & echo $! > {child}; wait"], timeout=0.3)
    assert raised.value.timed_out
    assert time.monotonic() - start < 5
    assert "did not end within 0.3 seconds" in str(raised.value)
    _assert_ends(int(child.read_text()))


def test_a_cancelled_call_kills_the_program(tmp_path: Path) -> None:
    child = tmp_path / "child"

    async def cancel() -> None:
        task = asyncio.create_task(run_async(["sh", "-c", f"echo $$ > {child}; exec sleep 60"], timeout=60))
        while not (child.exists() and child.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancel())
    _assert_ends(int(child.read_text()))


def test_stream_gives_output_while_the_program_runs(tmp_path: Path) -> None:
    async def read() -> tuple[bytes, int]:
        async with stream(["sh", "-c", "echo $$; exec sleep 60"], timeout=60) as pieces:
            async for piece in pieces:
                return piece, int(piece)
        raise AssertionError("no output")

    _piece, pid = asyncio.run(read())
    _assert_ends(pid)


def test_stream_ends_with_its_time() -> None:
    async def read() -> bytes:
        async with stream(["sh", "-c", "echo here; exec sleep 60"], timeout=0.3) as pieces:
            return b"".join([piece async for piece in pieces])

    assert asyncio.run(read()) == b"here\n"


@both
def test_command_is_logged_and_input_is_not(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "firstboot.run"):
        runner(["cat", "-"], timeout=10, input="secret", check=False)
    assert "run: cat -" in caplog.messages
    assert "secret" not in caplog.text


@both
@pytest.mark.parametrize("argv", ["ls -l", []])
def test_a_command_is_a_list(runner: Runner, argv: Any) -> None:
    with pytest.raises(TypeError):
        runner(argv, timeout=1)


def _assert_ends(pid: int) -> None:
    """Wait until the process is gone or only waits for its parent to notice."""
    gone = partial(_gone, Path(f"/proc/{pid}/stat"))
    deadline = time.monotonic() + 5
    while not gone():
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def _gone(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
