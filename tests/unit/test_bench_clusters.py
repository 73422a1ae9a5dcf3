# SPDX-License-Identifier: Apache-2.0
"""What the benchmark makes of what writers to clusters have written down; the clusters themselves need containers."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench import availability, cluster_tables, clusters, tables, writes
from tests.bench.availability import Load, Write, outage, worst
from tests.bench.observe import Api
from tests.bench.results import Cluster, Clusters, Loss, Move, Outage, Results, Weight

from .test_bench import HOST, results

MIB = 1 << 20


def measured(datastore: str, members: int, ready: float = 20.0) -> Cluster:
    outages = [Outage(loss, 1.5, 2.5, 3.5) for loss in Loss] if members == 3 else []
    moves = [Move(loss, 4.5) for loss in Loss] if members == 3 else []
    idle, used = Weight(30 * MIB, 500 * MIB), Weight(50 * MIB, 600 * MIB)
    return Cluster(
        datastore, members, ready, idle, used, Load(400.0, 15.0, 60.0), tuple(outages), tuple(moves)
    )


FOUND = Clusters(
    HOST,
    (
        measured("dqlite", 1, 20),
        measured("etcd", 1, 25),
        measured("dqlite", 3, 60),
        measured("etcd", 3, 50),
        measured("dqlite", 1, 10),
        measured("dqlite", 3, 40),
    ),
)


@pytest.mark.parametrize(
    ("moments", "loss", "seconds"),
    [
        ([1.0, 2.0, 2.1, 7.1, 7.2], 2.5, 5.0),
        # An answer that was under way when the loss happened ends no outage.
        ([1.0, 2.0, 2.1, 7.1, 7.2], 2.05, 5.0),
        # What was slow before does not count.
        ([0.0, 90.0, 90.5, 92.0], 90.6, 1.5),
        ([1.0, 2.0], 1.0, 1.0),
    ],
)
def test_an_outage_is_the_longest_silence_around_a_loss(
    moments: list[float], loss: float, seconds: float
) -> None:
    assert outage(moments, loss) == pytest.approx(seconds)


@pytest.mark.parametrize(("moments", "loss"), [([], 1.0), ([1.0], 2.0), ([2.0, 3.0], 1.0)])
def test_an_outage_without_an_end_or_a_beginning_is_none(moments: list[float], loss: float) -> None:
    with pytest.raises(ValueError, match="no write was acknowledged"):
        outage(moments, loss)


def test_of_several_writers_the_one_that_waited_longest_counts() -> None:
    calm = [Write(0, each, each + 0.1) for each in (1.0, 2.0, 3.0, 9.0)]
    caught = [Write(1, each, each + 0.1) for each in (1.0, 8.0)]
    assert worst([*calm, *caught], 2.5) == pytest.approx(7.0)
    assert worst(calm, 1.5) == pytest.approx(6.0)


def test_a_load_is_told_by_ranks() -> None:
    quick = [Write(each % 4, each / 100, each / 100 + 0.01) for each in range(198)]
    slow = [Write(4, 0.0, 1.0), Write(4, 1.0, 1.98)]
    found = Load.of([*quick, *slow])
    assert found == Load(101.0, 10.0, 10.0)
    assert Load.of([*quick, *slow, Write(4, 1.0, 1.5)]).p99 == 500.0
    with pytest.raises(ValueError, match="nothing was acknowledged"):
        Load.of([])


def test_ranks() -> None:
    assert [availability.rank([1.0, 2.0, 3.0, 4.0], share) for share in (0.5, 0.51, 0.99, 1)] == [2, 3, 4, 4]
    assert availability.rank([7.0], 0.5) == 7


def test_journals_are_read_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert writes.read(path) == [] and clusters.acknowledged(path) == []
    path.write_text("2 1.5 1.75\n0 1.6 1.")
    assert writes.read(path) == [Write(2, 1.5, 1.75)]
    record = {"started": 1_500_000_000, "ended": 1_750_000_000, "outcome": "made"}
    lines = [json.dumps(each) for each in (record, {**record, "outcome": "unknown"}, record)]
    path.write_text("\n".join(lines)[:-3])
    assert clusters.acknowledged(path) == [Write(0, 1.5, 1.75)]


class Server:
    """An API server that acknowledges every other object, and ends its writers after a few."""

    def __init__(self, end: threading.Event) -> None:
        self.end, self.made = end, list[str]()

    def ask(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        assert path == "/api/v1/namespaces/default/configmaps" and len(body["data"]["content"]) == 1024
        self.made.append(body["metadata"]["name"])
        if len(self.made) == 4:
            self.end.set()
        return (201, b"{}") if len(self.made) % 2 else (0, b"")


def test_what_is_not_acknowledged_is_not_written_down(tmp_path: Path) -> None:
    path, end = tmp_path / "journal", threading.Event()
    server = Server(end)
    with path.open("w") as journal:
        writes.write(cast(Api, server), 7, journal, end)
    assert len(set(server.made)) == 4, "no name twice: what was not acknowledged may be there"
    assert [each.writer for each in writes.read(path)] == [7, 7]
    assert all(each.started <= each.ended for each in writes.read(path))


def test_it_goes_on_when_each_writer_does() -> None:
    both = [Write(number % 2, 1.0, 2.0 + number) for number in range(2 * clusters.PROGRESS)]
    assert clusters.Probe(2, lambda: both).goes_on(1.0)
    assert not clusters.Probe(2, lambda: both).goes_on(2.0), "the first one's first is too early"
    assert not clusters.Probe(3, lambda: both).goes_on(1.0)


def test_ratios_are_of_one_round() -> None:
    assert FOUND.ratios("dqlite") == [3.0, 4.0]
    assert FOUND.ratios("etcd") == [2.0]


def test_results_with_clusters_survive_their_file(tmp_path: Path) -> None:
    path, both = tmp_path / "bench.json", replace(results(), clusters=FOUND)
    both.save(path)
    assert Results.load(path) == both
    older = json.loads(path.read_text())
    del older["clusters"]
    path.write_text(json.dumps(older))
    assert Results.load(path) == results()


def test_tables_say_what_was_found_and_where_nothing_was() -> None:
    ready, load, lost, weight = cluster_tables.parts(FOUND)
    assert "10.0 / 15.0" in ready and "3.00 / 3.50" in ready and "2.00" in ready
    assert "400" in load and "60.0" in load
    assert "leader cut off, at a worker's balancer" in lost and "3.5" in lost
    assert "carrier of the API's address killed, at that address" in lost and "4.5" in lost
    assert "the datastore, after the writes" in weight and "600" in weight
    for block in (ready, load, lost, weight):
        assert len({len(line) for line in block.splitlines()}) == 1
    alone = Clusters(HOST, (measured("etcd", 1),))
    assert "–" in next(cluster_tables.parts(alone))


def test_a_page_keeps_what_the_results_tell_nothing_about(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = f"{tables.BEGIN}\nboots\n{tables.END}\n\n{tables.CLUSTERS_BEGIN}\nold\n{tables.CLUSTERS_END}\n"
    page.write_text(text)
    tables.write_into(page, Results(HOST, results().sizes))
    assert page.read_text() == text
    tables.write_into(page, Results(HOST, results().sizes, clusters=FOUND))
    written = page.read_text()
    assert written.startswith(f"{tables.BEGIN}\nboots\n{tables.END}\n\n{tables.CLUSTERS_BEGIN}\nBasalt 0.1.")
    assert written.endswith(f"|\n{tables.CLUSTERS_END}\n") and "old" not in written
    page.write_text("no marks")
    with pytest.raises(ValueError, match="clusters"):
        tables.write_into(page, Results(HOST, results().sizes, clusters=FOUND))
