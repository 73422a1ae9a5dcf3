# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from firstboot.failure import BasaltError
from image.vm.disks import link_or_copy
from image.vm.switch import Switch, connected
from image.vm.userdata import with_client_ca
from tests.node import CommandFailed
from tests.vm import metadata
from tests.vm.artefacts import folder_name
from tests.vm.channel import Channel, ChannelClosed
from tests.vm.console import Console, find_forbidden
from tests.vm.guest import channel as guest
from tests.vm.ready import prune

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (b"[    1.0] Kernel panic - not syncing: x\r\n", "[    1.0] Kernel panic - not syncing: x"),
        (b"\x1b[0;1;31m[FAILED]\x1b[0m Failed to start a.service\n", "[FAILED] Failed to start a.service"),
        (b"[\x1b[0;1;31mFAILED\x1b[0m] Failed to start\n", "[FAILED] Failed to start"),
        (b"a.service: Found ordering cycle on b.service\n", "a.service: Found ordering cycle on b.service"),
        (b"progress 10%\rprogress 20%\rYou are in emergency mode.\n", "You are in emergency mode."),
        (b"watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n", None),
        (b"[  OK  ] Started a.service\nnothing failed\n", None),
    ],
)
def test_forbidden_lines(shown: bytes, expected: str | None) -> None:
    assert find_forbidden(shown) == expected


def test_console_finds_a_line_that_comes_in_two_pieces(tmp_path: Path) -> None:
    path = tmp_path / "console"
    console = Console(path)
    assert console.offence() is None
    path.write_bytes(b"all is well\nKernel pa")
    assert console.offence() is None
    with path.open("ab") as file:
        file.write(b"nic - not syncing\n")
    assert console.offence() == "Kernel panic - not syncing"


def test_console_allows_what_a_test_expects_and_forgets_an_earlier_life(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"[FAILED] Failed to start etcd.service\n")
    assert Console(path, allowed=(r"etcd\.service",)).offence() is None
    console = Console(path)
    console.skip()
    assert console.offence() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "#cloud-config\nbasalt:\n  role: control-plane\nusers: []\n",
            "#cloud-config\nbasalt:\n"
            "  access:\n    client-ca: |\n      {}\n  role: control-plane\nusers: []\n",
        ),
        (
            "basalt:\n    role: worker\n    access:  # who\n      other: 1\n",
            "basalt:\n    role: worker\n    access:  # who\n      client-ca: |\n        {}\n      other: 1\n",
        ),
        ("basalt:\n  access:\n    client-ca: mine\n", None),
    ],
)
def test_client_ca_is_added_and_nothing_else(text: str, expected: str | None) -> None:
    found = with_client_ca(text, PEM)
    if expected is None:
        assert found is None
        return
    assert found is not None
    indent = next(line for line in expected.splitlines() if "{}" in line).replace("{}", "")
    assert found == expected.replace("{}", f"\n{indent}".join(PEM.split("\n")[:-1]))


def test_client_ca_needs_a_document_in_block_style() -> None:
    with pytest.raises(BasaltError, match="no line `basalt:`"):
        with_client_ca("basalt: {role: control-plane}\n", PEM)


@pytest.mark.parametrize(
    ("parts", "together"),
    [((), True), (("ab",), True), (("a", "b"), False), (("a",), False)],
)
def test_parts_of_a_network(parts: tuple[str, ...], together: bool) -> None:
    assert connected(tuple(map(frozenset, parts)), "a", "b") is together


def test_switch_carries_learns_and_divides(tmp_path: Path) -> None:
    def frame(target: bytes, source: bytes, body: bytes) -> bytes:
        content = target + source + body
        return struct.pack(">I", len(content)) + content

    everybody, first, second = b"\xff" * 6, b"\x02aaaaa", b"\x02bbbbb"
    with Switch(tmp_path) as switch:
        ends = {name: socket.socket(socket.AF_UNIX) for name in "abc"}
        for name, end in ends.items():
            end.settimeout(5)
            end.connect(str(switch.connect(name)))
        # Each end says something first, so that all are known to the switch before the real frames.
        for name, end in ends.items():
            end.sendall(frame(b"\x02" + name.encode() * 5, b"\x02" + name.encode() * 5, b""))
        ends["a"].sendall(frame(everybody, first, b"hello"))
        hello = frame(everybody, first, b"hello")
        assert [ends[name].recv(100) for name in "bc"] == [hello, hello]
        ends["b"].sendall(frame(first, second, b"only you"))
        assert ends["a"].recv(100) == frame(first, second, b"only you")
        switch.divide("a", "bc")
        ends["a"].sendall(frame(everybody, first, b"lost"))
        ends["c"].sendall(frame(everybody, b"\x02ccccc", b"near"))
        assert ends["b"].recv(100) == frame(everybody, b"\x02ccccc", b"near")
        for end in ends.values():
            end.close()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A channel whose machine is a thread of this process, running the guest's real program."""
    path = tmp_path / "channel"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def answer(port: int, line: bytes) -> None:
        # A test may hang up before its command has ended; the number stays this thread's own until then.
        try:
            with suppress(BrokenPipeError):
                guest.serve(port, line)
        finally:
            os.close(port)

    def serve() -> None:
        connection, _ = listener.accept()
        listener.close()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                threading.Thread(target=answer, args=(os.dup(connection.fileno()), line), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return path


def test_channel_runs_commands_side_by_side(served: Path) -> None:
    channel = Channel(served)
    fifo = served.parent / "fifo"
    os.mkfifo(fifo)
    found = []
    waiting = threading.Thread(target=lambda: found.append(channel.run(["cat", str(fifo)]).stdout))
    waiting.start()
    assert channel.run("cat; echo oops >&2; exit 3", check=False, stdin="in\n").code == 3
    channel.run(f"echo second > {fifo}")
    waiting.join()
    assert found == ["second\n"]
    with pytest.raises(CommandFailed, match="exit code 1: false"):
        channel.run(["false"])
    with pytest.raises(CommandFailed, match=r"not finished after 0\.2 s"):
        channel.run("sleep 30", timeout=0.2)
    channel.close()
    with pytest.raises(ChannelClosed):
        channel.run("true")


def test_a_machine_that_fails_ends_the_wait_for_its_answer(served: Path) -> None:
    def watch() -> None:
        raise BasaltError("panicked")

    channel = Channel(served, watch)
    with pytest.raises(BasaltError, match="panicked"):
        channel.run("sleep 30", timeout=20)
    channel.close()


def test_the_longest_unused_saved_machines_go_first(tmp_path: Path) -> None:
    for index, name in enumerate(("old", "middle", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory").write_bytes(b"x" * 8192)
        os.utime(tmp_path / name, (index, index))
    prune(tmp_path, 2, 1 << 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]
    prune(tmp_path, 2, 8192)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_tests_name_becomes_a_folder() -> None:
    assert folder_name("tests/vm/test_boot.py::test_ready[dqlite/x]") == "vm-test_boot.py-test_ready-dqlite-x"


WITH_TOKEN = f"X-aws-ec2-metadata-token: {metadata.TOKEN}\r\n"
PAGES = {
    "/openstack/latest/user_data": "#cloud-config\n",
    "/latest/meta-data/instance-id": "i-1",
    "/latest/meta-data/tags/instance/Name": "one",
    "/latest/user-data": "#cloud-config\n",
}


@pytest.mark.parametrize(
    ("request_line", "headers", "expected"),
    [
        ("PUT /latest/api/token", "", (200, metadata.TOKEN)),
        (
            "GET /latest/meta-data/",
            WITH_TOKEN,
            (200, "instance-id\ntags/"),
        ),
        (
            "GET /latest/user-data",
            WITH_TOKEN,
            (200, "#cloud-config\n"),
        ),
        ("GET /latest/user-data", "", (401, "a token is needed\n")),
        ("GET /openstack/latest/user_data", "", (200, "#cloud-config\n")),
        ("GET /2009-04-04/user-data", "", (404, "no such page\n")),
    ],
)
def test_metadata_service(request_line: str, headers: str, expected: tuple[int, str]) -> None:
    answers = io.BytesIO()
    asked = f"{request_line} HTTP/1.1\r\n{headers}\r\n".encode()
    metadata.serve(PAGES, io.BytesIO(asked * 2), answers)
    status, body = expected
    one = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert answers.getvalue().decode() == one * 2


def test_a_second_name_survives_the_replacement_of_the_first(tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.write_text("old")
    target = link_or_copy(source, tmp_path / "mine")
    source.unlink()
    source.write_text("new")
    assert target.read_text() == "old"
    assert link_or_copy(source, target).read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "mine"]
