# SPDX-License-Identifier: Apache-2.0
"""From a snapshot of dqlite to a file of keys and back; etcd's side is tested with etcd (tests/torture)."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from firstboot.datastores.transfer import Contents, transfer
from firstboot.failure import BasaltError
from firstboot.run import RunError

from .support_moving import DQLITE, ETCD, KEYS, REVISION, ROWS, etcdutl, kine


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with etcdutl(tmp_path, monkeypatch):
        yield


def told(snapshot: Path) -> list[dict[str, Any]]:
    """Return the keys that the stand-in for etcd was given, and the end of them."""
    lines = [json.loads(line) for line in snapshot.read_text().splitlines()]
    for line in lines[:-1]:
        line["key"], line["value"] = base64.b64decode(line["key"]).decode(), base64.b64decode(line["value"])
    return lines


def to_etcd(folder: Path, rows: Any = ROWS) -> tuple[Path, Contents]:
    kine(folder / "dump", rows)
    return asyncio.run(transfer(DQLITE, folder / "dump", ETCD, folder))


def to_dqlite(folder: Path, lines: list[dict[str, Any]]) -> tuple[Path, Contents]:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "saved").write_text(text)
    return asyncio.run(transfer(ETCD, folder / "saved", DQLITE, folder))


def key(name: str, create: int, mod: int, ttl: int = 0, value: bytes = b"v") -> dict[str, Any]:
    encoded = {"key": base64.b64encode(name.encode()).decode(), "value": base64.b64encode(value).decode()}
    return {**encoded, "create_revision": create, "mod_revision": mod, "ttl": ttl}


def end(keys: int, revision: int) -> dict[str, Any]:
    return {"end": {"keys": keys, "revision": revision}}


def test_each_key_that_exists_keeps_its_revisions_its_value_and_its_lifetime(tmp_path: Path) -> None:
    made, contents = to_etcd(tmp_path)
    first = {
        "key": "/registry/b",
        "value": KEYS["/registry/b"],
        "create_revision": 4,
        "mod_revision": 4,
        "ttl": 60,
    }
    second = {
        "key": "/registry/a",
        "value": KEYS["/registry/a"],
        "create_revision": 3,
        "mod_revision": 6,
        "ttl": 0,
    }
    assert told(made) == [first, second, end(2, REVISION)]
    assert contents == Contents(2, REVISION)
    assert not (tmp_path / "keys").exists()


def test_and_comes_back_as_it_was(tmp_path: Path) -> None:
    made, contents = to_etcd(tmp_path)
    (tmp_path / "back").mkdir()
    back, again = asyncio.run(transfer(ETCD, made, DQLITE, tmp_path / "back"))
    assert again == contents
    with closing(sqlite3.connect(back)) as database:
        found = database.execute(
            "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine ORDER BY id"
        ).fetchall()
    assert found == [
        (4, "/registry/b", 1, 0, None, 0, 60, KEYS["/registry/b"]),
        (6, "/registry/a", 0, 0, 3, 3, 0, KEYS["/registry/a"]),
        # The newest revision was a deletion: that it was given out must not be forgotten.
        (REVISION, "compact_rev_key", 1, 0, None, 0, 0, b""),
    ]


def test_an_empty_value_and_no_key_at_all(tmp_path: Path) -> None:
    made, contents = to_etcd(
        tmp_path, [(1, "compact_rev_key", 1, 0, 0, 0, 0, b""), (2, "/e", 1, 0, 0, 0, 0, None)]
    )
    assert told(made)[0]["value"] == b"" and contents == Contents(1, 2)
    (tmp_path / "none").mkdir()
    _, contents = to_dqlite(tmp_path / "none", [end(0, 7)])
    assert contents == Contents(0, 7)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], "cut off"),
        ([key("/a", 1, 2)], "cut off"),
        ([key("/a", 1, 2), end(2, 2)], "its end says"),
        ([key("/a", 1, 2), end(1, 1)], "its end says"),
        ([key("/a", 1, 2), key("/b", 2, 2), end(2, 2)], "one revision"),
        ([key("/a", 1, 2), key("/a", 1, 3), end(2, 3)], "one revision or one name"),
        ([{"key": "L2E="}, end(1, 2)], "is damaged"),
        ([{**key("/a", 1, 2), "key": "/w=="}, end(1, 2)], "is damaged"),
    ],
)
def test_what_is_not_whole_makes_no_datastore(
    tmp_path: Path, lines: list[dict[str, Any]], found: str
) -> None:
    (tmp_path / "etcdutl").write_text('#!/bin/sh\ncp "$2" "$3"; echo \'{"keys": 1, "revision": 2}\'\n')
    with pytest.raises(BasaltError, match=found):
        to_dqlite(tmp_path, lines)


def test_a_file_that_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "dump").write_text("something else")
    with pytest.raises(BasaltError, match="cannot be read"):
        asyncio.run(transfer(DQLITE, tmp_path / "dump", ETCD, tmp_path))


def test_what_one_gives_and_the_other_takes_is_compared(tmp_path: Path) -> None:
    (tmp_path / "etcdutl").write_text('#!/bin/sh\necho \'{"keys": 1, "revision": 9}\'\n')
    with pytest.raises(BasaltError, match="came to etcd"):
        to_etcd(tmp_path)
    (tmp_path / "etcdutl").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RunError):
        asyncio.run(transfer(ETCD, tmp_path / "dump", DQLITE, tmp_path))
