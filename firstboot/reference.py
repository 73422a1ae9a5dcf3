# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference.md from the schema, and the table of codes in docs/failures.md.

``python3 -m firstboot.reference`` writes them, ``--check`` only says whether they are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firstboot import schema
from firstboot.codes import Code
from firstboot.config import Service
from firstboot.owned import EVERYWHERE, OWNED

Schema = Mapping[str, Any]

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference.md"
FAILURES = ROOT / "docs/failures.md"
BEGIN, END = "<!-- codes of documents: begin -->", "<!-- codes of documents: end -->"

HEAD = """# The document: all keys

<!-- Written by `python3 -m firstboot.reference` from schemas/user-data.schema.json; edit that. -->

A node is decided by one YAML document under the top-level key `basalt`. It may be given as cloud-init
user-data (`#cloud-config`), as the file `/etc/basalt/config.yaml` or as the systemd credential
`basalt.config`; the file goes before the credential, the credential before user-data, and documents are
never merged. `basalt validate FILE` checks one anywhere. Only `role` is required:

```yaml
#cloud-config
basalt:
  role: control-plane
```

`examples/full.yaml` has every key. Text that YAML could take for a number, a date or yes/no needs quotes.

"""


def reference() -> str:
    """Return docs/reference.md."""
    loaded = schema.load("user-data")
    sections = "\n".join("\n".join(_section(loaded, key)) for key in loaded["properties"])
    return HEAD + sections + "\n" + "\n".join(_owned()) + "\n"


def failures(page: str) -> str:
    """Return docs/failures.md with the table of a document's codes renewed."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/failures.md needs the lines {BEGIN} and {END}")
    rows = [f"| `{code}` | {code.meaning} |" for code in Code]
    return "\n".join([before + BEGIN, "| Code | Meaning |", "|---|---|", *rows, END]) + after


def _section(loaded: Schema, key: str) -> Iterator[str]:
    top = loaded["properties"][key]
    yield f"## `{key}`"
    yield ""
    if "properties" in top:
        yield top["description"]
        yield ""
    required = key in loaded.get("required", ())
    rows = [(key, top)]
    if key == "services":
        names = ", ".join(f"`{name}`" for name in top["properties"])
        yield f"`NAME` is one of {names}."
        yield ""
        rows = list(_keys(loaded["definitions"]["service"], "services.NAME"))
    elif "properties" in top:
        rows = list(_keys(top, key))
    yield "| Key | Value | Default | Meaning |"
    yield "|---|---|---|---|"
    for path, each in rows:
        default = "required" if required else _default(each)
        yield f"| `{path}` | {_value(each)} | {default} | {_cell(each['description'])} |"
    yield ""
    yield from _examples(rows)


def _keys(parent: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Return every key below the parent that holds a value, with its path."""
    for name, inner in parent["properties"].items():
        if "properties" in inner:
            yield from _keys(inner, f"{path}.{name}")
        else:
            yield f"{path}.{name}", inner


def _value(each: Schema) -> str:
    if "enum" in each:
        return " or ".join(f"`{choice}`" for choice in each["enum"])
    match each["type"]:
        case "boolean":
            return "`true` or `false`"
        case "array":
            return f"list: {_cell(each['items'].get('x-form', 'text'))}"
        case "object":
            inner = next(iter(each["patternProperties"].values()))
            value = _value(inner) if inner["type"] == "array" else _cell(inner["x-form"])
            return f"keys: {_cell(each['x-key-form'])}; values: {value}"
        case _:
            return _cell(each.get("x-form", each["type"]))


def _default(each: Schema) -> str:
    if "default" not in each:
        return "none"
    default = each["default"]
    return (
        "empty"
        if default in ([], {})
        else f"`{default if isinstance(default, str) else json.dumps(default)}`"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _examples(rows: list[tuple[str, Schema]]) -> Iterator[str]:
    """Return an example for each key whose form a table cannot show."""
    for path, each in rows:
        example = next(iter(each.get("examples", ())), None)
        if example and (isinstance(example, list | dict) or "\n" in str(example)):
            yield "```yaml"
            yield from _yaml(("basalt", *path.replace("NAME", "kubelet").split(".")), example)
            yield "```"
            yield ""


def _yaml(path: tuple[str, ...], value: Any) -> Iterator[str]:
    """Return a value below its path as people would write it; JSON is YAML, so scalars are JSON's."""
    for depth, name in enumerate(path[:-1]):
        yield f"{'  ' * depth}{name}:"
    indent = "  " * (len(path) - 1)
    match value:
        case dict():
            yield f"{indent}{path[-1]}:"
            for key, inner in value.items():
                yield f"{indent}  {key}: {json.dumps(inner, ensure_ascii=False)}"
        case list():
            yield f"{indent}{path[-1]}:"
            for inner in value:
                yield f"{indent}  - {json.dumps(inner, ensure_ascii=False)}"
        case _:
            yield f"{indent}{path[-1]}: |"
            for line in str(value).splitlines():
                yield f"{indent}  {line}"


def _owned() -> Iterator[str]:
    yield "## Arguments that Basalt owns"
    yield ""
    yield "`services.<name>.extra-args` refuses these (`*` stands for any ending); for all services also"
    yield ", ".join(f"`{name}`" for name in EVERYWHERE) + "."
    yield ""
    for service in Service:
        yield f"- **{service}**:"
        reasons: dict[str, list[str]] = {}
        for name, why in OWNED[service].items():
            reasons.setdefault(why, []).append(f"`{name}`")
        for why, names in reasons.items():
            yield f"  - {', '.join(names)}: {why}"


def main(arguments: list[str]) -> int:
    """Write both pages, or with ``--check`` compare them."""
    pages = {REFERENCE: reference(), FAILURES: failures(FAILURES.read_text(encoding="utf-8"))}
    old = [page for page, text in pages.items() if not page.exists() or page.read_text("utf-8") != text]
    for page in old:
        if "--check" in arguments:
            print(f"{page} is not current: run python3 -m firstboot.reference", file=sys.stderr)
        else:
            page.write_text(pages[page], encoding="utf-8")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
