# SPDX-License-Identifier: Apache-2.0
"""`basalt certificates`: whose they are, who has signed them, and until when."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstboot.client import Client


def show(
    client: Client, arguments: argparse.Namespace, table: Callable[[list[str], list[list[str]]], None]
) -> int:
    """Print all certificates of a node; table: prints one."""
    data = client.get_json("/v1/certificates")
    if arguments.json:
        print(json.dumps(data, indent=2))
        return 0
    from firstboot.report.screen import clean

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
    table(["NAME", "ENDS", "RENEWED", "SUBJECT", "ISSUER", "PROBLEM"], rows)
    return 0


def _day(time: str | None) -> str:
    return time[:10] if time else "-"
