# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys as people paste them into a document: whether they can be used for what they stand there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from firstboot.pki import keys
from firstboot.schemacheck import show

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Problem = tuple[str, str]
"""Finding and remedy."""

NO_CERTIFICATE: Problem = (
    "not a certificate in PEM form",
    "Paste the whole file, its BEGIN and END lines included, below `|`.",
)


def authority_problem(pem: str, now: datetime, signed: str) -> Problem | None:
    """Return what is wrong with certificates that cannot vouch for anybody, None when all can.

    signed: whose certificates they have signed, e.g. ``the clients'``
    """
    try:
        certificates = keys.read_certificates(pem.encode())
    except keys.Unreadable:
        return NO_CERTIFICATE
    for number, certificate in enumerate(certificates, start=1):
        name = named(certificate, number)
        if not _is_authority(certificate):
            return f"{name} is no CA's", f"Give the certificate that signed {signed}, not one that it signed."
        if problem := expired(certificate, name, now):
            return problem
    return None


def client_problem(pem: str, now: datetime) -> Problem | None:
    """Return what is wrong with what no server would take as a client's certificate, None for one that it would."""
    try:
        certificate = keys.read_certificates(pem.encode())[0]
    except keys.Unreadable:
        return NO_CERTIFICATE
    name = named(certificate, 1)
    if not _is_for_clients(certificate):
        return (
            f"{name} is not for clients",
            "Give one with the extended key usage `clientAuth`; servers refuse others.",
        )
    return expired(certificate, name, now)


def key_problem(pem: str, certificate: str) -> Problem | None:
    """Return what is wrong with a text that is not the key of the first certificate, else None; it is not repeated."""
    try:
        key = keys.read_key(pem.encode())
    except keys.Unreadable as error:
        return (
            f"what stands here {error}",
            "Write the private key of the first certificate; `openssl pkey` takes a passphrase away.",
        )
    try:
        first = keys.read_certificates(certificate.encode())[0]
    except keys.Unreadable:
        return None
    if keys.public_pem(key.public_key()) == keys.public_pem(first.public_key()):
        return None
    return "the key of another certificate", "Write the key of the certificate that stands first."


def named(certificate: Certificate, number: int) -> str:
    """Return by what people find one of several; number: from 1 on."""
    return f"certificate {number} ({show(certificate.subject.rfc4514_string())})"


def expired(certificate: Certificate, name: str, now: datetime) -> Problem | None:
    """Return that it has ended, if it has."""
    if certificate.not_valid_after_utc >= now:
        return None
    ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    return f"{name} expired on {ended}", "Give one that is valid; check the node's clock if it should be."


def _is_authority(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _is_for_clients(certificate: Certificate) -> bool:
    """Whether it says so, or says nothing about what it is for."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    try:
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return True
    return bool(usages & {Usage.CLIENT_AUTH, Usage.ANY_EXTENDED_KEY_USAGE})
