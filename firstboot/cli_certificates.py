# SPDX-License-Identifier: Apache-2.0
"""`basalt certificates`: whose they are, until when, and that the cluster's CA is replaced."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstboot.failure import BasaltError
from firstboot.text import clean, table

if TYPE_CHECKING:
    from firstboot.client import Client


EXIT_USAGE = 2
URL = "/v1/certificates/rotate-ca"


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    client: Callable[[argparse.Namespace], Client],
) -> None:
    """Add the commands. client: makes one of the options before the command."""
    listing = commands.add_parser("certificates", help="list certificates, and until when they are valid")
    listing.description = "List certificates, and until when they are valid."
    listing.add_argument("--json", action="store_true", help="print JSON, with files and times")
    listing.set_defaults(command=lambda given: _show(client(given), given))
    more = listing.add_subparsers(metavar="COMMAND")
    rotating = more.add_parser("rotate-ca", help="replace the cluster's CA, or say what that would mean")
    rotating.description = "Replace the cluster's CA while everything runs, or say what that would mean."
    what = rotating.add_mutually_exclusive_group()
    what.add_argument("--yes", action="store_true", help="really begin")
    what.add_argument(
        "--request", action="store_true", help="print a signing request for a CA that another one signs"
    )
    what.add_argument(
        "--finish", action="store_true", help="forget the old CA, when nobody needs it any more"
    )
    what.add_argument("--cancel", action="store_true", help="forget the new CA, as long as it does not sign")
    rotating.add_argument(
        "--without", action="append", default=[], metavar="NODE", help="finish without a node that is lost"
    )
    rotating.add_argument("--ca", type=Path, metavar="FILE", help="a CA of your own, and those above it")
    rotating.add_argument(
        "--key", dest="ca_key", type=Path, metavar="FILE", help="its key, if not requested here"
    )
    rotating.add_argument("--json", action="store_true", help="print JSON")
    rotating.set_defaults(command=lambda given: _rotate(client(given), given))


def _show(client: Client, arguments: argparse.Namespace) -> int:
    data = client.get_json("/v1/certificates")
    if arguments.json:
        print(json.dumps(data, indent=2))
        return 0
    rows = [
        [
            clean(each["name"]),
            _day(each["ends"]),
            _day(each["renewed"]),
            clean(each["subject"] or "-"),
            clean(each["issuer"] or "-"),
            clean(each["problem"] or ""),
        ]
        for each in data["certificates"]
    ]
    print(table([["NAME", "ENDS", "RENEWED", "SUBJECT", "ISSUER", "PROBLEM"], *rows]))
    rotation = data["rotation"]
    if rotation is not None and (rotation["stage"] != "done" or rotation["behind"]):
        print()
        print(*_told(rotation), sep="\n")
        if rotation["nodes"]:
            rows = [[clean(each["name"]), each["stage"] or "-"] for each in rotation["nodes"]]
            print(table([["NODE", "THROUGH WITH"], *rows]))
    return 0


def _rotate(client: Client, given: argparse.Namespace) -> int:
    if given.without and not given.finish:
        raise BasaltError(
            "--without goes with --finish", "The other stages wait for all nodes, or need none."
        )
    if (given.ca_key and not given.ca) or (given.ca and (given.finish or given.cancel or given.request)):
        raise BasaltError(
            "--ca goes with the beginning, and --key with --ca",
            "Without --key it is one that was requested here.",
        )
    if given.request:
        return _request(client, given)
    if given.finish:
        query = {"without": ",".join(given.without)} if given.without else {}
        answer, after = client.post_json(f"{URL}/finish", "", query), FINISHED
    elif given.cancel:
        answer, after = client.post_json(f"{URL}/cancel", ""), CANCELLED
    else:
        files = {"certificate": given.ca, "key": given.ca_key}
        brought = {name: _read(path) for name, path in files.items() if path}
        answer = client.post_json(
            URL, json.dumps(brought) if brought else "", {"dry-run": "false" if given.yes else "true"}
        )
        after = BEGUN if given.yes else _means(answer)
    dry = not (given.yes or given.finish or given.cancel)
    if given.json:
        print(json.dumps(answer, indent=2))
    else:
        print(after, file=sys.stderr if dry else sys.stdout)
    return EXIT_USAGE if dry else 0


def _request(client: Client, given: argparse.Namespace) -> int:
    answer = client.post_json(f"{URL}/request", "")
    print(json.dumps(answer, indent=2) if given.json else answer["request"].rstrip())
    if not given.json:
        print(REQUESTED, file=sys.stderr)
    return 0


REQUESTED = """The key stays on this control plane. Have the request signed as a CA, and come back to this one with its
certificate and those above it up to the root: `basalt certificates rotate-ca --ca FILE`."""
FINISHED = """The old CA is being forgotten: within seconds no node believes it any more. Kubeconfigs and certificates
that it signed are refused; get new ones (`basalt kubeconfig`)."""
CANCELLED = "The new CA is being forgotten. It has signed nothing."
BEGUN = """All nodes learn to trust the new CA. It signs by itself as soon as they all do, and from then on every
certificate of a node is made anew; `basalt certificates` says who is behind. The old CA is trusted until you say
`basalt certificates rotate-ca --finish`."""


def _means(answer: Mapping[str, Any]) -> str:
    """Return what a rotation would do."""
    pods = (
        "Programs that have read only the old CA, in pods too, go on: servers show that it vouches for the new one."
        if answer["vouched"]
        else "Programs that know the root above both go on. Those that know the old CA alone have to read the new one."
    )
    return f"""The cluster's CA {_authority(answer["old"])} would be replaced by a new one
that ends on {_day(answer["new"]["ends"])}, in three stages:
  trust  {len(answer["nodes"])} nodes learn to trust the new CA beside the old one; each has to be on
  sign   the new one signs, and all certificates of nodes are made anew; no pod and no API server is started again
  done   the old one is forgotten, when you say --finish: give everybody outside a new kubeconfig before
{pods}
Join tokens that were given out until it signs are worth nothing then. Say --yes to begin."""


def _told(rotation: Mapping[str, Any]) -> list[str]:
    lines = [
        f"The CA {_authority(rotation['old'])} is being replaced by {_authority(rotation['new'])}",
        f"since {rotation['begun']} by {clean(rotation['author'])}.",
        f"Stage {rotation['stage']}, since {rotation['since']}.",
    ]
    if rotation["behind"]:
        lines.append(f"It is waited for {', '.join(map(clean, rotation['behind']))}.")
    elif rotation["stage"] == "sign" and rotation["nodes"]:
        lines.append(
            "All nodes are through: `basalt certificates rotate-ca --finish` has the old one forgotten."
        )
    return lines


def _authority(shown: Mapping[str, str]) -> str:
    return f"{clean(shown['subject'])} (ends {_day(shown['ends'])})"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BasaltError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BasaltError(f"{path} is no text", "Give certificates and keys in PEM form.") from None


def _day(time: str | None) -> str:
    return time[:10] if time else "-"
