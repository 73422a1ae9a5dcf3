# SPDX-License-Identifier: Apache-2.0
"""What is made of the schema: the reference, the table of codes, and the key in cloud-init's own schema."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from firstboot import owned, reference, schema
from firstboot.codes import Code
from firstboot.config import Service
from firstboot.failure import BasaltError
from image import cloudinit

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

THEIRS: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "$defs": {"cc_timezone": {"type": "object", "properties": {"timezone": {"type": "string"}}}},
    "allOf": [{"$ref": "#/$defs/cc_timezone"}],
    "properties": {"timezone": {}},
    "additionalProperties": False,
}
"""cloud-init's schema in small: each module has a definition, and the top names the keys."""


def test_generated_pages_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_code_and_key_is_documented() -> None:
    failures = reference.FAILURES.read_text()
    assert [code for code in Code if f"| `{code}` |" not in failures] == []
    page = reference.REFERENCE.read_text()
    for path in ("cluster.pod-cidr", "features.dns.upstream-nameservers", "registries.mirrors", "role"):
        assert f"| `{path}` |" in page


def test_owned_arguments_belong_to_services() -> None:
    assert set(owned.OWNED) == set(Service)


@pytest.fixture
def merged(tmp_path: Path) -> dict[str, Any]:
    place = tmp_path / cloudinit.PLACE
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(THEIRS))
    assert cloudinit.main([str(tmp_path)]) == 0
    once = place.read_text()
    assert cloudinit.main([str(tmp_path)]) == 0
    assert place.read_text() == once
    result: dict[str, Any] = json.loads(once)
    return result


GOOD = [yaml.safe_load(example.read_text()) for example in EXAMPLES]
BAD = [
    ({"role": "king"}, "role"),
    ({}, "basalt"),
    ({"role": "control-plane", "x": 1}, "basalt"),
    ({"role": "control-plane", "node": {"labels": {"a": False}}}, "a"),
    ({"role": "control-plane", "services": {"kubelet": {"extra-args": {"v": 4}}}}, "v"),
]


@pytest.mark.parametrize("document", GOOD, ids=[example.name for example in EXAMPLES])
def test_cloud_init_accepts(merged: dict[str, Any], document: dict[str, Any]) -> None:
    jsonschema.Draft4Validator(merged).validate({"timezone": "UTC", **document})


@pytest.mark.parametrize(("value", "place"), BAD)
def test_cloud_init_rejects(merged: dict[str, Any], value: dict[str, Any], place: str) -> None:
    errors = list(jsonschema.Draft4Validator(merged).iter_errors({"basalt": value}))
    assert [error.absolute_path[-1] for error in errors] == [place]


def test_cloud_init_keeps_its_own_rules(merged: dict[str, Any]) -> None:
    validator = jsonschema.Draft4Validator(merged)
    assert not validator.is_valid({"timezone": 3})
    assert not validator.is_valid({"basalts": {}})
    assert {key: merged["$defs"][key] for key in THEIRS["$defs"]} == THEIRS["$defs"]


def test_only_words_of_cloud_inits_metaschema_are_used() -> None:
    """Its metaschema is draft 4 with nothing added, and cloud-init's own tests hold every schema to it."""
    strict = copy.deepcopy(jsonschema.Draft4Validator.META_SCHEMA)
    strict["additionalProperties"] = False
    strict["properties"]["$ref"] = {"type": "string"}
    part = cloudinit.adapt(schema.load("user-data"))
    jsonschema.Draft4Validator(strict).validate(part)
    assert "x-form" not in json.dumps(part) and "definitions" not in json.dumps(part)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"$defs": []}'])
def test_another_cloud_init_fails_the_build(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        place = tmp_path / cloudinit.PLACE
        place.parent.mkdir(parents=True)
        place.write_text(content)
    with pytest.raises(BasaltError) as caught:
        cloudinit.install(tmp_path)
    assert caught.value.hint
    assert cloudinit.main([str(tmp_path)]) == 1
