# SPDX-License-Identifier: Apache-2.0
"""What the API needs from the agent, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from firstboot.config import Role
from firstboot.failure import BasaltError
from firstboot.report.status import Status

if TYPE_CHECKING:
    from firstboot.backup.custodian import Custodian
    from firstboot.cluster.removal import Progress
    from firstboot.cluster.rotator import Rotator
    from firstboot.cluster.steward import Steward
    from firstboot.moving.mover import Mover
    from firstboot.pki.validity import Validity


@dataclass(frozen=True)
class PlannedStep:
    """One thing the agent would do now.

    step:   name of the step, e.g. ``kubelet-arguments``
    path:   the file, unit or object it touches
    action: what would be done to it, e.g. ``create``, ``replace``, ``start``; ``none`` where all is well
    reason: why, in one line
    """

    step: str
    path: str
    action: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return the step as the API shows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a step made by to_dict()."""
        return cls(data["step"], data["path"], data["action"], data["reason"])


@dataclass(frozen=True)
class JoinToken:
    """A one-time token; role: which it lets in, empty for any; expires: seconds of the epoch."""

    token: str = field(repr=False)
    role: str
    expires: int

    def to_dict(self) -> dict[str, str | int]:
        """Return the token as the API shows it."""
        return asdict(self)


class NotYet(BasaltError):
    """The node cannot answer this in the state it is in; asking again later may help."""


class Node(Protocol):
    """The agent, as the API sees it."""

    def status(self) -> Status:
        """Return the newest status."""
        ...

    async def plan(self) -> Sequence[PlannedStep]:
        """Return what would be done now, in order; raises NotYet before there is a valid document."""
        ...

    async def kubeconfig(self, server: str | None) -> str:
        """Return an administrator's kubeconfig (YAML) for ``server``, an https URL.

        Without a server it is the cluster's API address. Raises NotYet where there is no cluster CA yet.
        """
        ...

    async def certificates(self) -> Sequence[Validity]:
        """Return all certificates of the node; raises NotYet before there is a valid document."""
        ...

    async def join_token(self, role: Role | None, lifetime: int) -> JoinToken:
        """Return a new one-time token for a machine of the role, or of any; lifetime in seconds.

        Raises NotYet on a node that gives out none, and KubeError.
        """
        ...

    @property
    def datastore(self) -> Custodian:
        """Who looks after the control plane's datastore; on a worker each of his answers is NotYet."""
        ...

    @property
    def mover(self) -> Mover:
        """Who moves the datastore of the cluster; on a worker each of his answers is NotYet."""
        ...

    @property
    def settings(self) -> Steward:
        """Who answers about the cluster's settings; on a worker a change is NotYet."""
        ...

    @property
    def rotator(self) -> Rotator:
        """Who answers about the rotation of the cluster's CA; on a worker it begins and ends none."""
        ...

    async def remove_node(self, name: str, force: bool, timeout: int) -> AsyncIterator[Progress]:
        """Return a removal that goes on as it is iterated; timeout: seconds for the node's pods to go.

        Raises NotYet on a node that removes none, and while iterating DocumentError and BasaltError.
        """
        ...

    async def reset(self, force: bool) -> str:
        """Begin a factory reset and return the node's name.

        Raises Refused on a member of a cluster of several, unless forced, and where it cannot be done.
        """
        ...
