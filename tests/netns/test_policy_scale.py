# SPDX-License-Identifier: Apache-2.0
"""Five hundred policies and two thousand pods: how long a node needs for all of them, and for one that changes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from firstboot.policy.compile import Compiled, compile_rules
from firstboot.policy.model import Pod, Policy, read_pod
from firstboot.policy.nft import changes, whole

from .judge import NODE, OTHER, Object, pod
from .lab import Lab

POLICIES, PODS, LOCAL, NAMESPACES = 500, 2000, 110, 20
COMPILED_SECONDS, LOADED_SECONDS, CHANGED_SECONDS = 5.0, 10.0, 5.0
"""What each may take: some ten times what it does on two slow cores, see docs/network-policy.md."""
T = TypeVar("T")


@pytest.fixture
def lab(netns: None) -> Iterator[Lab]:
    """A node without pods: nobody sends anything."""
    with Lab() as made:
        yield made


def test_many_policies_and_pods(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    policies = [Policy.from_dict(policy(number)) for number in range(POLICIES)]
    pods = [found for number in range(PODS) if (found := read_pod(some_pod(number)))]
    namespaces = {f"n{number}": {"team": f"t{number % 5}"} for number in range(NAMESPACES)}

    def compiled(pods: list[Pod]) -> Compiled:
        return compile_rules(policies, pods, namespaces, NODE)

    first, compile_seconds = timed(lambda: compiled(pods))
    assert first.isolated == LOCAL
    text = whole(first.ruleset)
    _, load_seconds = timed(lambda: lab.nft(text))
    second = compiled([*pods[:-1], *(found for found in [read_pod(some_pod(PODS))] if found)])
    news = changes(first.ruleset, second.ruleset)
    assert len(news) < len(text) / 20, "one pod is not all of them"
    _, change_seconds = timed(lambda: lab.nft(news))
    lab.nft(changes(second.ruleset, first.ruleset))
    figures = {"compile": compile_seconds, "load": load_seconds, "change": change_seconds}
    for name, seconds in figures.items():
        record_property(f"{name} seconds", round(seconds, 2))
    print({name: round(seconds, 2) for name, seconds in figures.items()}, f"{len(text) / 1e6:.1f} MB")
    assert compile_seconds < COMPILED_SECONDS
    assert load_seconds < LOADED_SECONDS
    assert change_seconds < CHANGED_SECONDS


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """Return what is made, and the seconds that it took."""
    began = time.monotonic()
    return make(), time.monotonic() - began


def policy(number: int) -> Object:
    """Return a policy as they are common: about one program, which few others may ask, and DNS."""
    dice = random.Random(number)
    # One in five is about all of its namespace.
    about = {"app": f"a{number // NAMESPACES}"} if number // NAMESPACES % 5 else {}
    near = {"podSelector": {"matchLabels": {"app": f"a{dice.randrange(25)}"}}}
    team = {"namespaceSelector": {"matchLabels": {"team": f"t{dice.randrange(5)}"}}}
    outside = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"10.{dice.randrange(256)}.0.0/16"]}}
    return {
        "metadata": {"namespace": f"n{number % NAMESPACES}", "name": f"p{number}"},
        "spec": {
            "podSelector": {"matchLabels": about},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [near, team], "ports": [{"port": "web"}, {"port": 8000, "endPort": 8100}]},
                {"from": [{**team, **near}]},
            ],
            "egress": [
                {"to": [near], "ports": [{"port": 80}, {"port": 443}]},
                {"to": [outside], "ports": [{"protocol": "UDP", "port": 53}]},
            ],
        },
    }


def some_pod(number: int) -> Object:
    """Return a pod; the first ones are on the node that is looked at."""
    return pod(
        f"pod-{number}",
        f"n{number % NAMESPACES}",
        {"app": f"a{number // NAMESPACES % 25}", "pod-template-hash": f"h{number % 300}"},
        f"10.1.{number // 250}.{number % 250 + 2}",
        f"fd00:1::{number + 2:x}",
        node=NODE if number < LOCAL else OTHER,
    )
