# SPDX-License-Identifier: Apache-2.0
"""Label selectors, and a look for what they select that stays quick with thousands of pods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from firstboot.policy.model import Pod, Pods

Labels = Mapping[str, str]


class Operator(StrEnum):
    """How an expression compares a label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True)
class Expression:
    """One of matchExpressions."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read it. Raises ValueError for an operator that is not known."""
        return cls(data["key"], Operator(data["operator"]), tuple(data.get("values") or ()))

    def matches(self, labels: Labels) -> bool:
        """Whether the labels are so; one that is missing is in no list of values."""
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True)
class Selector:
    """All of its labels and expressions have to match; without any, everything does."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[Expression, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a LabelSelector. Raises ValueError for an operator that is not known."""
        labels = tuple(sorted((data.get("matchLabels") or {}).items()))
        return cls(labels, tuple(Expression.from_dict(each) for each in data.get("matchExpressions") or ()))

    def matches(self, labels: Labels) -> bool:
        """Whether it selects what has these labels."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            each.matches(labels) for each in self.expressions
        )


EVERYTHING = Selector()


class Index:
    """Pods and namespaces at one moment; what was looked for once is known."""

    def __init__(self, pods: Iterable[Pod], namespaces: Mapping[str, Labels]) -> None:
        """Take in the pods, and labels by namespace."""
        self._all: defaultdict[str, list[Pod]] = defaultdict(list)
        self._labelled: defaultdict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        for pod in pods:
            self._all[pod.namespace].append(pod)
            for key, value in pod.labels.items():
                self._labelled[pod.namespace, key, value].append(pod)
        self._namespaces = namespaces
        self._known: dict[tuple[str, Selector], tuple[Pod, ...]] = {}
        self._known_namespaces: dict[Selector, tuple[str, ...]] = {}

    def pods(self, namespace: str, selector: Selector) -> tuple[Pod, ...]:
        """Return the pods of a namespace that are selected."""
        key = namespace, selector
        if key not in self._known:
            candidates = min(
                (self._labelled.get((namespace, *label), []) for label in selector.labels),
                key=len,
                default=self._all.get(namespace, []),
            )
            self._known[key] = tuple(pod for pod in candidates if selector.matches(pod.labels))
        return self._known[key]

    def peers(self, peer: Pods, own: str) -> Iterable[Pod]:
        """Yield the pods that are meant in a policy of the namespace `own`."""
        for namespace in (own,) if peer.namespaces is None else self._selected(peer.namespaces):
            yield from self.pods(namespace, peer.pods)

    def everybody(self) -> Iterable[Pod]:
        """Yield all pods."""
        for pods in self._all.values():
            yield from pods

    def _selected(self, selector: Selector) -> tuple[str, ...]:
        if selector not in self._known_namespaces:
            found = (name for name, labels in self._namespaces.items() if selector.matches(labels))
            self._known_namespaces[selector] = tuple(found)
        return self._known_namespaces[selector]
