# SPDX-License-Identifier: Apache-2.0
"""What the programs of both datastores tell when they have salvaged a member's data.

They hand over the Lease objects of all nodes as the API server has stored them: protobuf, with kubelets' signs of life
(https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from firstboot.datastores.store import Salvaged
from firstboot.failure import BasaltError

MAGIC = b"k8s\0"
RAW, SPEC, RENEW_TIME, SECONDS = 2, 2, 4, 1
"""Fields on the way down: of the envelope, of Lease, of LeaseSpec and of MicroTime."""
VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protobuf (https://protobuf.dev/programming-guides/encoding/)."""


def read(output: str, host: Callable[[str], str]) -> Salvaged:
    """Return what a program has printed; host: from a member's address to that of its machine. Raises BasaltError."""
    try:
        told = json.loads(output)
        signs = [base64.b64decode(each) for each in told["signs_of_life"] or ()]
        return Salvaged(
            term=int(told["term"]),
            index=int(told["index"]),
            revision=int(told["revision"]),
            as_of=_newest(signs),
            roles={host(each["address"]): str(each["role"]) for each in told["members"] or ()},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BasaltError(
            f"what was salvaged of the datastore is not told in the usual form: {error!r}"
        ) from error


def _newest(signs: list[bytes]) -> str | None:
    times = [when for each in signs if (when := renewed(each)) is not None]
    return f"{datetime.fromtimestamp(max(times), UTC):%Y-%m-%dT%H:%M:%SZ}" if times else None


def renewed(lease: bytes) -> int | None:
    """Return when a stored Lease was renewed, seconds of the epoch; None for anything that does not say so."""
    if not lease.startswith(MAGIC):
        return None
    found: int | bytes | None = lease.removeprefix(MAGIC)
    for number in (RAW, SPEC, RENEW_TIME, SECONDS):
        if not isinstance(found, bytes):
            return None
        found = _field(found, number)
    return found if isinstance(found, int) else None


def _field(message: bytes, number: int) -> int | bytes | None:
    """Return the value of a field, None where there is none or the message is damaged."""
    try:
        return next((value for found, value in _fields(message) if found == number), None)
    except (IndexError, ValueError):
        return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(key & 7)
        if key & 7 == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if size is None:
            if key & 7 != COUNTED:
                raise ValueError
            size, at = _varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins there, and where it has ended. Raises IndexError at the message's end."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
