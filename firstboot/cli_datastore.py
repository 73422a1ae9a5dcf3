# SPDX-License-Identifier: Apache-2.0
"""`basalt datastore`: how it stands, backups and restores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from firstboot import cli_move
from firstboot.failure import BasaltError
from firstboot.text import clean, table

if TYPE_CHECKING:
    from firstboot.client import Client

TAKING, RESTORING = 1200.0, 5400.0
"""Seconds in which a node may say nothing: it writes a snapshot, or builds a datastore of one."""
EXIT_USAGE = 2

GIVEN_UP = """A recovery makes this member the only one, with the data above. What only the lost members had is lost,
which may be the last writes before the loss. Where several control planes are left, give this command on each of
them and recover the one with the highest term; of those with the same term, the one with the highest index.
The others are out for good: each machine has to be reset before it joins anew. Be certain that they stay off
until they can reach this one, which tells them so. docs/recovery.md has all of it, step by step.
Say --yes to do it."""
GOING_ON = """The node stops and starts its services now; `basalt status --wait ready` waits for the end.
Then take out each of the others, here: `basalt remove-node NAME --force`; `kubectl get nodes` lists them.
Until that is done no control plane can join. Their machines are reset by `basalt reset --yes` on them."""


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    client: Callable[[argparse.Namespace], Client],
) -> None:
    """Add the commands. client: makes one of the options before the command."""
    top = commands.add_parser("datastore", help="look after a control plane's datastore")
    below = top.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[Client, argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = below.add_parser(
            name, help=help, description=help.capitalize() + "."
        )
        added.set_defaults(command=lambda arguments: run(client(arguments), arguments))
        return added

    showing = command("status", _status, "show members and size")
    showing.add_argument("--json", action="store_true", help="print JSON")
    taking = command("backup", _backup, "write an encrypted backup to a file")
    taking.add_argument("file", type=Path, metavar="FILE", help="where to write it")
    how = taking.add_mutually_exclusive_group(required=True)
    how.add_argument("--passphrase-file", type=Path, metavar="F", help="file with a passphrase")
    how.add_argument("--recipient", type=Path, metavar="FILE", help="public key (X25519) of who can open it")
    back = command("restore", _restore, "make a lone control plane what a backup says")
    back.add_argument("file", type=Path, metavar="FILE", help="the backup")
    how = back.add_mutually_exclusive_group(required=True)
    how.add_argument("--passphrase-file", type=Path, metavar="F", help="file with the passphrase")
    # Not --key, which means the client's before the command.
    how.add_argument(
        "--key", dest="private_key", type=Path, metavar="FILE", help="private key to the recipient's"
    )
    back.add_argument("--yes", action="store_true", help="replace the node's cluster, keys and data included")
    going_on = command(
        "recover",
        _recover,
        "go on without members that are lost for good",
    )
    going_on.add_argument("--yes", action="store_true", help="really do it; without, say what that would be")
    going_on.add_argument("--json", action="store_true", help="print JSON")
    cli_move.arguments(
        command(
            "move", cli_move.run, "make the datastore of the cluster the other one, with all that is in it"
        )
    )
    command("backups", _backups, "list what the node has backed up by itself")
    fetching = command("fetch", _fetch, "copy one of these to a file")
    fetching.add_argument("name", metavar="NAME", help="as listed")
    fetching.add_argument("file", type=Path, metavar="FILE", help="where to write it")
    command("defragment", _defragment, "give back the disk space of deleted data")


def _status(client: Client, arguments: argparse.Namespace) -> int:
    data = client.get_json("/v1/datastore")
    if arguments.json:
        print(json.dumps(data, indent=2))
        return 0
    print(f"{data['type']}, {data['size']} bytes, revision {data['revision']}")
    heads = ["MEMBER", "ADDRESS", "ROLE", "LEADER", "HEALTHY"]
    rows = [
        [
            clean(each["name"] or "-"),
            clean(each["address"]),
            clean(each["role"]),
            "yes" if each["leader"] else "no",
            {True: "yes", False: "no", None: "unknown"}[each["healthy"]],
        ]
        for each in data["members"]
    ]
    for name in ("version", "zone"):
        if any(each[name] for each in data["members"]):
            heads.append(name.upper())
            for row, each in zip(rows, data["members"], strict=True):
                row.append(clean(each[name] or "-"))
    print(table([heads, *rows]))
    for zone in data["critical_zones"]:
        print(f"without zone {clean(zone)} too few voters would be left")
    return 0


def _backup(client: Client, arguments: argparse.Namespace) -> int:
    body = _secret(arguments, "recipient", arguments.recipient)
    pieces = client.post_stream("/v1/datastore/backup", json.dumps(body), TAKING)
    _tell(arguments.file, receive(pieces, arguments.file))
    return 0


def _restore(client: Client, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        raise BasaltError(
            "this replaces the node's cluster, its keys and all of its data, by those of the backup",
            "Give --yes if that is what you want.",
        )
    secret = _secret(arguments, "key", arguments.private_key)
    with _opened(arguments.file) as file:
        decided = client.upload("/v1/datastore/restore", secret, ("backup", file), RESTORING)
    print(f"The node becomes cluster {decided['cluster']} as of {decided['created']}.")
    print("It stops and starts its services now; `basalt status --wait ready` waits for the end.")
    return 0


def _recover(client: Client, arguments: argparse.Namespace) -> int:
    query = {"dry-run": "false" if arguments.yes else "true"}
    found = client.post_json("/v1/datastore/recover", "", query, RESTORING)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0 if arguments.yes else EXIT_USAGE
    as_of = clean(found["as_of"] or "unknown")
    print(f"data of this member: revision {found['revision']}, as of {as_of}")
    print(f"end of its log: term {found['term']}, index {found['index']}")
    rows = [[clean(found["host"]), clean(found["role"]), "this one: goes on alone"]]
    rows += [
        [clean(each["host"]), clean(each["role"]), "answers, and is given up" if each["answers"] else "lost"]
        for each in found["others"]
    ]
    print(table([["MEMBER", "ROLE", "WHAT BECOMES OF IT"], *rows]))
    if not arguments.yes:
        print(GIVEN_UP, file=sys.stderr)
        return EXIT_USAGE
    print(GOING_ON)
    return 0


def _defragment(client: Client, arguments: argparse.Namespace) -> int:
    done = client.post_json("/v1/datastore/defragment", "", timeout=TAKING)
    print(f"{done['before']} bytes before, {done['after']} bytes after")
    return 0


def _backups(client: Client, _arguments: argparse.Namespace) -> int:
    found = client.get_json("/v1/datastore/backups")["backups"]
    if not found:
        print("None: the document's `datastore.backup` has the node take some.")
        return 0
    rows = [[clean(each["name"]), clean(each["created"]), str(each["size"])] for each in found]
    print(table([["NAME", "CREATED", "BYTES"], *rows]))
    return 0


def _fetch(client: Client, arguments: argparse.Namespace) -> int:
    from urllib.parse import quote

    pieces = client.stream(f"/v1/datastore/backups/{quote(arguments.name, safe='')}", {}, TAKING)
    _tell(arguments.file, receive(pieces, arguments.file))
    return 0


def receive(pieces: Iterable[bytes], target: Path) -> str:
    """Write a backup to a file that has its name only when all of it is on the disk; return its check sum.

    Raises BasaltError when it is not whole.
    """
    import hashlib
    import tempfile

    from firstboot.backup.sealed import TRAILER_BYTES, trailer

    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest, end = hashlib.sha256(), b""
            for piece in pieces:
                file.write(piece)
                end += piece
                digest.update(end[:-TRAILER_BYTES])
                end = end[-TRAILER_BYTES:]
            if end != trailer(digest.hexdigest()):
                raise BasaltError(
                    "the backup ends too early or is damaged, and was not kept",
                    "Try again; `basalt logs basalt` says what the node met.",
                )
            file.flush()
            os.fsync(descriptor)
        os.replace(name, target)
        _sync(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        with suppress(OSError):
            os.unlink(name)
    return digest.hexdigest()


def _tell(path: Path, digest: str) -> None:
    from firstboot.backup.header import Header

    with path.open("rb") as file:
        header, _ = Header.read(file)
    print(f"{path}: {path.stat().st_size} bytes, cluster {header.cluster}, revision {header.revision}")
    print(f"sha256 {digest}")


def _secret(arguments: argparse.Namespace, name: str, key: Path | None) -> dict[str, str]:
    """Return what opens or seals a backup: a passphrase without the line break at its end, or a key."""
    if arguments.passphrase_file is not None:
        return {"passphrase": _text(arguments.passphrase_file).rstrip("\r\n")}
    assert key is not None
    return {name: _text(key)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BasaltError(f"{path} cannot be read: {reason}", "Check the path and its rights.") from None


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BasaltError(
            f"{path} cannot be read: {error.strerror}", "Check the path and its rights."
        ) from None


def _unwritable(path: Path, error: OSError) -> BasaltError:
    return BasaltError(
        f"{path} cannot be written: {error.strerror}", "Is there such a folder, and space in it?"
    )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
