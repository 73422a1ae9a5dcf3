# SPDX-License-Identifier: Apache-2.0
"""Feature local-storage: a StorageClass, and on each node the service that makes its volumes (firstboot/storage).

What a node may do to volumes is said twice: by RBAC for all nodes together, and by an admission policy for each one,
because RBAC cannot tell the volume of one node from that of another.
"""

from __future__ import annotations

from firstboot.features.model import Feature, allow, bind_group, cluster_role
from firstboot.kube import Object
from firstboot.pki.catalogue import LOCAL_STORAGE
from firstboot.probes import ToldProbe
from firstboot.services.model import Node, Service
from firstboot.storage import DETAIL, HOSTNAME, LACKS, PROVISIONER
from firstboot.storage.objects import SELECTED_NODE

NAME = "local-storage"
CLASS = "local-storage"


def feature(node: Node) -> Feature:
    """Return the feature for this node."""
    if not node.config.features.local_storage.enabled:
        return Feature(NAME, leftovers=(storage_class(node), *RBAC, *POLICY))
    return Feature(NAME, (service(node),), (storage_class(node), *RBAC, *POLICY))


def service(node: Node) -> Service:
    """Return the node's provisioner."""
    return Service(
        unit=NAME,
        probe=ToldProbe(LACKS, "has not looked at its volumes yet", DETAIL),
        needs=("apiserver",),
        environment={"NODE_NAME": node.name, "LOCAL_PATH": node.config.features.local_storage.local_path},
    )


def storage_class(node: Node) -> Object:
    """Return the class by which claims ask for such volumes."""
    settings = node.config.features.local_storage
    default = "true" if settings.default else "false"
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": default},
        },
        "provisioner": PROVISIONER,
        # Where the pod is to run decides on which disk its data is.
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
        "reclaimPolicy": settings.reclaim_policy.value,
    }


RBAC: tuple[Object, ...] = (
    cluster_role(
        LOCAL_STORAGE,
        [
            allow("core", "persistentvolumes", "get list watch create update delete"),
            # A choice of the scheduler is taken back in the claim.
            allow("core", "persistentvolumeclaims", "get list watch update"),
            allow("core", "persistentvolumeclaims/status", "update"),
            allow("core", "events", "get create update"),
            allow("storage.k8s.io", "storageclasses", "get list watch"),
        ],
    ),
    bind_group(LOCAL_STORAGE, LOCAL_STORAGE),
)

OWN_NODE = f"request.userInfo.username.substring({len(LOCAL_STORAGE) + 1})"
"""In CEL: the node of the service that asks."""
POLICY: tuple[Object, ...] = (
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": PROVISIONER},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE", "DELETE"],
                        "resources": ["persistentvolumes", "persistentvolumeclaims"],
                    }
                ]
            },
            "matchConditions": [
                {"name": "by-a-node", "expression": f"'{LOCAL_STORAGE}' in request.userInfo.groups"}
            ],
            "variables": [
                {"name": "node", "expression": OWN_NODE},
                {
                    "name": "objects",
                    "expression": "[object, oldObject].filter(each, each != null)",
                },
            ],
            "validations": [
                {
                    "expression": "request.resource.resource != 'persistentvolumes' || variables.objects.all(each, "
                    "has(each.spec.local) && has(each.spec.nodeAffinity) && "
                    "each.spec.nodeAffinity.required.nodeSelectorTerms.all(term, has(term.matchExpressions) && "
                    f"term.matchExpressions.exists(need, need.key == '{HOSTNAME}' && need.operator == 'In' && "
                    "need.values == [variables.node])))",
                    "message": "a node has to do with the volumes of its own disk only",
                },
                {
                    "expression": "request.resource.resource != 'persistentvolumeclaims' || ("
                    f"oldObject != null && has(oldObject.metadata.annotations) && '{SELECTED_NODE}' in "
                    f"oldObject.metadata.annotations && oldObject.metadata.annotations['{SELECTED_NODE}'] == "
                    "variables.node)",
                    "message": "a node has to do with the claims of its own pods only",
                },
            ],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": PROVISIONER},
        "spec": {"policyName": PROVISIONER, "validationActions": ["Deny"]},
    },
)
