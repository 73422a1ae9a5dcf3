# SPDX-License-Identifier: Apache-2.0
"""Whether a client certificate and its key, as a document has them, can be used."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from firstboot.pki import keys
from firstboot.schemacheck import show

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PASTE = "Paste the whole file, its BEGIN and END lines included."


def client_problem(text: str, now: datetime) -> tuple[str, str] | None:
    """Return finding and remedy for what no server would take as a client's certificate, None for one that it would."""
    try:
        certificate = keys.read_certificates(text.encode())[0]
    except keys.Unreadable:
        return "not a certificate in PEM form", PASTE
    name = show(certificate.subject.rfc4514_string())
    if certificate.not_valid_after_utc < now:
        return (
            f"the certificate ({name}) expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            "Give one that is valid; check the node's clock if it should be.",
        )
    if not _is_for_clients(certificate):
        return (
            f"the certificate ({name}) is not for clients",
            "Give one with the extended key usage `clientAuth`; etcd refuses others.",
        )
    return None


def key_problem(text: str, private: str) -> tuple[str, str] | None:
    """Return finding and remedy for a private key that does not belong to a certificate, None for one that does.

    The key is not repeated.
    """
    try:
        key = keys.read_key(private.encode())
    except keys.Unreadable as error:
        return f"the private key {error}", f"{PASTE} `openssl pkey` takes a passphrase away."
    shown = keys.read_certificates(text.encode())[0].public_key()
    if keys.public_pem(shown) != keys.public_pem(key.public_key()):
        return (
            "the private key does not belong to `client-certificate`",
            "Give the key that the certificate was made for; the client's own certificate goes before any others.",
        )
    return None


def _is_for_clients(certificate: Certificate) -> bool:
    """Whether it says so, or says nothing about what it is for."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    try:
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return True
    return bool(usages & {Usage.CLIENT_AUTH, Usage.ANY_EXTENDED_KEY_USAGE})
