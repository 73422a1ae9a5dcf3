# SPDX-License-Identifier: Apache-2.0
"""The members of a cluster's datastore, as a node's own tools tell them."""

from __future__ import annotations

import json

from image.vm.fleet import address
from tests.node import Node

ETCDCTL = (
    "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
    "--cert=/etc/kubernetes/pki/apiserver-etcd-client.crt --key=/etc/kubernetes/pki/apiserver-etcd-client.key"
)


def leader(node: Node, datastore: str) -> str | None:
    """Return the address of the member that a node's member takes for the leader."""
    if datastore == "dqlite":
        answer = node.run("k8s-dqlite status", check=False, timeout=20)
        return str(json.loads(answer.stdout)["leader"]).rpartition(":")[0] if answer.ok else None
    answer = node.run(f"{ETCDCTL} endpoint status -w json", check=False, timeout=20)
    if not answer.ok or not answer.stdout:
        return None
    [told] = json.loads(answer.stdout)
    status = told["Status"]
    return own_address(node) if status["leader"] == status["header"]["member_id"] else None


def own_address(node: Node) -> str:
    """Return a node's address in the cluster."""
    return address(int(node.name.rpartition("-")[2]))


def voters(node: Node, datastore: str) -> set[str]:
    """Return the addresses of voting members; nothing while the datastore does not answer."""
    if datastore == "dqlite":
        answer = node.run("k8s-dqlite status", check=False, timeout=20)
        members = json.loads(answer.stdout)["members"] if answer.ok else []
        return {each["address"].rpartition(":")[0] for each in members if each["role"] == "voter"}
    answer = node.run(f"{ETCDCTL} member list -w json", check=False, timeout=20)
    members = json.loads(answer.stdout)["members"] if answer.ok else []
    peers = [each["peerURLs"][0] for each in members if not each.get("isLearner")]
    return {peer.rpartition(":")[0].removeprefix("https://") for peer in peers}
