# SPDX-License-Identifier: Apache-2.0
"""The document's text: from bytes to the value of the key ``basalt``, with an answer to every trap of YAML.

The same text may be a whole ``#cloud-config`` (its other keys are cloud-init's and not looked at) or a file
that has only ``basalt:``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from firstboot.codes import Code
from firstboot.failure import DocumentError, Failure
from firstboot.strictyaml import MAPPING, Builder, Node, Path, Place, StructureError, compose, short

if TYPE_CHECKING:
    import yaml

KEY = "basalt"
"""The document's top-level key."""

MAX_BYTES = 1024 * 1024
"""Longest document. Clouds give user-data 16 KiB to 256 KiB."""

# What YAML 1.1 allows in a file, as a set of what it does not.
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Format(StrEnum):
    """What user-data can be, told from its beginning as cloud-init does."""

    DOCUMENT = "a YAML document"
    EMPTY = "empty"
    GZIP = "gzip data"
    MIME = "a MIME message"
    JINJA = "a Jinja template"
    INCLUDE = "a list of URLs to include"
    SCRIPT = "a script"
    OTHER = "a cloud-init archive, patch, boothook or part handler"

    @classmethod
    def of(cls, content: bytes) -> Format:
        """Tell the format of a file's content."""
        if content.startswith(b"\x1f\x8b"):
            return cls.GZIP
        # cloud-init skips white space before the first line, and so do we.
        start = content.lstrip(b"\xef\xbb\xbf").lstrip()[:64].lower()
        if not start:
            return cls.EMPTY
        return next((kind for prefix, kind in _BEGINNINGS if start.startswith(prefix)), cls.DOCUMENT)


_BEGINNINGS = (
    (b"## template:", Format.JINJA),
    (b"#include", Format.INCLUDE),
    (b"#!", Format.SCRIPT),
    (b"#cloud-config-archive", Format.OTHER),
    (b"#cloud-config-jsonp", Format.OTHER),
    (b"#cloud-boothook", Format.OTHER),
    (b"#part-handler", Format.OTHER),
    (b"content-type:", Format.MIME),
    (b"mime-version:", Format.MIME),
)


@dataclass(frozen=True)
class Parsed:
    """The value of ``basalt`` as plain data, where each value stands, and what is wrong already."""

    data: Any
    places: Mapping[Path, Place]
    failures: tuple[Failure, ...]


def decode(content: bytes, origin: str) -> str:
    """Return the text of a file. Raises DocumentError for what is too long or no UTF-8 text."""
    if len(content) > MAX_BYTES:
        raise _refused(
            Code.TOO_LARGE,
            origin,
            f"the document is longer than {MAX_BYTES // 1024} KiB",
            "Keep files and scripts out of it.",
        )
    found = Format.of(content)
    if found not in (Format.DOCUMENT, Format.EMPTY):
        raise _refused(
            Code.OTHER_FORMAT,
            origin,
            f"this is {found}",
            "Give the YAML document itself; cloud-init unpacks other formats, but only as user-data.",
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(Code.NOT_TEXT, origin, "the text is encoded as UTF-16", "Save the file as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(
            Code.NOT_TEXT,
            origin,
            f"line {line}: the byte 0x{content[error.start]:02x} is not UTF-8",
            "Save the file as UTF-8.",
        ) from None
    return text


def parse(text: str, origin: str) -> Parsed:
    """Return what stands under ``basalt``. Raises DocumentError when the text as a whole cannot be used.

    origin: the file's path or another name of the source; the path of failures that concern all of the text
    """
    import yaml

    _check_characters(text, origin)
    try:
        root = compose(text)
    except StructureError as error:
        raise _refused(error.code, origin, error.found, error.remedy) from None
    except yaml.YAMLError as error:
        raise DocumentError([_syntax_failure(error, text, origin)]) from None
    node, duplicates = _document_node(root, origin)
    builder = Builder()
    data = builder.build(node, (KEY,))
    return Parsed(data, builder.places, (*duplicates, *builder.failures))


def closest(word: str, known: list[str]) -> str | None:
    """Return the known word that the given one is most likely meant to be."""
    matches = difflib.get_close_matches(word.lower().replace("_", "-"), known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def _refused(code: Code, origin: str, found: str, remedy: str) -> DocumentError:
    return DocumentError([Failure(code, origin, found, remedy)])


def _check_characters(text: str, origin: str) -> None:
    if len(text) > MAX_BYTES:
        decode(text.encode("utf-8", "replace"), origin)
    bad = UNPRINTABLE.search(text)
    if bad is None:
        return
    line = text.count("\n", 0, bad.start()) + 1
    name = "a NUL byte" if bad.group() == "\0" else f"the character U+{ord(bad.group()):04X}"
    raise _refused(
        Code.NOT_TEXT,
        origin,
        f"line {line}: {name} cannot stand in YAML",
        "Remove it; is this a binary file?",
    )


def _document_node(root: Node | None, origin: str) -> tuple[Node, list[Failure]]:
    """Return the node under ``basalt`` and a failure for each further one."""
    if root is None or (root.place.text == "" and root.place.plain):
        raise _refused(
            Code.EMPTY, origin, "there is nothing in it", "Write `basalt:` with at least a `role:`."
        )
    if root.tag != MAPPING:
        kind = "text" if root.place.text is not None else "a list"
        raise _no_key(origin, f"the file holds {kind}, not keys with values")
    named = [(key, value) for key, value in root.pairs() if key.place.text == KEY]
    if not named:
        keys = [short(key.place.text, 30) for key, _ in root.pairs() if key.place.text is not None]
        raise _no_key(
            origin, f"no top-level key `{KEY}`, only {', '.join(f'`{key}`' for key in keys[:8])}", keys
        )
    first = named[0][0].place
    again = [
        Failure(
            Code.DUPLICATE_KEY,
            KEY,
            f"{key.place}, column {key.place.column}: the key `{KEY}` stands here again, first on {first}",
            "Put everything under one of the two.",
        )
        for key, _ in named[1:2]
    ]
    return named[0][1], again


def _no_key(origin: str, found: str, keys: list[str] | None = None) -> DocumentError:
    near = closest(KEY, [key.lower() for key in keys or []])
    remedy = "Begin with `basalt:` and indent everything else below it."
    if near == KEY:
        remedy = f"Write `{KEY}` in lower case."
    elif near:
        remedy = f"Write `{KEY}` instead of `{near}`."
    return _refused(Code.NO_BASALT_KEY, origin, found, remedy)


HINTS = (
    (
        "mapping values are not allowed",
        "Quote a value that has `: ` in it; start keys that belong together in one column.",
    ),
    ("did not find expected key", "Start keys that belong together in one column."),
    ("expected <block end>", "Start keys that belong together in one column."),
    ("block sequence entries are not allowed", "Put the list on lines of its own below the key."),
    (
        "could not find expected ':'",
        "Write a colon and a space after each key; begin a text of several lines with `|`.",
    ),
    ("cannot start any token", "Quote values that begin with `@`, `%` or a backtick."),
    ("unexpected end of stream", "Look for a quotation mark that is not closed."),
    ("expected ',' or", "Look for a bracket that is not closed."),
    ("flow", "Look for a bracket that is not closed."),
)


def _syntax_failure(error: yaml.YAMLError, text: str, origin: str) -> Failure:
    """Say in plain words what the parser stumbled over."""
    problem = str(getattr(error, "problem", None) or "it cannot be read")
    context = str(getattr(error, "context", None) or "")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    row, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    line = lines[row] if row < len(lines) else ""
    where = f"line {row + 1}, column {column + 1}"
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or line[column : column + 1] == "\t":
        return Failure(Code.TAB, origin, f"{where}: a tab", "Indent with spaces; YAML does not allow tabs.")
    if "alias" in context or "anchor" in context:
        return Failure(
            Code.ALIAS,
            origin,
            f"{where}: `*` or `&` without a name",
            "Write text that begins with `*` or `&` in quotes.",
        )
    explained = f"{problem} {context}"
    hint = next((hint for words, hint in HINTS if words in explained), "Compare with the examples.")
    # The line itself is not repeated: the status page shows this to everybody, and it may hold a password.
    return Failure(Code.YAML_SYNTAX, origin, f"{where}: {short(problem, 100)}", hint)
