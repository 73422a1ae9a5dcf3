# SPDX-License-Identifier: Apache-2.0
"""`basalt datastore move`: the cluster's datastore becomes the other one."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from firstboot.failure import BasaltError
from firstboot.text import clean

if TYPE_CHECKING:
    from firstboot.client import Client

EXIT_USAGE = 2

MOVING = 3 * 3600.0
"""Seconds that a move may take until it is decided, on an emulated machine with much data."""
KINDS = ("dqlite", "etcd")

WOULD = """Nothing has been done; give --yes to do it. Meanwhile the API does not answer; pods run on. Take a backup
before. The old data stays on the disks until `basalt datastore move --forget`."""
BEGUN = """It goes on by itself now, through any restart; `basalt status --wait ready` waits for this node.
When nobody needs the old data any more: `basalt datastore move --forget` on each control plane."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("to", nargs="?", choices=KINDS, help="what it shall become")
    parser.add_argument("--yes", action="store_true", help="really do it; without, say what that would be")
    parser.add_argument(
        "--forget", action="store_true", help="remove this node's data of before the last move"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(client: Client, given: argparse.Namespace) -> int:
    """Ask for a move, or what it would be; or have the old data removed."""
    if given.forget == (given.to is not None):
        raise BasaltError(
            "a datastore or --forget is wanted", f"Give one of {', '.join(KINDS)}, or --forget."
        )
    if given.forget:
        client.post_json("/v1/datastore/forget", "")
        print("The data of before the last move is not on this node any more.")
        return 0
    query = {"to": given.to, "dry-run": "false" if given.yes else "true"}
    found = client.post_json("/v1/datastore/move", "", query, MOVING)
    if given.json:
        print(json.dumps(found, indent=2))
        return 0 if given.yes else EXIT_USAGE
    print(f"from {found['origin']} to {found['to']}: {found['keys']} keys of revision {found['revision']}")
    print(f"{found['size']} bytes now; about {found['seconds']} seconds without writes")
    print(f"{clean(found['founds'])} has the new datastore first")
    for host in found["others"]:
        print(f"{clean(host)} joins it then")
    if not given.yes:
        print(WOULD, file=sys.stderr)
        return EXIT_USAGE
    print(BEGUN)
    return 0
