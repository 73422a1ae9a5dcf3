# SPDX-License-Identifier: Apache-2.0
"""Until when a node's certificates are valid, for people: a list of all, and a word in time about those that end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot import files
from firstboot.codes import Code
from firstboot.failure import BasaltError, Failure
from firstboot.pki import ca, keys, leaf
from firstboot.pki.catalogue import Catalogue
from firstboot.pki.verdict import Sound, Verdict, moment, reason

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

AUTHORITY_NOTICE = timedelta(days=90)
"""An authority takes people weeks to replace."""
CERTIFICATE_NOTICE = timedelta(days=30)
"""A certificate is made anew when four months remain, so by then it has not been for a long time."""

CLIENT_CA = "client-ca"
CLIENT_CA_PATH = "basalt.access.client-ca"


@dataclass(frozen=True)
class Validity:
    """One certificate as people want to see it.

    name:      as in the status document, e.g. ``apiserver``
    path:      its file, or the document's key
    begins, ends: RFC 3339, UTC; None, like subject and issuer, where it cannot be read
    renewed:   when the node makes it anew; None where it does not
    problem:   what is wrong with it now; None where nothing is
    """

    name: str
    path: str
    subject: str | None = None
    issuer: str | None = None
    begins: str | None = None
    ends: str | None = None
    renewed: str | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Return it as the API shows it."""
        return asdict(self)


def written(at: datetime) -> str:
    """Return a time as the API shows it: RFC 3339, UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def listed(
    described: Catalogue, client_ca: str | None = None, now: datetime | None = None
) -> tuple[Validity, ...]:
    """Return all: authorities, the document's too, then what they have signed."""
    at = moment(now)
    return (
        *(
            _listed(each.name, each.certificate, partial(ca.examine, each, at))
            for each in described.authorities
        ),
        *(
            _listed(each.name, each.certificate, partial(ca.examine_public, each, at))
            for each in described.foreign
        ),
        *(_of_document(number, each, at) for number, each in enumerate(_certificates(client_ca), start=1)),
        *(
            _listed(each.name, each.certificate, partial(leaf.examine, each, at))
            for each in described.certificates
        ),
    )


@lru_cache(maxsize=4)
def client_ca_ends(pem: str) -> Mapping[str, datetime]:
    """Return until when the authorities of administrators are valid, by the names that the status has."""
    return {
        _client_ca_name(number): each.not_valid_after_utc
        for number, each in enumerate(_certificates(pem), start=1)
    }


def endings(described: Catalogue, ends: Mapping[str, datetime], now: datetime) -> Iterator[Failure]:
    """Yield a failure for each that ends soon and is not made anew by itself."""
    for name in (each.name for each in (*described.authorities, *described.foreign)):
        if name in ends and ends[name] - now < AUTHORITY_NOTICE:
            file = f"{name}.crt"
            remedy = "Nothing replaces an authority by itself: docs/certificates.md says what can be done."
            yield Failure(Code.AUTHORITY_ENDS, file, _ending(file, ends[name], now), remedy)
    for name, end in ends.items():
        if name.partition("/")[0] == CLIENT_CA and end - now < AUTHORITY_NOTICE:
            remedy = "Write the next authority beside it, and remove it when all administrators have new certificates."
            yield Failure(Code.AUTHORITY_ENDS, CLIENT_CA_PATH, _ending(name, end, now), remedy)
    for spec in described.certificates:
        end = ends.get(spec.name, datetime.max.replace(tzinfo=UTC))
        # One that ends with its authority has been told of already.
        if end - now < CERTIFICATE_NOTICE and end < ends.get(spec.ca.name, end + CERTIFICATE_NOTICE):
            file = f"{spec.name}.crt"
            remedy = "It should have been made anew long ago; `basalt plan` says what keeps the node from it."
            yield Failure(Code.CERTIFICATE_ENDS, file, _ending(file, end, now), remedy)


def _ending(name: str, end: datetime, now: datetime) -> str:
    when = f"{end:%Y-%m-%d}"
    if end <= now:
        return f"{name} has ended on {when}"
    days = (end - now).days
    return f"{name} ends on {when}, in {days} day{'' if days == 1 else 's'}"


def _listed(name: str, path: Path, examine: Callable[[], Verdict]) -> Validity:
    try:
        verdict = examine()
    except BasaltError as error:
        verdict = str(error)
    try:
        certificate = keys.read_certificates(files.read_or_none(path) or b"")[0]
    except keys.Unreadable:
        return Validity(name, str(path), problem=reason(verdict))
    renewed = None
    if isinstance(verdict, Sound) and verdict.until != verdict.not_after:
        renewed = written(datetime.fromtimestamp(verdict.until, UTC))
    return _read(name, str(path), certificate, renewed, reason(verdict))


def _of_document(number: int, certificate: Certificate, now: datetime) -> Validity:
    ended = None if now <= certificate.not_valid_after_utc else "it has ended"
    return _read(_client_ca_name(number), CLIENT_CA_PATH, certificate, None, ended)


def _client_ca_name(number: int) -> str:
    return CLIENT_CA if number == 1 else f"{CLIENT_CA}/{number}"


def _certificates(pem: str | None) -> Sequence[Certificate]:
    return keys.read_certificates(pem.encode()) if pem else ()


def _read(
    name: str, path: str, certificate: Certificate, renewed: str | None, problem: str | None
) -> Validity:
    with leaf.long_names():
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    begins, ends = written(certificate.not_valid_before_utc), written(certificate.not_valid_after_utc)
    return Validity(name, path, subject, issuer, begins, ends, renewed, problem)
