# SPDX-License-Identifier: Apache-2.0
"""Checks plain data against one of our schemas and says in plain words what is wrong: one failure per place.

It knows the part of JSON Schema that our schemas use; a test holds that part and its verdicts against the
package jsonschema. That package is not used here because its errors would have to be taken apart again to
become sentences, and because importing it costs a starting node a second and 25 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firstboot.codes import Code
from firstboot.document import closest
from firstboot.failure import Failure
from firstboot.strictyaml import Path, Place, short, show_path

KEYWORDS = frozenset(
    {
        *("type", "enum", "pattern", "maxLength", "minItems", "maxItems", "items", "required"),
        *("minimum", "maximum"),
        *("properties", "patternProperties", "additionalProperties", "$ref", "definitions"),
        *(
            "$schema",
            "$id",
            "title",
            "description",
            "default",
            "examples",
            "x-form",
            "x-key-form",
            "x-secret",
        ),
    }
)
"""Every keyword that this check understands; the ones beginning with ``x-`` are ours and only hold words."""

CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
SECRET = re.compile(r"//.*@")
Schema = Mapping[str, Any]

KINDS = {
    "object": ("keys with values", "Write keys with values below it."),
    "array": ("a list", "Write a list: one item per line with `- ` before it, or [in, brackets]."),
    "string": ("text", "Write text."),
    "integer": ("a whole number", "Write a whole number without quotes."),
    "boolean": ("true or false", "Write true or false, without quotes."),
}


@dataclass(frozen=True)
class Check:
    """One schema and where the data's values stand in the text, as far as that is known."""

    schema: Schema
    places: Mapping[Path, Place]

    def failures(self, data: Any, path: Path) -> list[Failure]:
        """Return all failures of the data, at most one per place, in the order of the document."""
        return list(self._value(self.schema, data, path))

    def _value(self, schema: Schema, data: Any, path: Path) -> Iterator[Failure]:
        schema = self._resolved(schema)
        if not is_type(data, schema.get("type")):
            yield self._wrong_type(schema, data, path)
        elif "enum" in schema and data not in schema["enum"]:
            yield self._no_choice(schema, data, path)
        elif isinstance(data, str):
            yield from self._text(schema, data, path)
        elif isinstance(data, int):
            yield from self._number(schema, data, path)
        elif isinstance(data, list):
            yield from self._list(schema, data, path)
        elif isinstance(data, dict):
            yield from self._mapping(schema, data, path)

    def _resolved(self, schema: Schema) -> Schema:
        reference = schema.get("$ref")
        if reference is None:
            return schema
        resolved: Schema = self.schema["definitions"][reference.removeprefix("#/definitions/")]
        return resolved

    def _text(self, schema: Schema, data: str, path: Path) -> Iterator[Failure]:
        pattern, longest = schema.get("pattern"), schema.get("maxLength")
        many_lines = pattern is not None and not pattern.startswith("^")
        if "PRIVATE KEY-----" in data and not schema.get("x-secret"):
            yield self.failure(
                Code.PRIVATE_KEY,
                path,
                "a private key",
                "Remove it and make a new one: who has seen it may use it. Certificates belong here.",
            )
        elif not many_lines and CONTROL.search(data):
            yield self.failure(
                Code.LINE_BREAK,
                path,
                f"{_quoted(schema, data)} is more than one line",
                "Write it on one line, without `|` or `>`.",
            )
        elif longest is not None and len(data) > longest:
            yield self.failure(
                Code.BAD_VALUE, path, f"{len(data)} characters, at most {longest} are allowed", want(schema)
            )
        elif pattern is not None and not re.search(pattern, data):
            yield self.failure(Code.BAD_VALUE, path, _quoted(schema, data), want(schema))

    def _number(self, schema: Schema, data: int, path: Path) -> Iterator[Failure]:
        if not schema.get("minimum", data) <= data <= schema.get("maximum", data):
            yield self.failure(Code.BAD_VALUE, path, f"{data} is too small or too large", want(schema))

    def _list(self, schema: Schema, data: list[Any], path: Path) -> Iterator[Failure]:
        fewest, most = schema.get("minItems", 0), schema.get("maxItems", len(data))
        if not fewest <= len(data) <= most:
            bound = f"at least {fewest}" if len(data) < fewest else f"at most {most}"
            yield self.failure(Code.BAD_VALUE, path, f"a list of {len(data)} items", f"Write {bound}.")
            return
        for index, item in enumerate(data):
            yield from self._value(schema["items"], item, (*path, index))

    def _mapping(self, schema: Schema, data: dict[Any, Any], path: Path) -> Iterator[Failure]:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        patterns: Mapping[str, Schema] = schema.get("patternProperties", {})
        for key in schema.get("required", ()):
            if key not in data:
                yield self._missing(properties[key], key, path)
        for key, value in data.items():
            inner = properties.get(key) or next(
                (each for pattern, each in patterns.items() if re.search(pattern, str(key))), None
            )
            # `$` also matches before a line break at the end; JSON Schema's does not.
            if inner is None or str(key).endswith("\n"):
                yield self._unknown(schema, key, path)
            else:
                yield from self._value(inner, value, (*path, key))

    def _wrong_type(self, schema: Schema, data: Any, path: Path) -> Failure:
        place = self.places.get(path)
        kind, remedy = KINDS[schema["type"]]
        if data is None and (place is None or place.text == ""):
            return self.failure(
                Code.NO_VALUE, path, f"nothing, but {kind} is wanted", "Write a value, or remove the key."
            )
        if schema["type"] == "string" and not isinstance(data, dict | list):
            written = place.text if place and place.text is not None else show(data)
            if schema.get("x-secret"):
                found, remedy = "text without quotes that is something else to YAML", "Write it in quotes."
            else:
                found = f"`{short(written)}` without quotes is {describe(data)} to YAML, but text is wanted"
                remedy = f'Write it in quotes: "{short(written)}".'
            return self.failure(Code.QUOTE_IT, path, found, remedy)
        if schema["type"] == "string" and schema.get("x-form"):
            remedy = want(schema)
        return self.failure(Code.WRONG_TYPE, path, f"{describe(data)}, but {kind} is wanted", remedy)

    def _no_choice(self, schema: Schema, data: Any, path: Path) -> Failure:
        choices = [str(choice) for choice in schema["enum"]]
        near = closest(str(data), choices)
        listed = " or ".join(f"`{choice}`" for choice in choices)
        remedy = (
            f"Write `{near}`; possible are {listed}." if near and len(choices) > 1 else f"Write {listed}."
        )
        return self.failure(Code.NOT_A_CHOICE, path, f"`{show(data)}`", remedy)

    def _missing(self, schema: Schema, key: str, path: Path) -> Failure:
        choices = " or ".join(f"`{key}: {choice}`" for choice in schema.get("enum", ()))
        return self.failure(Code.MISSING_KEY, (*path, key), f"no `{key}`", f"Write {choices or f'`{key}:`'}.")

    def _unknown(self, schema: Schema, key: Any, path: Path) -> Failure:
        if "x-key-form" in schema:
            return self.failure(
                Code.BAD_NAME, (*path, key), f"the key `{short(key)}`", f"Write {schema['x-key-form']}."
            )
        known = list(schema.get("properties", {}))
        near = closest(str(key), known)
        listed = ", ".join(f"`{each}`" for each in known)
        elsewhere = None if near else self._elsewhere(str(key))
        remedy = f"Write `{near}`." if near else f"Possible here: {listed}."
        if elsewhere:
            remedy = f"Write it as `{elsewhere}`. {remedy}"
        return self.failure(Code.UNKNOWN_KEY, (*path, key), f"there is no key `{short(key)}` here", remedy)

    def _elsewhere(self, key: str) -> str | None:
        """Return the path of the one other place that has such a key."""
        found = [path for path in property_paths(self.schema) if path[-1] == key]
        return show_path(("basalt", *found[0])) if len(found) == 1 else None

    def failure(self, code: Code, path: Path, found: str, remedy: str) -> Failure:
        """Return a failure whose finding begins with the line, where it is known."""
        place = self.places.get(path)
        return Failure(code, show_path(path), f"{place}: {found}" if place else found, remedy)


def property_paths(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the path of every key that has a fixed name."""
    for key, inner in schema.get("properties", {}).items():
        yield (*path, key)
        yield from property_paths(inner, (*path, key))


def is_type(data: Any, wanted: str | None) -> bool:
    """Whether the data is of one of JSON Schema's types; true and false are no numbers."""
    match wanted:
        case "object":
            return isinstance(data, dict)
        case "array":
            return isinstance(data, list)
        case "string":
            return isinstance(data, str)
        case "boolean":
            return isinstance(data, bool)
        case "integer":
            return isinstance(data, int) and not isinstance(data, bool)
        case _:
            return wanted is None


def describe(data: Any) -> str:
    """Return what kind of thing the data is, with its value where that helps."""
    match data:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {show(data)}"
        case int() | float():
            return f"the number {show(data)}"
        case str():
            return f"the text `{show(data)}`"
        case list():
            return "a list"
        case dict():
            return "keys with values"
        case _:
            return f"the date {show(data)}"


def show(data: Any) -> str:
    """Return a value for people: bounded, on one line, without passwords and keys."""
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, int) and data.bit_length() > 200:
        return "a very large one"
    text = str(data)
    if "-----BEGIN" in text:
        return "-----BEGIN …"
    return short(SECRET.sub("//…@", text))


def _quoted(schema: Schema, data: Any) -> str:
    """Return a value as a failure shows it; a secret is not shown at all."""
    return "what stands here" if schema.get("x-secret") else f"`{show(data)}`"


def want(schema: Schema) -> str:
    """Return the remedy for a value of the wrong form."""
    examples = [
        example for example in schema.get("examples", ()) if isinstance(example, str) and "\n" not in example
    ]
    example = f", e.g. `{examples[0]}`" if examples else ""
    return f"Write {schema.get('x-form', 'another value')}{example}."
