# SPDX-License-Identifier: Apache-2.0
"""From a snapshot of one datastore to a snapshot of the other: every key that exists, at the revision it has.

Between the two is a file with a line of JSON for each key, and one at its end, without which it is cut off (see
image/components/etcd/keys.go). dqlite's side of it is SQLite, which Python reads and writes by itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstboot import run
from firstboot.config import DatastoreType
from firstboot.failure import BasaltError

if TYPE_CHECKING:
    import sqlite3

SECONDS = 3600.0
"""How long etcd's tool may take with all of the data: emulated machines are slow."""
COMPACTED = "compact_rev_key"
"""What each datastore remembers of its own compactions by this key means nothing in the other one."""
TOGETHER = 500
"""Rows handed over at a time."""

EXISTING = f"""SELECT id, name, create_revision, lease, value FROM kine
    WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0 AND name != '{COMPACTED}' ORDER BY id"""
TABLE = """CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT UNIQUE, created INTEGER, deleted INTEGER,
    create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB, attempt INTEGER)"""
INSERT = """INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
    VALUES (:mod, :name, :created, 0, :create, :previous, :lease, :value)"""


@dataclass(frozen=True)
class Contents:
    """What was taken over.

    keys:     how many exist
    revision: newest, which may be that of a key that does not exist any more
    """

    keys: int
    revision: int

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Contents:
        """Return what a program, or the last line of a file, tells."""
        return cls(int(data["keys"]), int(data["revision"]))


async def transfer(
    origin: DatastoreType, snapshot: Path, to: DatastoreType, folder: Path
) -> tuple[Path, Contents]:
    """Return a snapshot for the other datastore, and what it has.

    folder: gets it, and the file between the two meanwhile
    Raises BasaltError for a snapshot that is damaged, or has what the other datastore cannot have.
    """
    keys, made = folder / "keys", folder / f"snapshot.{to}"
    given = await TELLS[origin](snapshot, keys)
    taken = await TAKES[to](keys, made)
    if given != taken:
        raise BasaltError(f"{origin} has {given}, and {taken} came to {to}", "This is a bug of Basalt.")
    await asyncio.to_thread(keys.unlink)
    return made, taken


async def _etcd_tells(snapshot: Path, keys: Path) -> Contents:
    return await _etcdutl("export", snapshot, keys)


async def _etcd_takes(keys: Path, snapshot: Path) -> Contents:
    return await _etcdutl("import", keys, snapshot)


async def _etcdutl(command: str, source: Path, target: Path) -> Contents:
    answer = await run.run_async(["etcdutl", command, str(source), str(target)], timeout=SECONDS)
    return Contents.read(json.loads(answer.stdout))


async def _dqlite_tells(snapshot: Path, keys: Path) -> Contents:
    return await asyncio.to_thread(_tell, snapshot, keys)


async def _dqlite_takes(keys: Path, snapshot: Path) -> Contents:
    return await asyncio.to_thread(_take, keys, snapshot)


TELLS: Mapping[DatastoreType, Callable[[Path, Path], Awaitable[Contents]]] = {
    DatastoreType.DQLITE: _dqlite_tells,
    DatastoreType.ETCD: _etcd_tells,
}
TAKES: Mapping[DatastoreType, Callable[[Path, Path], Awaitable[Contents]]] = {
    DatastoreType.DQLITE: _dqlite_takes,
    DatastoreType.ETCD: _etcd_takes,
}


def _tell(snapshot: Path, keys: Path) -> Contents:
    """Write the keys of a SQLite file as `k8s-dqlite dump` makes it."""
    import sqlite3

    count = 0
    try:
        with closing(sqlite3.connect(f"{snapshot.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            (revision,) = database.execute("SELECT MAX(id) FROM kine").fetchone()
            with keys.open("x", encoding="ascii") as file:
                for row in database.execute(EXISTING):
                    file.write(json.dumps(_line(*row)) + "\n")
                    count += 1
                file.write(json.dumps({"end": {"keys": count, "revision": revision}}) + "\n")
    except sqlite3.Error as error:
        raise BasaltError(f"the snapshot of dqlite cannot be read: {error}") from error
    return Contents(count, int(revision))


def _line(mod: int, name: str, create: int | None, lease: int | None, value: bytes | None) -> dict[str, Any]:
    return {
        "key": _text(name.encode()),
        "value": _text(value or b""),
        # kine has none for a key that was not changed since it was made.
        "create_revision": create or mod,
        "mod_revision": mod,
        # kine calls a lease by the seconds for which it lasts.
        "ttl": lease or 0,
    }


def _take(keys: Path, snapshot: Path) -> Contents:
    """Make a SQLite file from which `k8s-dqlite restore` makes a datastore."""
    import sqlite3

    try:
        with closing(sqlite3.connect(snapshot)) as database, database:
            database.execute(TABLE)
            with keys.open(encoding="ascii") as file:
                end = _fill(database, map(json.loads, file))
            (count, newest) = database.execute("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM kine").fetchone()
            if count != end.keys or newest > end.revision:
                raise BasaltError(f"{keys} has {count} keys and revision {newest}, and its end says {end}")
            if newest < end.revision:
                database.execute(INSERT, _row(COMPACTED, b"", end.revision, end.revision, 0))
    except sqlite3.IntegrityError as error:
        raise BasaltError(
            f"two keys have one revision or one name: {error}",
            "Kubernetes writes no such. See with `etcdctl` who has written to its etcd.",
        ) from error
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise BasaltError(f"{keys} is damaged: {error!r}") from error
    return end


def _fill(database: sqlite3.Connection, lines: Iterator[dict[str, Any]]) -> Contents:
    """Insert the rows; return what the last line says. Raises BasaltError where there is none."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        if line.get("end"):
            _insert(database, rows)
            return Contents.read(line["end"])
        key, value = (base64.b64decode(line[name] or "") for name in ("key", "value"))
        rows.append(_row(key.decode(), value, line["create_revision"], line["mod_revision"], line["ttl"]))
        if len(rows) == TOGETHER:
            _insert(database, rows)
            rows.clear()
    raise BasaltError("the keys of the datastore are cut off", "Look for disk errors: `journalctl -k`.")


def _insert(database: sqlite3.Connection, rows: Iterable[dict[str, Any]]) -> None:
    database.executemany(INSERT, rows)


def _row(name: str, value: bytes, create: int, mod: int, lease: int) -> dict[str, Any]:
    made = create == mod
    return {
        "mod": mod,
        "name": name,
        "created": int(made),
        "create": None if made else create,
        # Of a key that was changed the revision before is not known; that it was made is as true, and as old.
        "previous": 0 if made else create,
        "lease": lease,
        "value": value,
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
