# SPDX-License-Identifier: Apache-2.0
"""Local storage where the kernel has no quotas, as in these containers: said, and nothing else breaks.

What nodes may do to volumes in the API, and what becomes of volumes when the feature or a node goes, needs no quotas.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstboot.report.status import Phase
from firstboot.storage.objects import volume_object
from firstboot.storage.quota import ProjectQuotas
from tests.node import Result

from .cluster import CONTROL_PLANES, GOES_ON_SECONDS, JOINED_SECONDS, WORKER, Cluster
from .container import Container

FIRST = CONTROL_PLANES[0]
GROUP = "basalt:local-storage"
SELECTED_NODE = "volume.kubernetes.io/selected-node"


def test_volumes_and_who_has_to_do_with_them(bare: Cluster) -> None:
    if ProjectQuotas(bare.folder).problem() is None:
        pytest.skip("this host's file system has project quotas")
    founder, worker = bare.add(FIRST), bare.add(WORKER)
    bare.wait_whole()
    founder.run("basalt enable local-storage")
    for node in (founder, worker):
        node.wait_until("it says what it lacks", partial(lacks_quotas, node), JOINED_SECONDS)
    founder.run("basalt set features.local-storage.reclaim-policy=Retain")
    founder.wait_until("the class is another", partial(has_policy, founder, "Retain"), GOES_ON_SECONDS)

    # A node that can make no volume gives the claim back to the scheduler, and says why.
    claim = made_claim(founder, "data")
    founder.wait_until("the claim knows", partial(is_given_back, founder), GOES_ON_SECONDS)

    # A node makes and removes volumes of its own disk, and of no other one.
    theirs, others = volume(claim, "pvc-2", FIRST), volume(claim, "pvc-1", WORKER)
    told = by_node(founder, FIRST, "create", "-f", "-", stdin=json.dumps(others), check=False)
    assert "a node has to do with the volumes of its own disk only" in told.stderr
    by_node(founder, WORKER, "create", "-f", "-", stdin=json.dumps(others))
    founder.wait_until("it is bound", partial(is_bound, founder), GOES_ON_SECONDS)
    told = by_node(founder, FIRST, "delete", "pv", "pvc-1", "--wait=false", check=False)
    assert "a node has to do with the volumes of its own disk only" in told.stderr
    for other in (theirs, unlocal()):
        told = by_node(founder, WORKER, "create", "-f", "-", stdin=json.dumps(other), check=False)
        assert "a node has to do with the volumes of its own disk only" in told.stderr
    # So with claims, for which a class of somebody else's will do: nobody changes it meanwhile.
    changed = made_claim(founder, "other", storageClassName="others")
    told = by_node(founder, FIRST, "replace", "-f", "-", stdin=json.dumps(changed), check=False)
    assert "a node has to do with the claims of its own pods only" in told.stderr
    by_node(founder, WORKER, "replace", "-f", "-", stdin=json.dumps(changed))
    founder.kubectl("delete", "pvc", "other")

    # Neither the feature nor the node goes while it holds somebody's data.
    refused = founder.run("basalt disable local-storage", check=False)
    assert "[feature-in-use]" in refused.stderr and "PersistentVolumeClaim default/data" in refused.stderr
    refused = founder.run("basalt set features.local-storage.local-path=/mnt", check=False)
    assert "[feature-in-use]" in refused.stderr
    refused = founder.run(["basalt", "remove-node", WORKER], check=False)
    assert "its disk holds the data of PersistentVolumeClaim default/data" in refused.stderr
    gone = founder.run(["basalt", "remove-node", WORKER, "--force"], timeout=JOINED_SECONDS)
    assert "PersistentVolumeClaim default/data" in gone.stdout + gone.stderr
    left = founder.get("pv", "pvc-1")["metadata"]
    assert left["deletionTimestamp"] and left["finalizers"] == ["kubernetes.io/pv-protection"]
    founder.kubectl("delete", "pvc", "data", "--wait=false")
    founder.wait_until("volume and claim are gone", partial(has_no_volume, founder), GOES_ON_SECONDS)

    founder.run("basalt disable local-storage")
    founder.wait_until("nothing is left", partial(is_off, founder), GOES_ON_SECONDS)
    founder.wait_for_phase(Phase.READY)


def lacks_quotas(node: Container) -> bool:
    """Whether the feature says where there are no quotas, and the node is there all the same."""
    status = node.status()
    if status is None:
        return False
    assert status.components["kubelet"].state == "healthy"
    detail = status.features["local-storage"].detail
    return "/var/lib/basalt/local-storage is on a file system without project quotas" in detail


def has_policy(node: Container, policy: str) -> bool:
    """Whether the class has a policy."""
    found = node.kubectl(
        "get", "storageclass", "local-storage", "-o", "jsonpath={.reclaimPolicy}", check=False
    )
    return found.stdout == policy


def made_claim(node: Container, name: str, **spec: Any) -> Any:
    """Make a claim, of the default class unless it names one, whose pod is the worker's, and return it."""
    common = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": name, "annotations": {SELECTED_NODE: WORKER}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    node.kubectl("create", "-f", "-", stdin=json.dumps({**kind, "metadata": metadata, "spec": common | spec}))
    claim = node.get("pvc", name)
    assert claim["spec"]["storageClassName"] == spec.get("storageClassName", "local-storage")
    return claim


def is_given_back(node: Container) -> bool:
    """Whether the claim has no node any more, and an Event says why."""
    events = node.get("events", "--field-selector=involvedObject.name=data,reason=ProvisioningFailed")[
        "items"
    ]
    told = any(f"{WORKER} cannot make volumes: " in each["message"] for each in events)
    return told and SELECTED_NODE not in node.get("pvc", "data")["metadata"].get("annotations", {})


def volume(claim: Any, name: str, node: str) -> Any:
    """Return a volume of a node for a claim."""
    return volume_object(name, claim, Path("/var/lib/basalt/local-storage", name), node, 1024**2, "Delete")


def unlocal() -> Any:
    """Return a volume that is a folder of whatever node."""
    spec = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/etc"}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "unlocal"}, "spec": spec}


def by_node(node: Container, name: str, *arguments: str, stdin: str = "", check: bool = True) -> Result:
    """Run kubectl as the service of a node that makes volumes."""
    who = (f"--as={GROUP}:{name}", f"--as-group={GROUP}", "--as-group=system:authenticated")
    return node.kubectl(*who, *arguments, stdin=stdin, check=check)


def is_bound(node: Container) -> bool:
    """Whether the claim has its volume."""
    return bool(node.get("pvc", "data")["status"]["phase"] == "Bound")


def has_no_volume(node: Container) -> bool:
    """Whether there is neither a claim nor a volume."""
    return bool(node.get("pv,pvc")["items"] == [])


def is_off(node: Container) -> bool:
    """Whether the service has stopped and all that the feature has in the cluster is gone."""
    kinds = "storageclasses,clusterroles,clusterrolebindings,validatingadmissionpolicies"
    found = node.kubectl("get", f"{kinds},validatingadmissionpolicybindings", "-o", "name").stdout
    return not node.run("systemctl is-active local-storage", check=False).ok and "local-storage" not in found
