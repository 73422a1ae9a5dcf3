# SPDX-License-Identifier: Apache-2.0
"""Certificates of servers and clients: made, renewed and healed from a description.

A renewed certificate keeps its key. Services read the two files whenever they like, so replacing only one of
them, atomically, is what never shows them a pair that does not fit. Who wants a new key removes the old one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot import files
from firstboot.pki import ca, keys
from firstboot.pki.ca import Authority, Issuer
from firstboot.pki.verdict import Sound, Verdict, moment, reason

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
    )
    from cryptography.x509 import AuthorityKeyIdentifier, Certificate, ExtendedKeyUsage, GeneralName, Name

PKI = Path("/etc/kubernetes/pki")

LIFETIME = timedelta(days=365)

RENEWAL_SHARE = 3
"""A certificate is renewed when less than a third of its life remains: a machine may be off for months."""


class Usage(StrEnum):
    """Which side of a connection a certificate may be shown by."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class CertificateSpec:
    """One certificate as it should be.

    name:         path below the directory without ending: ``apiserver``, ``etcd/server``
    ip_addresses: textual, without prefix length
    owner, mode:  of the key; the certificate is for everyone to read
    """

    name: str
    ca: Authority
    common_name: str
    organizations: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = (Usage.CLIENT,)
    owner: files.Owner | None = ("root", "root")
    mode: int = 0o600
    directory: Path = PKI

    @property
    def certificate(self) -> Path:
        """Path of the certificate."""
        return self.directory / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        """Path of the private key."""
        return self.directory / f"{self.name}.key"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files whose state decides whether the certificate is as it should be."""
        return (self.certificate, self.key, self.ca.certificate)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key as PEM."""

    certificate: bytes
    key: bytes


def check(spec: CertificateSpec, now: datetime | None = None) -> str | None:
    """Return why the certificate has to be issued (again), or None."""
    return reason(examine(spec, now))


def apply(spec: CertificateSpec, now: datetime | None = None) -> bool:
    """Issue the certificate if it has to be; return whether it had. Raises BasaltError."""
    if check(spec, now) is None:
        return False
    files.write_all(make(spec, ca.load(spec.ca, now), now))
    return True


def examine(spec: CertificateSpec, now: datetime | None = None) -> Verdict:
    """Compare both files with the description and with the issuing authority."""
    certificate_pem, key_pem, ca_pem = (files.read_or_none(path) for path in spec.paths)
    if certificate_pem is None or key_pem is None:
        missing = spec.certificate if certificate_pem is None else spec.key
        return f"{missing.name} is missing"
    if ca_pem is None:
        return f"its authority {spec.ca.name} is missing"
    for path, mode, owner in ((spec.key, spec.mode, spec.owner), (spec.certificate, 0o644, None)):
        if wrong := files.wrong_attributes(path, mode, owner):
            return f"{path.name} {wrong}"
    try:
        certificate, *above = keys.read_certificates(certificate_pem)
    except keys.Unreadable as unreadable:
        return f"{spec.certificate.name} {unreadable}"
    try:
        key = keys.read_key(key_pem)
        issuers = ca.path_of(keys.read_certificates(ca_pem))
    except keys.Unreadable as unreadable:
        return f"its key or its authority {unreadable}"
    if keys.public_pem(key.public_key()) != keys.public_pem(certificate.public_key()):
        return f"{spec.key.name} is not the key of {spec.certificate.name}"
    return (
        _wrong_issuer(certificate, above, issuers)
        or _wrong_content(spec, certificate)
        or _time_left(certificate, ca.end_of(issuers), moment(now))
    )


def make(spec: CertificateSpec, issuer: Issuer, now: datetime | None = None) -> tuple[files.File, files.File]:
    """Return key and certificate as they should be written; a key that can be used is kept."""
    credentials = issue(spec, issuer, now, key=kept_key(spec))
    return (
        files.File(spec.key, credentials.key, spec.mode, spec.owner),
        files.File(spec.certificate, credentials.certificate),
    )


def issue(
    spec: CertificateSpec,
    issuer: Issuer,
    now: datetime | None = None,
    *,
    lifetime: timedelta = LIFETIME,
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> Credentials:
    """Make a certificate in memory, for a new key unless one is given. It never outlives its issuer."""
    key = key or keys.new_key()
    certificate = sign(spec, issuer, key.public_key(), now, lifetime=lifetime)
    return Credentials(certificate, keys.private_pem(key))


def sign(
    spec: CertificateSpec,
    issuer: Issuer,
    public_key: CertificatePublicKeyTypes,
    now: datetime | None = None,
    *,
    lifetime: timedelta = LIFETIME,
) -> bytes:
    """Return a certificate (PEM) for somebody's key, and those between it and the root; it outlives none of them.

    Vouchers follow; whoever believes the authority needs none of them.
    """
    from cryptography import x509

    start = (moment(now) - ca.BACKDATING).replace(microsecond=0)
    with long_names():
        builder = x509.CertificateBuilder(
            subject_name=subject(spec), issuer_name=issuer.certificate.subject, public_key=public_key
        )
        builder = (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(min(start + ca.BACKDATING + lifetime, issuer.end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(ca.key_usage(signs_certificates=False), critical=True)
            .add_extension(_extended_key_usage(spec), critical=False)
            .add_extension(authority_identifier(issuer), critical=False)
        )
        if names := _alternative_names(spec):
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(issuer.key, keys.digest_for(issuer.key))
    return b"".join(map(keys.certificate_pem, (signed, *ca.chain_of(issuer.path), *issuer.vouchers)))


def kept_key(spec: CertificateSpec) -> CertificateIssuerPrivateKeyTypes | None:
    """Return the key on disk if there is one that can be used."""
    pem = files.read_or_none(spec.key)
    try:
        return keys.read_key(pem) if pem else None
    except keys.Unreadable:
        return None


def _wrong_issuer(
    certificate: Certificate, above: Sequence[Certificate], issuers: Sequence[Certificate]
) -> str | None:
    if not ca.issued(certificate, issuers[0]):
        return "it was issued by another authority"
    chain = ca.chain_of(issuers)
    if tuple(above[: len(chain)]) != chain:
        return "the certificates between it and the root are not in its file"
    return None


def _wrong_content(spec: CertificateSpec, certificate: Certificate) -> str | None:
    from cryptography import x509

    with long_names():
        if certificate.subject != subject(spec):
            return f"its subject is {certificate.subject.rfc4514_string()}"
    extensions = certificate.extensions
    try:
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = set()
    if usages != set(_extended_key_usage(spec)):
        return "its usages differ"
    try:
        names = set(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = set()
    wanted = set(_alternative_names(spec))
    if missing := wanted - names:
        return f"it is not valid for {_listed(missing)}"
    if more := names - wanted:
        return f"it is still valid for {_listed(more)}"
    return None


def _time_left(certificate: Certificate, last: datetime, now: datetime) -> Verdict:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        return f"it is not valid before {start:%Y-%m-%d %H:%M} UTC"
    # One that already lives as long as its authority cannot be made to live longer.
    limit = end if end >= last else end - (end - start) / RENEWAL_SHARE
    if now >= limit:
        return f"it ends on {end:%Y-%m-%d %H:%M} UTC"
    return Sound(start.timestamp(), limit.timestamp(), end.timestamp())


def subject(spec: CertificateSpec) -> Name:
    """Return whom the certificate is for."""
    from cryptography import x509

    # Attributes in the order other Kubernetes tools write them. The limit of 64 characters is not
    # enforced: "system:node:" and a long host name exceed it and everything that reads it copes.
    attributes = [(x509.NameOID.ORGANIZATION_NAME, name) for name in spec.organizations]
    attributes.append((x509.NameOID.COMMON_NAME, spec.common_name))
    return x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in attributes])


def _alternative_names(spec: CertificateSpec) -> list[GeneralName]:
    from cryptography import x509

    return [
        *(x509.DNSName(name) for name in spec.dns_names),
        *(x509.IPAddress(ip_address(address)) for address in spec.ip_addresses),
    ]


def _extended_key_usage(spec: CertificateSpec) -> ExtendedKeyUsage:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    oids = {
        Usage.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
        Usage.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    return x509.ExtendedKeyUsage([oids[usage] for usage in spec.usages])


def authority_identifier(issuer: Issuer) -> AuthorityKeyIdentifier:
    """Return by what a certificate names the key that has signed it."""
    from cryptography import x509

    try:
        found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _listed(names: set[GeneralName]) -> str:
    return ", ".join(sorted(str(name.value) for name in names))


@contextmanager
def long_names() -> Iterator[None]:
    """Let common names exceed 64 characters without a warning for each reading."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute's length must be")
        yield
