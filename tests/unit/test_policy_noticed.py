# SPDX-License-Identifier: Apache-2.0
"""The agent runs what enforces policies while there are any, and knows that after a restart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from firstboot.cluster.noticed import Noticed
from firstboot.cluster.steward import Steward
from firstboot.failure import Refused
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
from firstboot.plan import Memory, plan, wanted
from firstboot.steps.model import Finding, Machine
from firstboot.steps.objects import Applied
from firstboot.steps.policies import NoticePolicies

from .test_cluster_settings import FIRST, Api
from .test_plan import WORKER, node

POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
DENY = {"metadata": {"namespace": "shop", "name": "deny"}}


class Cluster:
    """Its policies, and what was asked about them."""

    def __init__(self, *policies: dict[str, Any]) -> None:
        self.policies = list(policies)
        self.asked: list[str] = []

    async def get(self, path: str) -> Any:
        self.asked.append(path)
        return {"items": self.policies[:1]}


def look(step: NoticePolicies, cluster: Cluster) -> Finding | None:
    """Check, and do what is found."""

    async def once() -> Finding | None:
        machine = Machine(cast(Any, None), cast(Any, cluster), {})
        if found := await step.check(machine):
            await step.apply(machine)
        return found

    return asyncio.run(once())


def test_the_first_policy_and_the_last_one_are_noticed(tmp_path: Path) -> None:
    cluster, record = Cluster(), tmp_path / "policies.json"
    step = NoticePolicies(node(), record)
    assert look(step, cluster) is None
    cluster.policies.append(DENY)
    found = look(step, cluster)
    assert found and found.action == "write" and Noticed.load(record) is not None
    assert look(step, cluster) is None
    cluster.policies.clear()
    found = look(step, cluster)
    assert found and found.action == "remove" and not record.exists()
    assert set(cluster.asked) == {f"{POLICIES}?limit=1"}, "one is enough to know"


def test_without_the_feature_nobody_asks(tmp_path: Path) -> None:
    cluster, record = Cluster(DENY), tmp_path / "policies.json"
    Noticed("2026-01-01T00:00:00Z").save(record)
    assert look(NoticePolicies(node(features={"network": {"enabled": False}}), record), cluster)
    assert not record.exists() and cluster.asked == []


@pytest.mark.parametrize("document", [{}, WORKER], ids=["control-plane", "worker"])
def test_it_runs_while_there_are_policies_and_is_asked_for_before_the_kubelet(
    document: dict[str, Any],
) -> None:
    calm = node(**document)
    found = replace(calm, policies=True)
    assert "network-policy" not in {each.unit for each in wanted(calm).all_services}
    certificates = catalogue(found.config, found.name, ["192.0.2.10"])
    steps = plan(found, wanted(found), certificates, Memory(Ledger(), Applied(), Path("membership.json")))
    names = [step.name for step in steps]
    assert names.index("unit:network-policy") < names.index("unit:kubelet")
    assert "stopped:network-policy" not in names
    off = node(**{**document, "features": {"network": {"enabled": False}}})
    assert "network-policy" not in {each.unit for each in wanted(replace(off, policies=True)).all_services}


def test_policies_keep_the_network(tmp_path: Path) -> None:
    class Settings(Api):
        async def get(self, path: str) -> Any:
            return {"items": [DENY]} if path == POLICIES else await super().get(path)

    steward = Steward(Settings(FIRST), may=lambda: None, changed=lambda: None)
    with pytest.raises(Refused) as raised:
        asyncio.run(steward.change({"features.network.enabled": False}, "alice"))
    assert "NetworkPolicy shop/deny would be left without it" in raised.value.failures[0].found
    asyncio.run(steward.change({"features.network.enabled": False}, "alice", force=True))
