# SPDX-License-Identifier: Apache-2.0
"""An authority that somebody brings in the document: whether all who will meet it can believe it.

It is looked at before a node is made of it, because it is in every certificate afterwards. What is asked for is what
Go, OpenSSL and Python ask for, the last of which is the strictest (VERIFY_X509_STRICT, from RFC 5280).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from firstboot import files
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import Failure
from firstboot.pki import ca, keys, pasted, trusted
from firstboot.schemacheck import show

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.x509 import Certificate, ExtensionType

PATH = "basalt.certificates.ca"
LEAST_RSA = 2048
"""Bits of an RSA key that TLS libraries still believe."""

ORDER = "Write the certificate that signs first, then the one that signed it, and so on up to the root."
ANOTHER = "Have the authority issued anew; docs/certificates.md says what has to be in it."


def certificate_problem(pem: str, now: datetime) -> tuple[str, str] | None:
    """Return finding and remedy for certificates that cannot be the cluster's CA and those above it, else None."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        path = keys.read_certificates(pem.encode())
    except keys.Unreadable:
        return pasted.NO_CERTIFICATE
    try:
        return _order_problem(path) or _problem_of_one(path, now) or _signature_problem(path)
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"something in them cannot be read: {error}", ANOTHER


def refuses(config: Config, certificate: Path) -> tuple[Failure, ...]:
    """Return why a node does not take the document's authority: it has another one already.

    certificate: file of the node's own, which need not be there
    """
    given = config.certificates.ca.certificate
    if given is None:
        return ()
    own = _der(files.read_or_none(certificate) or b"")
    if own is None or own == _der(given.encode()):
        return ()
    found = "the document's certificate authority is not the one that the node has"
    remedy = (
        "Remove `certificates.ca`: the node keeps what it has. An authority is what all machines of a cluster trust, "
        "and is never replaced by a document; `basalt certificates rotate-ca` replaces it."
    )
    return (Failure(Code.FIXED_SETTING, PATH, found, remedy),)


def _der(pem: bytes) -> bytes | None:
    """Return the first certificate in its binary form; each look at the document asks, so without `cryptography`."""
    lines = (trusted.first(pem) or b"").splitlines()
    try:
        return base64.b64decode(b"".join(lines[1:-1])) or None
    except binascii.Error:
        return None


def _problem_of_one(path: Sequence[Certificate], now: datetime) -> tuple[str, str] | None:
    for number, certificate in enumerate(path, start=1):
        name = pasted.named(certificate, number)
        if flaw := next(_flaws(certificate, below=number - 1), None):
            return f"{name} {flaw}", ANOTHER
        if problem := pasted.expired(certificate, name, now):
            return problem
    return None


def _order_problem(path: Sequence[Certificate]) -> tuple[str, str] | None:
    for number, (below, above) in enumerate(zip(path, path[1:], strict=False), start=1):
        if ca.self_issued(below):
            return f"certificate {number + 1} stands behind the root", ORDER
        if below.issuer != above.subject:
            return f"certificate {number + 1} has not signed certificate {number}", ORDER
    if not ca.self_issued(path[-1]):
        issuer = show(path[-1].issuer.rfc4514_string())
        return f"the root is missing: certificate {len(path)} was signed by {issuer}", ORDER
    return None


def _signature_problem(path: Sequence[Certificate]) -> tuple[str, str] | None:
    for number, (below, above) in enumerate(zip(path, (*path[1:], path[-1]), strict=True), start=1):
        if not ca.issued(below, above):
            return f"the signature of certificate {number} is not by the key of the one above it", ORDER
    return None


def _flaws(certificate: Certificate, below: int) -> Iterator[str]:
    """Yield why clients would not believe what is signed below it; below: number of authorities between."""
    from cryptography import x509

    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        yield "is no CA's"
        return
    if not basic.value.ca:
        yield "is no CA's"
    if not basic.critical:
        yield "does not mark its basic constraints as critical"
    if basic.value.path_length is not None and basic.value.path_length < below:
        yield f"allows {basic.value.path_length} authorities below it, and there are {below}"
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        yield "may not sign certificates: key usage keyCertSign is missing"
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and not _any_purpose(purposes):
        yield "is not for servers and clients both: extended key usage serverAuth and clientAuth, or none"
    if _extension(certificate, x509.NameConstraints) is not None:
        yield "has name constraints, and a cluster's certificates are for names of its own and addresses"
    if _extension(certificate, x509.SubjectKeyIdentifier) is None:
        yield "has no subject key identifier"
    if not ca.self_issued(certificate) and _extension(certificate, x509.AuthorityKeyIdentifier) is None:
        yield "has no authority key identifier"
    if not certificate.subject:
        yield "has no subject"
    if problem := _weak_key(certificate.public_key()):
        yield problem
    digest = certificate.signature_hash_algorithm
    if not ca.self_issued(certificate) and digest is not None and digest.name in ("md5", "sha1"):
        yield f"is signed with {digest.name}, which nobody believes any more"


E = TypeVar("E", bound="ExtensionType")


def _extension(certificate: Certificate, kind: type[E]) -> E | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _any_purpose(purposes: Iterable[object]) -> bool:
    from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

    found = set(purposes)
    return Purpose.ANY_EXTENDED_KEY_USAGE in found or {Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH} <= found


def _weak_key(key: PublicKeyTypes) -> str | None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case rsa.RSAPublicKey():
            return None if key.key_size >= LEAST_RSA else f"has an RSA key of {key.key_size} bits only"
        case ec.EllipticCurvePublicKey():
            known = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
            return None if known else f"has a key on {key.curve.name}, which Kubernetes does not know"
        case ed25519.Ed25519PublicKey():
            return None
        case _:
            return "has a key of a kind that Kubernetes does not know"
