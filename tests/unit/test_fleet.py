# SPDX-License-Identifier: Apache-2.0
"""The documents that `make run` writes for a cluster are ones that a node takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firstboot.failure import BasaltError
from firstboot.validate import check_text
from image import run
from image.vm import fleet
from image.vm.administration import make_credentials
from image.vm.background import STATE
from image.vm.fleet import Member


@pytest.mark.parametrize("emulated", [True, False])
def test_a_cluster_has_one_founder_and_all_others_know_where_to_join(tmp_path: Path, emulated: bool) -> None:
    authority = make_credentials(tmp_path).authority.read_text()
    members = fleet.cluster(3, 1, "0123456789abcdef" * 4, authority, emulated=emulated)
    configs = [check_text(member.user_data, member.name) for member in members]
    assert [config.node.name for config in configs] == ["node-1", "node-2", "node-3", "node-4"]
    assert [config.joins for config in configs] == [False, True, True, True]
    assert configs[1].cluster.join_endpoints == ("192.168.77.1", "192.168.77.3")
    assert configs[3].role.value == "worker" and configs[3].cluster.join_endpoints[0] == "192.168.77.1"
    assert bool(configs[0].extra_args("k8s-dqlite")) is emulated
    cards = [json.loads(member.network or "{}")["ethernets"]["cluster"] for member in members]
    assert [card["addresses"] for card in cards] == [[f"192.168.77.{number}/24"] for number in range(1, 5)]


def test_the_token_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    token = fleet.token(tmp_path)
    assert fleet.token(tmp_path) == token and len(token) == 64
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@contextmanager
def running(folder: Path, *members: Member) -> Iterator[None]:
    """Have processes that look like the machines of an earlier `make run`."""
    processes = []
    for number, member in enumerate(members):
        place = folder / member.name if number else folder
        place.mkdir(exist_ok=True)
        # A shell's further argument, as the disk is one of QEMU's.
        command = ["sh", "-c", "echo; read line", str(place / "disk.qcow2")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline()  # its arguments are there
        processes.append(process)
        state = {
            "pid": process.pid,
            "image": "1",
            "user_data": member.user_data,
            "accelerator": "tcg",
            "ports": {},
        }
        (place / STATE).write_text(json.dumps(state))
    try:
        yield
    finally:
        for process in processes:
            process.communicate()


ONE, OTHER, TWO = Member("node-1", "one"), Member("node-1", "other"), Member("node-2", "two")


@pytest.mark.parametrize(
    ("there", "wanted", "refused"),
    [
        ((ONE,), (ONE,), False),
        ((ONE,), (OTHER,), False),
        ((ONE,), (OTHER, TWO), True),
        ((ONE, TWO), (ONE, TWO), False),
        ((ONE, TWO), (OTHER, TWO), True),
        ((ONE, TWO), (OTHER,), True),
    ],
    ids=["the same", "one, other document", "more", "the same cluster", "another cluster", "fewer"],
)
def test_machines_of_two_commands_are_not_mixed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[Member, ...],
    wanted: tuple[Member, ...],
    refused: bool,
) -> None:
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    with running(tmp_path, *there):
        found = run._running()
        assert len(found) == len(there)
        if not refused:
            run._refuse_others(run.Wanted(wanted, "1", open=False), found)
            return
        with pytest.raises(BasaltError, match="another `make run`"):
            run._refuse_others(run.Wanted(wanted, "1", open=False), found)
