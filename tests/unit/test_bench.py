# SPDX-License-Identifier: Apache-2.0
"""What the benchmark makes of its measurements; the measurements themselves need machines."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from image.artefacts import Sizes
from tests.bench import baseline, memory, tables
from tests.bench.boots import HostTime, ticks_of
from tests.bench.memory import Memory, Use
from tests.bench.results import Boot, Builds, Host, Results, Side

MIB = 1 << 20
HOST = Host(
    "Processor", 2, 24 << 30, "tcg", "2 processors, 3072 MiB", "0.1.20260101.000000", "abcdef1", "2026-01-01"
)


def boot(side: Side, *seconds: float, used: int = 700) -> Boot:
    milestones = dict(zip(tables.MILESTONES, seconds, strict=True))
    use = {"kubelet": Use(30 * MIB, 20 * MIB, 90 * MIB, 40 * MIB)}
    return Boot(side, milestones, 8.0, 0.01, 0.05, Memory(3000 * MIB, used * MIB, 2000 * MIB, use))


def results(*boots: Boot, usr: int = 300) -> Results:
    return Results(
        HOST, Sizes(usr * 1000 * 1000, 30 * 1000 * 1000), Builds(1.5, 42.0, None, {"etcd": 76.0}), boots
    )


PAIRS = (
    boot(Side.BASALT, 40, 50, 60),
    boot(Side.BY_HAND, 40, 40, 80),
    boot(Side.BY_HAND, 50, 40, 50),
    boot(Side.BASALT, 40, 60, 50),
)


def test_ratios_are_of_pairs_whoever_began() -> None:
    found = results(*PAIRS)
    assert found.ratios("api ready") == [1.0, 0.8]
    assert found.ratios("pod running") == [0.75, 1.0]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (results(*PAIRS), {"node Ready not later than by hand"}),
        (results(boot(Side.BASALT, 1, 1, 1), boot(Side.BY_HAND, 1, 1, 1)), set()),
        (
            results(boot(Side.BASALT, 1, 1, 1, used=772), boot(Side.BY_HAND, 1, 1, 1)),
            {"memory in use when idle"},
        ),
        (results(usr=371), {"/usr and UKI"}),
    ],
)
def test_a_goal_that_is_missed_is_said_to_be(found: Results, missed: set[str]) -> None:
    assert {goal.what.partition(",")[0] for goal in tables.goals(found) if not goal.met} == missed


def test_results_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    results(*PAIRS).save(path)
    assert Results.load(path) == results(*PAIRS)


def test_tables_stand_straight() -> None:
    for block in tables.render(results(*PAIRS)).split("\n\n")[1:]:
        assert len({len(line) for line in block.splitlines()}) == 1


def test_a_busy_host_is_told() -> None:
    busy = [replace(boot, others=0.2) for boot in PAIRS]
    assert "other things" in tables.render(results(*busy))
    assert "other things" not in tables.render(results(*PAIRS))


def test_own_children_are_no_others() -> None:
    before = HostTime.now()
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as child:
        while ticks_of(str(child.pid)) < 20:
            os.sched_yield()
        after = HostTime.now()
        child.kill()
    assert after.ours - before.ours >= 0.2
    assert 0 <= after.others_since(before) < 1


def test_results_go_into_a_page_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_into(page, results())
    text = page.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\nBasalt 0.1.")
    assert text.endswith(f"|\n{tables.END}\nafter\n")
    assert "old" not in text


MEMORY = """\
Mem:      3000 800 1500 7 450 2200
cgroup /init.scope 28 3
process systemd 13 7
cgroup /basalt.slice/k8s-dqlite.service 10 5
process k8s-dqlite 2 1
cgroup /kubepods.slice/a.slice/x.scope 2 1
cgroup /kubepods.slice/a.slice/y.scope 3 1
"""


def test_memory_is_read() -> None:
    found = memory.parse(MEMORY)
    assert (found.total, found.used, found.available) == (3000, 800, 2200)
    assert found.services == {
        "system": Use(28, 3, 13 << 10, 7 << 10),
        "datastore": Use(10, 5, 2 << 10, 1 << 10),
        "pod": Use(5, 2),
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/basalt.slice/kube-apiserver.service", "kube-apiserver"),
        ("/system.slice/baseline.service/kube-apiserver", "kube-apiserver"),
        ("/basalt.slice/k8s-dqlite.service", "datastore"),
        ("/system.slice/baseline.service/etcd", "datastore"),
        ("/basalt.slice/basalt.service", "agent"),
        ("/system.slice/basalt-test-channel.service", "tests' channel"),
        ("/system.slice/dbus-broker.service", "system"),
        ("/init.scope", "system"),
    ],
)
def test_both_sides_call_a_service_the_same(path: str, name: str) -> None:
    assert memory.name_of(path) == name


def test_the_script_by_hand_finds_its_keys(tmp_path: Path) -> None:
    """Every file that the script or its configuration names is in the archive or in the image."""
    [files] = baseline.setup().extra
    with tarfile.open(fileobj=io.BytesIO(files.make(tmp_path, "extra0").read_bytes())) as archive:
        names = set(archive.getnames())
        texts = [
            archive.extractfile(name).read().decode()  # type: ignore[union-attr]
            for name in names
            if name.endswith((".json", "Corefile"))
        ]
        admin = archive.extractfile("etc/kubernetes/admin.kubeconfig")
        assert admin and yaml.safe_load(admin)["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    script = (baseline.HERE / "start.sh").read_text().replace("$pki", "/etc/kubernetes/pki")
    named = {path for text in (script, *texts) for path in re.findall(r"/etc/kubernetes/[\w./-]+", text)}
    assert len(named) > 15
    assert {name.lstrip("/") for name in named} <= names
    subprocess.run(["bash", "-n", baseline.HERE / "start.sh"], check=True, timeout=10)
