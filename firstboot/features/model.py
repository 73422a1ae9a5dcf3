# SPDX-License-Identifier: Apache-2.0
"""What a feature consists of: data only, no action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firstboot.kube import Object
from firstboot.services.model import Service


@dataclass(frozen=True)
class Feature:
    """A feature as it should be on this node.

    name:      as in the document and in the status
    services:  empty when the feature is off
    objects:   what it needs in the cluster; applied by control planes
    api:       what makes the API server pass on requests to it, from the certificates that it believes, PEM
    leftovers: what it has made if it was on, and control planes remove; the first is made first and goes last
    definitions: folder with the kinds that the API server has to know before the objects; they stay
    balanced:  whether Services may have addresses that it has given them if it was on, which go with it
    """

    name: str
    services: tuple[Service, ...] = ()
    objects: tuple[Object, ...] = ()
    api: Callable[[bytes], Object] | None = None
    leftovers: tuple[Object, ...] = ()
    definitions: Path | None = None
    balanced: bool = False

    @property
    def enabled(self) -> bool:
        """Whether the document asks for it."""
        return bool(self.services)


def cluster_role(name: str, rules: list[dict[str, list[str]]]) -> Object:
    """Return a ClusterRole."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    }


def bind_user(role: str, user: str, name: str | None = None) -> Object:
    """Return a ClusterRoleBinding for a certificate's common name; it is named as the role by default."""
    return _binding(role, "User", user, name or role)


def bind_group(role: str, group: str) -> Object:
    """Return a ClusterRoleBinding, named as the role, for an organization in certificates."""
    return _binding(role, "Group", group, role)


def role(name: str, namespace: str, rules: list[dict[str, list[str]]]) -> Object:
    """Return a Role: rules for one namespace."""
    metadata = {"name": name, "namespace": namespace}
    return {**cluster_role(name, rules), "kind": "Role", "metadata": metadata}


def bind_group_in(namespace: str, role: str, group: str) -> Object:
    """Return a RoleBinding, named as the Role, for an organization in certificates."""
    return _inside(namespace, bind_group(role, group))


def bind_user_in(namespace: str, role: str, user: str) -> Object:
    """Return a RoleBinding, named as the Role, for a certificate's common name."""
    return _inside(namespace, bind_user(role, user))


def _inside(namespace: str, bound: Object) -> Object:
    metadata = {**bound["metadata"], "namespace": namespace}
    reference = {**bound["roleRef"], "kind": "Role"}
    return {**bound, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference}


def _binding(role: str, kind: str, subject: str, name: str) -> Object:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": kind, "name": subject}],
    }


def allow(groups: str, resources: str, verbs: str) -> dict[str, list[str]]:
    """Return one rule; each argument is a list separated by blanks, the core group is ``core``."""
    return {
        "apiGroups": ["" if group == "core" else group for group in groups.split()],
        "resources": resources.split(),
        "verbs": verbs.split(),
    }
