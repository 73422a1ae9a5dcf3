# SPDX-License-Identifier: Apache-2.0
"""A move of the datastore over a real socket, by the API and by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot import cli
from firstboot.client import Endpoint
from firstboot.config import DatastoreType
from firstboot.moving.judging import refused
from firstboot.moving.mover import Forecast, Mover

from .support_moving import DQLITE, ETCD, HOSTS
from .support_web import Served, serve
from .test_api import assert_described


class Moves:
    """A mover that has told what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses = False

    async def forecast(self, to: DatastoreType) -> Forecast:
        self.asked.append(f"would {to}")
        return Forecast(DQLITE, to, 4096, 12, 345, 41, HOSTS[0], HOSTS[1:])

    async def move(self, to: DatastoreType) -> Forecast:
        await asyncio.sleep(0)
        if self.refuses:
            raise refused("the node is not ready", "`basalt status` says what is missing.")
        self.asked.append(f"does {to}")
        return Forecast(DQLITE, to, 4096, 12, 345, 44, HOSTS[0], ())

    async def forget(self) -> None:
        self.asked.append("forgets")


@pytest.fixture
def moves() -> Moves:
    return Moves()


@pytest.fixture
def served(moves: Moves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serve(tmp_path / "api.sock") as served:
        served.node.moves = cast(Mover, moves)
        monkeypatch.setattr(Endpoint.__init__, "__defaults__", (None, None, None, None, False, served.socket))
        yield served


@pytest.fixture
def main(served: Served) -> Callable[..., int]:
    return lambda *arguments: cli.main(["datastore", "move", *arguments])


def test_what_it_would_be_is_told_first(
    moves: Moves, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("etcd") == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "from dqlite to etcd: 12 keys of revision 345",
        "4096 bytes now; about 41 seconds without writes",
        f"{HOSTS[0]} has the new datastore first",
        f"{HOSTS[1]} joins it then",
        f"{HOSTS[2]} joins it then",
    ]
    assert "--yes" in err and moves.asked == ["would etcd"]
    assert main("etcd", "--json") == 2
    assert json.loads(capsys.readouterr().out)["others"] == list(HOSTS[1:])


def test_it_is_done_when_that_is_said(
    moves: Moves, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("etcd", "--yes") == 0
    assert "status --wait ready" in capsys.readouterr().out and moves.asked == ["does etcd"]
    assert main("--forget") == 0
    assert moves.asked[-1] == "forgets"
    moves.refuses = True
    assert main("dqlite", "--yes") == 1
    assert "the node is not ready [move-refused]" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("etcd", "--forget")])
def test_either_a_datastore_or_that_the_old_data_goes(
    moves: Moves, main: Callable[..., int], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*arguments) == 1
    assert "Give one of dqlite, etcd, or --forget." in capsys.readouterr().err and moves.asked == []


@pytest.mark.parametrize(
    ("query", "code", "path"),
    [
        ("?to=etcd&dry-run=true", 200, None),
        ("?to=etcd", 202, None),
        ("", 400, "to"),
        ("?to=external", 400, "to"),
        ("?to=etcd&dry-run=maybe", 400, "dry-run"),
    ],
)
def test_requests(served: Served, query: str, code: int, path: str | None) -> None:
    found, body = served.ask("POST", f"/v1/datastore/move{query}")
    assert found == code
    assert_described("/v1/datastore/move", "post", found, body)
    assert path is None or body["failures"][0]["path"] == path


def test_answers_are_as_described(served: Served, moves: Moves) -> None:
    found, body = served.ask("POST", "/v1/datastore/forget")
    assert_described("/v1/datastore/forget", "post", found, body)
    moves.refuses = True
    found, body = served.ask("POST", f"/v1/datastore/move?to={ETCD}")
    assert (found, body["failures"][0]["code"]) == (409, "move-refused")
    assert_described("/v1/datastore/move", "post", found, body)
    served.node.moves = None
    for request in ("move?to=etcd", "forget"):
        refusal: tuple[int, Any] = served.ask("POST", f"/v1/datastore/{request}")
        assert (refusal[0], refusal[1]["failures"][0]["code"]) == (503, "not-yet")
