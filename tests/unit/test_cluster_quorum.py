# SPDX-License-Identifier: Apache-2.0
"""When a datastore can do without a member; in the tables the first member is the one that leaves."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.cluster.quorum import Member, refusal
from firstboot.cluster.voters import DqliteVoters, EtcdVoters
from firstboot.kube import Client, Trust

LEAVES = "192.0.2.1"


def members(text: str) -> list[Member]:
    """Return members of one letter each: V votes, h could get a vote, l could not; in brackets: does not work."""
    found: list[Member] = []
    for number, word in enumerate(text.split(), 1):
        letter = word.strip("()")
        host = f"192.0.2.{number}"
        found.append(Member(host, host, letter == "V", "(" not in word, heir=letter == "h"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("V V V", None),
        ("(V) V V", None),
        ("V V (V)", "of the 2 voters that remain only 1 works; 2 are needed"),
        ("(V) V (V)", "of the datastore's 3 voters only 1 works; 2 are needed"),
        ("V V V V (V)", None),
        ("V V V (V) (V)", "of the 4 voters that remain only 2 work; 3 are needed"),
        ("V V", None),
        ("V (V)", "of the datastore's 2 voters only 1 works; 2 are needed"),
        ("V V (V) h", "of the 2 voters that remain only 1 works; 2 are needed"),
        ("V h", None),
        ("V h h", None),
        ("V (h)", "it is the only voter, and no other member works that could get its vote"),
        ("V l", "it is the only voter, and no other member works that could get its vote"),
        ("V", "it is the only voter, and no other member works that could get its vote"),
        ("h V", None),
        ("(h) V", None),
        ("(l) V V V", None),
        ("h (V) (V)", "of the datastore's 2 voters none works; 2 are needed"),
        ("h (V)", "the datastore's only voter does not work"),
    ],
)
def test_what_works_now_and_what_would_work_then(text: str, expected: str | None) -> None:
    assert refusal(members(text), LEAVES) == expected


def test_who_is_no_member_can_go() -> None:
    assert refusal(members("V (V) (V)"), "192.0.2.99") is None


ANSWER = [
    {"id": 1, "address": "192.0.2.1:9000", "role": "voter", "leader": True, "answers": True},
    {"id": 2, "address": "[2001:db8::2]:9000", "role": "stand-by", "leader": False, "answers": False},
]


def test_dqlite_is_asked_who_answers_and_told_who_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "k8s-dqlite"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho '{json.dumps(ANSWER)}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first, second = asyncio.run(DqliteVoters().members())
    assert first == Member("192.0.2.1:9000", "192.0.2.1", votes=True, works=True, heir=True)
    assert second == Member("[2001:db8::2]:9000", "2001:db8::2", votes=False, works=False, heir=True)
    asyncio.run(DqliteVoters().remove(second))
    assert (tmp_path / "asked").read_text() == "members\nremove [2001:db8::2]:9000\n"


def test_members_of_etcd_are_asked_where_their_partners_reach_them() -> None:
    asked: list[Any] = []

    class Etcd:
        async def call(self, method: str, url: str, trust: Trust, body: dict[str, Any]) -> Any:
            asked.append((url.rpartition("/")[2], body))
            known = [
                {"ID": "7", "name": "cp-1", "peerURLs": ["https://192.0.2.1:2380"]},
                {"ID": "8", "peerURLs": ["https://192.0.2.2:2380"], "isLearner": True},
            ]
            return {"members": known}

        async def get_text(self, url: str, trust: Trust, timeout: float) -> tuple[int, str]:
            assert trust is Trust.ETCD
            return (200, "{}") if url == "https://192.0.2.1:2380/version" else (0, "cannot be reached")

    voters = EtcdVoters(cast("Client", Etcd()))
    first, second = asyncio.run(voters.members())
    assert first == Member("7", "192.0.2.1", votes=True, works=True)
    assert second == Member("8", "192.0.2.2", votes=False, works=False)
    asyncio.run(voters.remove(first))
    assert asked[-1] == ("remove", {"ID": "7"})
