# SPDX-License-Identifier: Apache-2.0
"""One addition to a person's user-data, every other character left as it was written."""

from __future__ import annotations

import re
import textwrap

from firstboot.failure import BasaltError

DOCUMENT = re.compile(r"^basalt:[ \t]*(?:#.*)?$", re.MULTILINE)
ACCESS = re.compile(r"^(?P<indent>[ ]+)access:[ \t]*(?:#.*)?$", re.MULTILINE)
CLIENT_CA = re.compile(r"^[ ]+client-ca:", re.MULTILINE)
DEFAULT_INDENT = 2


def with_client_ca(text: str, pem: str) -> str | None:
    """Return the user-data with access.client-ca added, or None when it names one of its own.

    Raises BasaltError when there is no `basalt:` in block style to add it to.
    """
    found = DOCUMENT.search(text)
    if not found:
        raise BasaltError(
            "the user-data has no line `basalt:` under which access.client-ca could be added",
            "Write the document in block style, or give access.client-ca in it yourself.",
        )
    start = found.end() + 1
    block = _block(text[start:])
    if CLIENT_CA.search(block):
        return None
    indent = _indent(block)
    access = ACCESS.search(block)
    if access and len(access["indent"]) == indent:
        inner = _indent(block[access.end() + 1 :], indent + DEFAULT_INDENT)
        position = start + access.end() + 1
        return _insert(text, position, _client_ca(pem, inner))
    return _insert(text, start, f"{' ' * indent}access:\n" + _client_ca(pem, indent + DEFAULT_INDENT))


def _client_ca(pem: str, indent: int) -> str:
    body = textwrap.indent(f"{pem.strip()}\n", " " * (indent + DEFAULT_INDENT))
    return f"{' ' * indent}client-ca: |\n{body}"


def _insert(text: str, position: int, addition: str) -> str:
    head, tail = text[:position], text[position:]
    return (head if head.endswith("\n") else f"{head}\n") + addition + tail


def _block(text: str) -> str:
    """Return the lines up to the next top-level key."""
    following = re.search(r"^[^\s#]", text, re.MULTILINE)
    return text[: following.start()] if following else text


def _indent(block: str, default: int = DEFAULT_INDENT) -> int:
    """Return by how much the first key of a block is indented."""
    first = re.search(r"^( +)[^\s#]", block, re.MULTILINE)
    return len(first[1]) if first else default
