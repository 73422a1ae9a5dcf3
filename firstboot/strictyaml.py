# SPDX-License-Identifier: Apache-2.0
"""YAML without its traps: a bounded tree, every value with its place, a failure for what YAML would guess.

The parser's events are turned into nodes without recursion, so that depth, size and the written-out size of
aliases are known before any of it is built. PyYAML's own loader would take the last of two equal keys, any
type of key, and all the memory of the machine for a few nested aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firstboot.codes import Code
from firstboot.failure import Failure

if TYPE_CHECKING:
    import yaml

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of the file."""

MAX_VALUES = 20_000
"""Most values in a document, with every alias written out."""

MAX_DEPTH = 64
"""Most levels of a document, with every alias written out."""

TAG = "tag:yaml.org,2002:"
TEXT, MAPPING, SEQUENCE, MERGE = TAG + "str", TAG + "map", TAG + "seq", TAG + "merge"


@dataclass(frozen=True)
class Place:
    """Where a value stands and how it is written.

    line, column: counted from 1
    text:         the scalar's own text, None for mappings and lists
    plain:        whether it has no quotes, so that YAML may guess its type
    """

    line: int
    column: int
    text: str | None = None
    plain: bool = False

    def __str__(self) -> str:
        return f"line {self.line}"


@dataclass(slots=True)
class Node:
    """A value of the text before it is built. Mappings hold keys and values in turn.

    size, height: values and levels in it with aliases written out
    """

    tag: str
    place: Place
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """Return keys with their values."""
        return zip(self.items[::2], self.items[1::2], strict=True)


class StructureError(Exception):
    """The text cannot be made a tree. Carries code, finding, remedy and line."""

    def __init__(self, code: Code, found: str, remedy: str, line: int) -> None:
        super().__init__(found)
        self.code, self.found, self.remedy, self.line = code, found, remedy, line


def show_path(path: Path) -> str:
    """Return a path as users see it: ``basalt.node.taints[0]``, ``basalt.node.labels[example.org/zone]``."""
    shown = ""
    for part in path:
        simple = isinstance(part, str) and part.replace("-", "").replace("_", "").isalnum()
        if not simple:
            shown += f"[{short(part)}]"
        else:
            shown += f".{short(part)}" if shown else short(part)
    return shown


def short(value: object, limit: int = 60) -> str:
    """Return text on one line, without control characters and of bounded length."""
    text = "".join(
        char if char.isprintable() else "\N{SYMBOL FOR SUBSTITUTE}" for char in str(value)[: limit + 1]
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def compose(text: str) -> Node | None:
    """Return the text's one document as a tree, None when it has no content.

    Raises StructureError for what is too large or refers to itself, yaml.YAMLError for what is not YAML.
    """
    import yaml

    # libyaml's parser is some twenty times faster; wheels and Debian have it, other builds need not.
    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = loader_class(text)
    composer = _Composer(loader.resolve)
    try:
        while loader.check_event():
            composer.take(loader.get_event())
    except yaml.MarkedYAMLError as error:
        # libyaml reads ahead of us and, since 0.2.6, has a bound of its own.
        if error.problem == "exceeded maximum nesting depth" and error.problem_mark:
            raise _too_deep(error.problem_mark.line + 1) from error
        raise
    finally:
        loader.dispose()
    return composer.root


class _Composer:
    """Builds nodes from events and stops at the first that breaks a bound."""

    def __init__(self, resolve: Any) -> None:
        self.root: Node | None = None
        self._resolve = resolve
        self._documents = 0
        self._written = 0
        self._open: list[tuple[Node, str | None]] = []
        self._anchors: dict[str, Node | None] = {}

    def take(self, event: yaml.Event) -> None:
        """Add one event."""
        import yaml

        line = _place(event).line
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise StructureError(
                        Code.SEVERAL_DOCUMENTS,
                        f"line {line}: a second document begins (`---`)",
                        "Put all of it into one document, or into separate files.",
                        line,
                    )
            case yaml.AliasEvent():
                self._alias(str(event.anchor), line)
            case yaml.ScalarEvent():
                node = self._scalar(event)
                self._anchor(event.anchor, node)
                self._add(node)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                node, anchor = self._open.pop()
                self._anchor(anchor, node)
                self._add(node)
            case _:
                pass

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        import yaml

        plain = event.style in (None, "")
        tag = TEXT if event.tag == "!" else event.tag
        if tag is None:
            tag = self._resolve(yaml.ScalarNode, event.value, event.implicit)
        where = _place(event)
        return Node(tag, Place(where.line, where.column, event.value, plain))

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        import yaml

        default = MAPPING if isinstance(event, yaml.MappingStartEvent) else SEQUENCE
        tag = default if event.tag in (None, "!") else event.tag
        self._open.append((Node(tag, _place(event)), event.anchor))
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._check_depth(0, _place(event).line)

    def _anchor(self, name: str | None, node: Node) -> None:
        if name is not None:
            self._anchors[name] = node

    def _alias(self, name: str, line: int) -> None:
        if name not in self._anchors:
            raise StructureError(
                Code.ALIAS,
                f"line {line}: `*{short(name)}` refers to an anchor that does not exist",
                "Write text that begins with `*` in quotes.",
                line,
            )
        target = self._anchors[name]
        if target is None:
            raise StructureError(
                Code.ALIAS,
                f"line {line}: `*{short(name)}` refers to something that it is itself a part of",
                "Write the value out instead of the alias.",
                line,
            )
        self._check_depth(target.height, line)
        self._add(target, line)

    def _add(self, node: Node, line: int = 0) -> None:
        self._written += node.size == 1
        if not self._open:
            self.root = node
            return
        parent, _ = self._open[-1]
        parent.items.append(node)
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.size > MAX_VALUES:
            self._too_large(line or node.place.line)

    def _check_depth(self, height: int, line: int) -> None:
        if len(self._open) + height > MAX_DEPTH:
            raise _too_deep(line)

    def _too_large(self, line: int) -> None:
        if self._written < MAX_VALUES:
            raise StructureError(
                Code.ALIAS_BOMB,
                f"line {line}: the aliases stand for more than {MAX_VALUES} values",
                "Write the values out instead of using aliases inside each other.",
                line,
            )
        raise StructureError(
            Code.TOO_LARGE, f"line {line}: more than {MAX_VALUES} values", "A document needs far fewer.", line
        )


def _too_deep(line: int) -> StructureError:
    return StructureError(
        Code.TOO_LARGE,
        f"line {line}: more than {MAX_DEPTH} levels inside each other",
        "A document needs far fewer; look for unclosed brackets.",
        line,
    )


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


class Builder:
    """Builds plain data from nodes and notes each value's place and every failure; it never stops at one."""

    def __init__(self) -> None:
        import yaml

        self.places: dict[Path, Place] = {}
        self.failures: list[Failure] = []
        constructor = yaml.constructor.SafeConstructor()
        self._scalars: Mapping[str, Any] = {
            TAG + "null": constructor.construct_yaml_null,
            TAG + "bool": constructor.construct_yaml_bool,
            TAG + "int": constructor.construct_yaml_int,
            TAG + "float": constructor.construct_yaml_float,
            TAG + "timestamp": constructor.construct_yaml_timestamp,
        }

    def build(self, node: Node, path: Path, key: Node | None = None) -> Any:
        """Return the node, which is the value of the key, as plain data (numbers and dates included)."""
        # Keys and lists begin on the line after their key, but people look for them at the key.
        self.places[path] = key.place if key and node.place.text is None else node.place
        if node.place.text is not None:
            return self._scalar(node, path)
        if node.tag == SEQUENCE:
            return [self.build(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.tag == MAPPING:
            members = self._members(node, path).items()
            return {name: self.build(value, (*path, name), key) for name, (key, value) in members}
        self._bad_tag(node, path)
        return None

    def _scalar(self, node: Node, path: Path) -> Any:
        import yaml

        text = node.place.text or ""
        if node.tag in (TEXT, TAG + "value", MERGE):
            return text
        if node.tag not in self._scalars:
            self._bad_tag(node, path)
            return text
        try:
            return self._scalars[node.tag](yaml.ScalarNode(node.tag, text))
        except (yaml.YAMLError, ValueError, KeyError, IndexError, OverflowError, AttributeError):
            kind = node.tag.removeprefix(TAG)
            self._fail(
                Code.BAD_TAG,
                path,
                f"{node.place}: `{short(text)}` looks like a {kind} but is none",
                "Write it in quotes.",
            )
            return text

    def _members(self, node: Node, path: Path) -> dict[str, tuple[Node, Node]]:
        """Return each name's key and value: own ones before merged ones, earlier merges before later ones."""
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        for key, value in node.pairs():
            name = self._key(key, path) if key.tag != MERGE else None
            if key.tag == MERGE:
                for source in self._sources(value, path):
                    merged = {**self._members(source, path), **merged}
            elif name is None:
                continue
            elif name in own:
                self._fail(
                    Code.DUPLICATE_KEY,
                    (*path, name),
                    f"{key.place}, column {key.place.column}: the key `{short(name)}` stands here again, "
                    f"first on {own[name][0].place}",
                    "Keep one of the two.",
                )
            else:
                own[name] = (key, value)
        return {**merged, **own}

    def _sources(self, value: Node, path: Path) -> list[Node]:
        sources = value.items if value.tag == SEQUENCE else [value]
        if any(source.tag != MAPPING for source in sources):
            self._fail(
                Code.BAD_MERGE,
                (*path, "<<"),
                f"{value.place}: `<<` does not name a mapping",
                "Write `<<: *name`, where `&name` stands at a mapping, or write the keys out.",
            )
        return [source for source in sources if source.tag == MAPPING]

    def _key(self, key: Node, path: Path) -> str | None:
        text = key.place.text
        if key.tag in (TEXT, TAG + "value") and text is not None:
            return text
        if text is None:
            found, remedy = (
                "a list or mapping stands where a key should",
                "Use text as key; quote `{` and `[`.",
            )
        else:
            kind = TYPE_NAMES.get(key.tag.removeprefix(TAG), "something other than text")
            found = f"YAML reads the key `{short(text)}` as {kind}"
            remedy = f'Write it in quotes: "{short(text)}".'
        self.places.setdefault((*path, text or "?"), key.place)
        self._fail(Code.KEY_NOT_TEXT, (*path, text or "?"), f"{key.place}: {found}", remedy)
        return None

    def _bad_tag(self, node: Node, path: Path) -> None:
        shown = node.tag.replace(TAG, "!!")
        self._fail(
            Code.BAD_TAG,
            path,
            f"{node.place}: the tag `{short(shown)}` means nothing here",
            "Remove the tag; write text that begins with `!` in quotes.",
        )

    def _fail(self, code: Code, path: Path, found: str, remedy: str) -> None:
        self.failures.append(Failure(code, show_path(path), found, remedy))


TYPE_NAMES = {
    "null": "nothing",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "binary": "binary data",
}
