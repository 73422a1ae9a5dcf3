# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates between PEM and `cryptography`.

`cryptography` takes a noticeable part of a second to import on a slow node, and a node whose certificates are
known to be good needs none of it: here and in the rest of the package it is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        PublicKeyTypes,
    )
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import Certificate


class Unreadable(Exception):
    """The bytes are no key or certificate; the message continues a sentence that begins with the file."""


def new_key() -> EllipticCurvePrivateKey:
    """Make a key on P-256: what every TLS library and Kubernetes' ES256 tokens know, and cheap to make."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def read_key(pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    """Return an unencrypted private key of any kind that can sign. Raises Unreadable."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise Unreadable("is encrypted; keys are read without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unreadable("holds no readable private key") from error
    if not hasattr(key, "sign"):
        raise Unreadable("holds a key that cannot sign")
    return cast("CertificateIssuerPrivateKeyTypes", key)


def read_certificates(pem: bytes) -> list[Certificate]:
    """Return all certificates, at least one. Raises Unreadable."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Unreadable("holds no readable certificate") from error


def private_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """PKCS#8 without a passphrase: nobody is there to type one when a node starts."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PublicKeyTypes) -> bytes:
    """PEM of a public key; equal bytes mean equal keys."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate_pem(certificate: Certificate) -> bytes:
    """PEM of one certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def digest_for(key: CertificateIssuerPrivateKeyTypes) -> SHA256 | None:
    """Return the digest to sign with; Edwards keys bring their own."""
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256

    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
