# SPDX-License-Identifier: Apache-2.0
"""A control plane that a recovery has left behind: it asks, is told over real TLS, and runs nothing any more."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from firstboot.cluster import joining
from firstboot.cluster.fence import LATER, SOON, Fence, LeftBehind
from firstboot.cluster.messages import Malformed, Standing
from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.pki import ca
from firstboot.pki.catalogue import Catalogue
from firstboot.services.model import Node

from .support_pair import Pair, made, over_tls
from .support_pki import Company

CONFIG = Config.from_dict({"role": "control-plane"})
EXTERNAL = Config.from_dict(
    {
        "role": "control-plane",
        "datastore": {"type": "external", "external": {"endpoints": ["https://192.0.2.5:2379"]}},
    }
)
SINCE = "2026-11-23T09:00:00Z"
OTHERS = ("192.0.2.8", "192.0.2.9")
NODE = Node(CONFIG, "cp-1", "192.0.2.7", control_planes=("192.0.2.7", *OTHERS))
SURVIVOR = replace(NODE, name="cp-2", ip="127.0.0.1")
NOTHING = cast(Catalogue, None)


@dataclass
class Asked:
    """What the other control planes say; those that are missing do not answer."""

    answers: dict[str, str] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    hold: threading.Event | None = None

    def __call__(self, node: Node, certificates: Catalogue, host: str) -> str:
        self.hosts.append(host)
        if self.hold is not None:
            self.hold.wait(10)
        if host not in self.answers:
            raise BasaltError(f"{host} cannot be reached")
        return self.answers[host]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_another_one_says_is_on_disk_before_anything_starts(tmp_path: Path) -> None:
    asked = Asked({"192.0.2.9": SINCE})
    record = tmp_path / "left-behind.json"

    async def go() -> LeftBehind | None:
        return await Fence(record, asked).verdict(NODE, NOTHING)

    assert asyncio.run(go()) == LeftBehind("192.0.2.9", SINCE)
    assert sorted(asked.hosts) == list(OTHERS)
    again = Asked()
    assert asyncio.run(Fence(record, again).verdict(NODE, NOTHING)) == LeftBehind("192.0.2.9", SINCE)
    assert again.hosts == [], "whoever said so may be off by now"


def test_who_is_off_is_asked_again_soon_and_who_is_on_later(tmp_path: Path) -> None:
    asked, clock = Asked({"192.0.2.8": ""}), Clock()
    fence = Fence(tmp_path / "left-behind.json", asked, clock)

    async def look() -> list[str]:
        asked.hosts.clear()
        assert await fence.verdict(NODE, NOTHING) is None
        while fence._tasks:
            await asyncio.wait(fence._tasks.values())
        return sorted(asked.hosts)

    async def go() -> None:
        assert await look() == list(OTHERS)
        assert await look() == []
        clock.now += SOON
        assert await look() == ["192.0.2.9"]
        clock.now += LATER
        assert await look() == list(OTHERS)

    asyncio.run(go())


def test_silence_holds_up_the_first_start_for_a_while_and_nothing_after(tmp_path: Path) -> None:
    asked, clock = Asked({"192.0.2.8": SINCE}, hold=threading.Event()), Clock()
    fence = Fence(tmp_path / "left-behind.json", asked, clock, patience=0.05)

    async def go() -> None:
        assert await fence.verdict(NODE, NOTHING) is None
        clock.now += SOON
        assert await fence.verdict(NODE, NOTHING) is None
        assert sorted(asked.hosts) == list(OTHERS), "who is being asked is not asked again"
        assert asked.hold is not None
        asked.hold.set()
        while fence._tasks:
            await asyncio.wait(fence._tasks.values())
        assert await fence.verdict(NODE, NOTHING) == LeftBehind("192.0.2.8", SINCE)

    asyncio.run(go())


@pytest.mark.parametrize(
    "node",
    [
        replace(NODE, control_planes=()),
        replace(NODE, control_planes=("192.0.2.7",)),
        replace(NODE, config=Config.from_dict({"role": "worker", "cluster": {"token": "x" * 32}})),
        replace(NODE, config=EXTERNAL),
    ],
)
def test_who_can_have_lost_no_partners_asks_nobody(node: Node, tmp_path: Path) -> None:
    asked = Asked()
    assert asyncio.run(Fence(tmp_path / "left-behind.json", asked).verdict(node, NOTHING)) is None
    assert asked.hosts == []


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return made(tmp_path, CONFIG)


def test_the_survivor_tells_over_tls_who_is_out(pair: Pair) -> None:
    def ask(port: int) -> str:
        return joining.standing(NODE, pair.other, f"127.0.0.1:{port}")

    admission = pair.admission(SURVIVOR)
    assert over_tls(pair, admission, ask) == ""
    assert not admission.refusals
    pair.recover()
    assert over_tls(pair, admission, ask).endswith("Z")
    noted = admission.refusals[0]
    assert (noted.code, noted.path) == ("left-behind", "cp-1") and "recovered without it" in noted.found


def test_only_a_control_plane_may_ask(pair: Pair) -> None:
    kubelet = pair.other.certificate("kubelet-client")
    agent = pair.other.certificate("agent")
    agent.certificate.write_bytes(kubelet.certificate.read_bytes())
    agent.key.write_bytes(kubelet.key.read_bytes())

    def ask(port: int) -> str:
        with pytest.raises(BasaltError, match="only a control plane may ask this"):
            joining.standing(NODE, pair.other, f"127.0.0.1:{port}")
        return "refused"

    assert over_tls(pair, pair.admission(SURVIVOR), ask) == "refused"


def test_nobody_else_of_a_company_leaves_a_control_plane_behind(tmp_path: Path) -> None:
    root = Company.make("Company Root")

    def cluster(name: str) -> Pair:
        (tmp_path / name).mkdir()
        document = {"role": "control-plane", "certificates": Company.make(name, root).document}
        return made(tmp_path / name, Config.from_dict(document))

    ours, theirs = cluster("ours"), cluster("theirs")

    def ask(port: int) -> str:
        return joining.standing(NODE, ours.other, f"127.0.0.1:{port}")

    ours.recover()
    theirs.recover()
    assert over_tls(ours, ours.admission(SURVIVOR), ask).endswith("Z")
    with pytest.raises(BasaltError, match="is not trusted: unable to get local issuer"):
        over_tls(theirs, theirs.admission(SURVIVOR), ask)


def test_where_somebody_else_runs_the_datastore_nobody_is_left_behind(pair: Pair) -> None:
    admission = pair.admission(SURVIVOR)
    outside = replace(admission.node(), config=EXTERNAL)
    admission.node = lambda: outside
    theirs = pair.other.authority("dqlite/ca").certificate.read_text()
    assert asyncio.run(admission.judge(Standing("cp-1", theirs), "127.0.0.1")).since == ""


def test_an_authority_that_somebody_exchanges_by_hand_leaves_nobody_behind(pair: Pair) -> None:
    old = pair.survivor.authority("dqlite/ca").certificate.read_bytes()
    pair.recover()
    new = pair.survivor.authority("dqlite/ca").certificate.read_bytes()
    assert ca.succeeded(old, new) is not None
    assert ca.succeeded(new, old) is None and ca.succeeded(new, new) is None
    assert ca.succeeded(old, new + old) is None and ca.succeeded(old + new, new) is None
    pair.recover()
    newest = pair.survivor.authority("dqlite/ca").certificate.read_bytes()
    assert ca.succeeded(new, newest) is not None and ca.succeeded(newest, new) is None, "one after the other"
    plain = pair.survivor.authority("front-proxy-ca").certificate.read_bytes()
    assert ca.succeeded(old, plain) is None, "made by somebody else, and not by a recovery"


def test_what_is_no_certificate_is_malformed(pair: Pair) -> None:
    with pytest.raises(Malformed):
        asyncio.run(pair.admission(SURVIVOR).judge(Standing("cp-1", "none"), "127.0.0.1"))


def test_a_verdict_that_cannot_be_written_is_asked_for_again(tmp_path: Path) -> None:
    asked, clock = Asked({"192.0.2.8": SINCE}), Clock()
    fence = Fence(tmp_path / "basalt/left-behind.json", asked, clock)

    async def go() -> None:
        assert await fence.verdict(NODE, NOTHING) is None
        (tmp_path / "basalt").mkdir()
        clock.now += SOON
        assert await fence.verdict(NODE, NOTHING) is None
        while fence._tasks:
            await asyncio.wait(fence._tasks.values())
        assert await fence.verdict(NODE, NOTHING) == LeftBehind("192.0.2.8", SINCE)

    asyncio.run(go())
