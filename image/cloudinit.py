# SPDX-License-Identifier: Apache-2.0
"""Teaches cloud-init in an image root the key ``basalt``: its schema check accepts it and rejects bad values.

Called when the image is built: ``python3 -m image.cloudinit ROOT``. Without it cloud-init would call every
node degraded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstboot import schema
from firstboot.document import KEY
from firstboot.failure import BasaltError

PLACE = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
"""Where Debian's package cloud-init has its schema."""

UNITS = "usr/lib/systemd/system"
HOLDS = ("Before=sysinit.target", "Before=basic.target")

DEFINITION = "cc_basalt"

LOCAL = "#/definitions/"

DRAFT_4 = frozenset(
    {
        *("type", "enum", "pattern", "maxLength", "minItems", "maxItems", "items", "required", "default"),
        *("properties", "patternProperties", "additionalProperties", "$ref", "title", "description"),
    }
)
"""What cloud-init's metaschema (JSON Schema draft 4) knows of the keywords that ours uses."""

NAMED = ("properties", "patternProperties")
"""Keywords whose value maps names to schemas."""


def merge(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return cloud-init's schema with our key in it; merging again changes nothing. Raises BasaltError."""
    if not isinstance(theirs.get("$defs"), dict) or not isinstance(theirs.get("properties"), dict):
        raise BasaltError(
            "cloud-init's schema has another shape than expected: no `$defs` or no top-level `properties`",
            "Look at schema-cloud-config-v1.json of the image's cloud-init and adapt image/cloudinit.py.",
        )
    definitions = {f"{DEFINITION}.{name}": adapt(each) for name, each in ours.get("definitions", {}).items()}
    part = {"type": "object", "properties": {KEY: adapt(ours)}}
    reference = {"$ref": f"#/$defs/{DEFINITION}"}
    return {
        **theirs,
        "$defs": {**theirs["$defs"], **definitions, DEFINITION: part},
        "allOf": [each for each in theirs.get("allOf", ()) if each != reference] + [reference],
        "properties": {**theirs["properties"], KEY: {}},
    }


def adapt(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of ours in the words of cloud-init's metaschema, references pointing into its file."""
    adapted: dict[str, Any] = {}
    for keyword, value in ours.items():
        if keyword in NAMED:
            adapted[keyword] = {name: adapt(inner) for name, inner in value.items()}
        elif keyword == "items":
            adapted[keyword] = adapt(value)
        elif keyword == "$ref":
            adapted[keyword] = f"#/$defs/{DEFINITION}.{value.removeprefix(LOCAL)}"
        elif keyword in DRAFT_4:
            adapted[keyword] = value
    return adapted


def install(root: Path) -> Path:
    """Change the schema in the image root and return its path. Raises BasaltError."""
    path = root / PLACE
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BasaltError(f"{path} does not exist", "Is cloud-init among the image's packages?") from None
    except ValueError as error:
        raise BasaltError(f"{path} is no JSON: {error}", "Install the package cloud-init anew.") from error
    merged = merge(theirs, schema.load("user-data"))
    path.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
    return path


def release_boot(root: Path) -> None:
    """Let the rest of the system start beside cloud-init.

    Its units come before sysinit.target, so that on other systems it may change what every service reads. Here it only
    brings the document and the network, and the agent and the network's services wait for those by themselves.
    Raises BasaltError where no unit is as expected.
    """
    released = 0
    for path in sorted((root / UNITS).glob("cloud-*.service")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.strip() not in HOLDS]
        released += len(lines) - len(kept)
        path.write_text("".join(kept), encoding="utf-8")
    if not released:
        raise BasaltError(
            f"no unit of cloud-init holds up the start by {' or '.join(HOLDS)}",
            "Look at the units of the image's cloud-init and adapt image/cloudinit.py.",
        )


def main(arguments: list[str]) -> int:
    """Merge for ``ROOT``."""
    if len(arguments) != 1:
        print("usage: python3 -m image.cloudinit ROOT", file=sys.stderr)
        return 2
    try:
        print(f"{install(Path(arguments[0]))}: has the key {KEY}")
    except BasaltError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
