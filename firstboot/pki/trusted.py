# SPDX-License-Identifier: Apache-2.0
"""Whom a node believes: the authority that signs, alone, and beside it the one before or after while one is replaced.

A root above it has signed others, too. A service that believed it would take a certificate which any of those has
given out, for whatever name and group stands in it. So services of a node read a file without what is above; pods and
people are given all of it, because many clients want to see a root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import ca
from firstboot.pki.ca import Authority

CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Trusted:
    """A file with certificates that sign; alone: only the one that signs now."""

    ca: Authority
    alone: bool = False

    @property
    def path(self) -> Path:
        """The file: ``ca-trusted.crt`` or ``ca-signing.crt`` beside ``ca.crt``."""
        return self.ca.signing if self.alone else self.ca.trusted


def first(pem: bytes) -> bytes | None:
    """Return the first certificate of a file as it stands there, None when there is none."""
    found = CERTIFICATE.search(pem)
    return found[0] if found else None


def believed(authority: Authority) -> bytes | None:
    """Return the certificates (PEM) of all whose signature counts on this node, None when there are none yet."""
    signing = _first_of(authority.certificate)
    return None if signing is None else signing + (_first_of(authority.beside) or b"")


def check(spec: Trusted) -> str | None:
    """Return why the file has to be written (again), or None."""
    wanted, found = _wanted(spec), files.read_or_none(spec.path)
    if wanted is None:
        return f"its authority {spec.ca.name} is missing"
    if found is None:
        return f"{spec.path.name} is missing"
    if wrong := files.wrong_attributes(spec.path, 0o644, None):
        return f"{spec.path.name} {wrong}"
    return None if found == wanted else f"{spec.path.name} is of another authority"


def make(spec: Trusted) -> files.File:
    """Return the file as it should be written. Raises BasaltError."""
    wanted = _wanted(spec)
    if wanted is None:
        raise BasaltError(ca.absent(spec.ca), ca.ABSENT)
    return files.File(spec.path, wanted)


def _wanted(spec: Trusted) -> bytes | None:
    return _first_of(spec.ca.certificate) if spec.alone else believed(spec.ca)


def _first_of(path: Path) -> bytes | None:
    return first(files.read_or_none(path) or b"")
