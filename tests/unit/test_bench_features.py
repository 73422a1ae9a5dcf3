# SPDX-License-Identifier: Apache-2.0
"""What the benchmark says of features; they themselves need a container."""

from __future__ import annotations

from pathlib import Path

from tests.bench import feature_tables, tables
from tests.bench.availability import Load
from tests.bench.results import Features, Idle, Results, Start

from .test_bench import HOST, results

FOUND = Features(
    HOST,
    {"traefik": Idle(40 << 20, 0.0123)},
    {"Ingress": (0.9, 0.5, 0.7)},
    (Load(4000, 1.5, 9), Load(5000, 1.25, 8)),
    (Load(2000, 3, 18), Load(2000, 3, 24)),
    (Start(20, 30), Start(10, 12)),
)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = Results(HOST, results().sizes, features=FOUND)
    found.save(tmp_path / "bench.json")
    assert Results.load(tmp_path / "bench.json") == found


def test_tables_say_what_was_found() -> None:
    idle, answers, starts, rates = feature_tables.parts(FOUND)
    assert "| traefik           | 40        | 1.23                   |" in idle
    assert "0.50 / 0.70" in answers
    assert "| 10.0 / 15.0 | 12.0 / 21.0  | 1.20 / 1.35 |" in starts
    assert "4000 / 4500" in rates and "0.45" in rates and "2.20" in rates and "2.50" in rates


def test_they_have_a_place_of_their_own_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.FEATURES_BEGIN}\nold\n{tables.FEATURES_END}\nafter\n")
    tables.write_into(page, Results(HOST, results().sizes, features=FOUND))
    assert page.read_text().startswith(f"before\n{tables.FEATURES_BEGIN}\nBasalt 0.1.")
    assert page.read_text().endswith(f"|\n{tables.FEATURES_END}\nafter\n")
