# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from firstboot import schema
from firstboot.failure import BasaltError
from firstboot.report.status import SCHEMA, Phase, State, Status
from tests.unit.support_web import DEGRADED, READY

CHECKER = jsonschema.Draft202012Validator(schema.load("status"))
STATUSES = [Status(), READY, DEGRADED, *(replace(READY, phase=phase) for phase in Phase)]


def test_the_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.load("status"))


@pytest.mark.parametrize("status", STATUSES)
def test_every_document_fits_the_schema_and_comes_back(status: Status) -> None:
    document = json.loads(json.dumps(status.to_dict()))
    CHECKER.validate(document)
    assert Status.from_dict(document) == status


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"phase": "asleep"}, ["phase"]),
        ({"extra": 1}, []),
        ({"updated": "yesterday"}, ["updated"]),
        ({"timings": {"ready": -1}}, ["timings", "ready"]),
        ({"components": {"kubelet": {"state": "fine", "detail": "", "version": None}}}, ["components"]),
        ({"failures": [{"code": "Not A Code", "path": "", "found": "x", "remedy": ""}]}, ["failures"]),
        ({"node": {"name": "n", "role": "master", "addresses": []}}, ["node", "role"]),
    ],
)
def test_the_schema_is_strict(change: dict[str, Any], where: list[str]) -> None:
    errors = list(CHECKER.iter_errors({**READY.to_dict(), **change}))
    assert [list(error.absolute_path)[: len(where)] for error in errors] == [where]


def test_schema_and_code_know_the_same_names() -> None:
    text = schema.load("status")
    assert text["properties"]["schema"]["const"] == SCHEMA
    assert [each["const"] for each in text["properties"]["phase"]["oneOf"]] == list(Phase)
    part = text["$defs"]["parts"]["additionalProperties"]["properties"]
    assert [each["const"] for each in part["state"]["oneOf"]] == list(State)


def test_every_key_of_the_schema_is_described() -> None:
    def undescribed(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        own = [
            f"{path}.{name}"
            for name, value in node.get("properties", {}).items()
            if "description" not in value
        ]
        deeper = [found for key, value in node.items() for found in undescribed(value, f"{path}.{key}")]
        return own + deeper

    assert undescribed(schema.load("status"), "") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "basalt.status/v9"}, "schema is 'basalt.status/v9'"),
        ({"phase": "asleep"}, "damaged"),
        ({"failures": [{}]}, "damaged"),
        ({"node": None}, "damaged"),
    ],
)
def test_foreign_documents_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BasaltError, match=message):
        Status.from_dict({**READY.to_dict(), **change})


def test_keys_of_later_versions_are_passed_over() -> None:
    assert Status.from_dict({**READY.to_dict(), "later": 1}) == READY


@pytest.mark.parametrize(
    ("status", "reasons"),
    [
        (READY, ()),
        (Status(), ("phase is waiting-for-document",)),
        (
            DEGRADED,
            (
                "phase is degraded",
                "kubelet is failed: exit code 1",
                "kubelet: exit code 1 [component-failed]. See `basalt logs kubelet`.",
            ),
        ),
    ],
)
def test_reasons_not_to_be_ready(status: Status, reasons: tuple[str, ...]) -> None:
    assert status.unready == reasons


def test_questions_about_states_and_phases() -> None:
    assert {state for state in State if state.ok} == {State.OFF, State.HEALTHY}
    assert {state for state in State if state.bad} == {State.DEGRADED, State.FAILED}
    assert {phase for phase in Phase if not phase.settled} == {
        Phase.STARTING,
        Phase.JOINING,
        Phase.UPDATING,
        Phase.LEAVING,
    }
    assert all(phase.meaning.endswith(".") for phase in Phase)


@pytest.mark.parametrize("module", ["firstboot.report.status", "firstboot.report.console", "firstboot.cli"])
def test_what_starts_first_imports_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    heavy = {"aiohttp", "jsonschema", "yaml", "cryptography", "dbus_fast"}
    assert not heavy & {name.partition(".")[0] for name in out.split()}
