# SPDX-License-Identifier: Apache-2.0
"""What a user sees when something is wrong: a code, a place, a finding and a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, order=True)
class Failure:
    """One thing that is wrong.

    code:   stable kebab-case name, e.g. ``unknown-key``; documented in docs/failures.md
    path:   where in the document (``cluster.pod-cidr``) or which component (``kubelet``)
    found:  what was found there, in one line
    remedy: what to do, in one line
    """

    code: str
    path: str
    found: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        """Return the failure as it stands in the status document."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.found} [{self.code}]. {self.remedy}"


class BasaltError(Exception):
    """An expected failure: shown as one line and a hint, never as a traceback.

    exit_code is what a command line program returns for it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class DocumentError(BasaltError):
    """The document cannot be used; carries every failure found, never only the first."""

    exit_code = 2

    def __init__(self, failures: Iterable[Failure]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(str(failure) for failure in self.failures))


class Refused(DocumentError):
    """A request that the node does not carry out, with every reason found; nothing was changed."""

    exit_code = 1
