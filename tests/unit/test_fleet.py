# SPDX-License-Identifier: Apache-2.0
"""The documents that `make run` writes for a cluster are ones that a node takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstboot.validate import check_text
from image.vm import fleet
from image.vm.administration import make_credentials


@pytest.mark.parametrize("emulated", [True, False])
def test_a_cluster_has_one_founder_and_all_others_know_where_to_join(tmp_path: Path, emulated: bool) -> None:
    authority = make_credentials(tmp_path).authority.read_text()
    members = fleet.cluster(3, 1, "0123456789abcdef" * 4, authority, emulated=emulated)
    configs = [check_text(member.user_data, member.name) for member in members]
    assert [config.node.name for config in configs] == ["node-1", "node-2", "node-3", "node-4"]
    assert [config.joins for config in configs] == [False, True, True, True]
    assert configs[1].cluster.join_endpoints == ("192.168.77.1", "192.168.77.3")
    assert configs[3].role.value == "worker" and configs[3].cluster.join_endpoints[0] == "192.168.77.1"
    assert bool(configs[0].extra_args("k8s-dqlite")) is emulated
    cards = [json.loads(member.network or "{}")["ethernets"]["cluster"] for member in members]
    assert [card["addresses"] for card in cards] == [[f"192.168.77.{number}/24"] for number in range(1, 5)]


def test_the_token_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    token = fleet.token(tmp_path)
    assert fleet.token(tmp_path) == token and len(token) == 64
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
