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
from firstboot.config import Config
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


@dataclass(frozen=True)
class Brought:
    """Certificates that stand in the document: nobody but people makes them anew.

    name:   of the first in the status; the others are ``NAME/2`` and so on
    path:   of the document
    notice: how long before their end they are told of
    remedy: what people can do about it
    """

    name: str
    path: str
    pem: str
    code: Code
    notice: timedelta
    remedy: str

    @property
    def certificates(self) -> Iterator[tuple[str, Certificate]]:
        """Each with its name."""
        for number, each in enumerate(keys.read_certificates(self.pem.encode()), start=1):
            yield (self.name if number == 1 else f"{self.name}/{number}"), each

    def has(self, name: str) -> bool:
        """Whether a name is of one of these."""
        return name == self.name or name.startswith(f"{self.name}/")


def brought(config: Config) -> tuple[Brought, ...]:
    """Return the certificates in a document, but for the cluster's CA: the node has that in a file."""
    outside = config.datastore.external
    next_one = "Write the next authority beside it, and remove it when"
    found = (
        Brought(
            "client-ca",
            "basalt.access.client-ca",
            config.access.client_ca or "",
            Code.AUTHORITY_ENDS,
            AUTHORITY_NOTICE,
            f"{next_one} all administrators have new certificates.",
        ),
        Brought(
            "etcd/ca",
            "basalt.datastore.external.ca",
            outside.ca or "",
            Code.AUTHORITY_ENDS,
            AUTHORITY_NOTICE,
            f"{next_one} all endpoints have new certificates.",
        ),
        Brought(
            "apiserver-etcd-client",
            "basalt.datastore.external.client-certificate",
            outside.client_certificate or "",
            Code.CERTIFICATE_ENDS,
            CERTIFICATE_NOTICE,
            "Have who runs the etcd make a new one, and write it in the document of the control plane that started "
            "the cluster.",
        ),
    )
    return tuple(each for each in found if each.pem)


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
    described: Catalogue, documents: Sequence[Brought] = (), now: datetime | None = None
) -> tuple[Validity, ...]:
    """Return all: authorities, the document's certificates, then those of the node.

    documents: of the node's document
    """
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
        *(
            _of_document(name, each.path, certificate, at)
            for each in documents
            for name, certificate in each.certificates
        ),
        *(
            _listed(each.name, each.certificate, partial(leaf.examine, each, at))
            for each in described.certificates
        ),
    )


@lru_cache(maxsize=4)
def brought_ends(documents: tuple[Brought, ...]) -> Mapping[str, datetime]:
    """Return until when a document's certificates are valid, by the names that the status has."""
    return {
        name: certificate.not_valid_after_utc for each in documents for name, certificate in each.certificates
    }


def endings(
    described: Catalogue, ends: Mapping[str, datetime], now: datetime, documents: Sequence[Brought] = ()
) -> Iterator[Failure]:
    """Yield a failure for each that ends soon and is not made anew by itself."""
    for name in (each.name for each in (*described.authorities, *described.foreign)):
        if name in ends and ends[name] - now < AUTHORITY_NOTICE:
            file = f"{name}.crt"
            remedy = "Nothing replaces an authority by itself: docs/certificates.md says what can be done."
            if name == "ca":
                remedy = "Replace it while it is valid: `basalt certificates rotate-ca`."
            yield Failure(Code.AUTHORITY_ENDS, file, _ending(file, ends[name], now), remedy)
    for each in documents:
        for name, end in ends.items():
            if each.has(name) and end - now < each.notice:
                yield Failure(each.code, each.path, _ending(name, end, now), each.remedy)
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


def _of_document(name: str, path: str, certificate: Certificate, now: datetime) -> Validity:
    ended = None if now <= certificate.not_valid_after_utc else "it has ended"
    return _read(name, path, certificate, None, ended)


def _read(
    name: str, path: str, certificate: Certificate, renewed: str | None, problem: str | None
) -> Validity:
    with leaf.long_names():
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    begins, ends = written(certificate.not_valid_before_utc), written(certificate.not_valid_after_utc)
    return Validity(name, path, subject, issuer, begins, ends, renewed, problem)
