# SPDX-License-Identifier: Apache-2.0
"""Two authorities side by side, while one takes the place of the other: the files of a node, and who vouches for whom.

The one before signs a certificate for the key of the one after: a voucher. Nodes believe nobody new without it, and
servers and clients show it with their own certificates, so that who knows the one before only believes them, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import ca, keys, leaf, trusted
from firstboot.pki.ca import Authority, Issuer
from firstboot.pki.verdict import moment

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        PublicKeyTypes,
    )
    from cryptography.x509 import BasicConstraints, Certificate


@dataclass(frozen=True)
class Overlap:
    """What a node has of both, as PEM.

    signs:    the certificate that signs and those above it up to the root
    beside:   the same of the other one that is believed; empty where there is none any more
    voucher:  what is shown with every new certificate; empty where the one before signs, or cannot be in a chain
    rotation: name of the key that is kept for later
    awaits:   whether that key is to sign later; else it does now
    """

    signs: str
    beside: str
    voucher: str
    rotation: str
    awaits: bool

    def bundle(self) -> bytes:
        """Return all that pods and people are given, each certificate once, that which signs first."""
        found = trusted.CERTIFICATE.findall((self.signs + self.voucher + self.beside).encode())
        return b"".join(dict.fromkeys(found))


def check(authority: Authority, overlap: Overlap | None) -> str | None:
    """Return why `apply` has work to do, or None; each pass asks, so without `cryptography`.

    overlap: None where no authority is being replaced
    """
    if overlap is None:
        return (
            f"{authority.beside.name} is of a rotation that is no more" if authority.beside.exists() else None
        )
    wrong = [file.path.name for file in _certificates(authority, overlap) if not files.is_so(file)]
    wrong += [path.name for path in _leftovers(authority, overlap) if path.exists()]
    return f"{wrong[0]} is not as the rotation of the CA has it" if wrong else None


def apply(authority: Authority, overlap: Overlap | None, *, signer: bool) -> None:
    """Make the files so. May be stopped at any moment, and called again.

    signer: whether the node has the authority's key
    Raises BasaltError, also for a key that should be there and is not.
    """
    if overlap is None:
        known = ca.path_of(known_to(authority))
        files.write(authority.certificate, b"".join(map(keys.certificate_pem, known)))
        files.remove(authority.beside)
        return
    # The key leads: where this ends in between, the certificate that is still wrong has it called again.
    written = [_key(authority, overlap)] if signer else []
    files.write_all([*written, *_certificates(authority, overlap)])
    for path in _leftovers(authority, overlap):
        files.remove(path)


def known_to(authority: Authority) -> list[Certificate]:
    """Return all certificates that the node has of the authority, that which signs first. Raises BasaltError."""
    found = files.read_or_none(authority.certificate)
    if found is None:
        raise BasaltError(ca.absent(authority), ca.ABSENT)
    return _all(found.decode(errors="replace"))


def key_of(authority: Authority, wanted: str, rotation: str) -> bytes | None:
    """Return the private key (PEM) with a public key of this fingerprint, None where the node has none.

    It may be the one that signs, or the one that is to come. Raises BasaltError.
    """
    for path in (authority.key, authority.key_to_come(rotation)):
        pem = files.read_or_none(path)
        if pem is not None and _digest(_read(path, pem).public_key()) == wanted:
            return pem
    return None


def _read(path: Path, pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    try:
        return keys.read_key(pem)
    except keys.Unreadable as error:
        raise BasaltError(f"{path} {error}", ca.RESTORE) from error


def fingerprint(certificate: str) -> str:
    """Return the SHA-256 of the public key of the first certificate, in hexadecimal. Raises BasaltError."""
    return _digest(first(certificate).public_key())


def first(pem: str) -> Certificate:
    """Return the first certificate. Raises BasaltError."""
    return _all(pem)[0]


def only(pem: str) -> Certificate:
    """Return the one certificate that there is. Raises BasaltError."""
    found = _all(pem)
    if len(found) > 1:
        raise BasaltError("there are several certificates where one should be")
    return found[0]


def _all(pem: str) -> list[Certificate]:
    try:
        return keys.read_certificates(pem.encode())
    except keys.Unreadable as error:
        raise BasaltError(f"what should be a certificate {error}") from error


def voucher(issuer: Issuer, new: Certificate, now: datetime | None = None) -> bytes:
    """Return a certificate (PEM) by which the issuer vouches for the key of another authority; it outlives neither."""
    from cryptography import x509

    start = (moment(now) - ca.BACKDATING).replace(microsecond=0)
    try:
        # Certificates of the new authority name it by this.
        known = new.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        known = x509.SubjectKeyIdentifier.from_public_key(new.public_key())
    builder = (
        x509.CertificateBuilder(
            subject_name=new.subject, issuer_name=issuer.certificate.subject, public_key=new.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(issuer.end, new.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca.key_usage(signs_certificates=True), critical=True)
        .add_extension(known, critical=False)
        .add_extension(leaf.authority_identifier(issuer), critical=False)
    )
    return keys.certificate_pem(builder.sign(issuer.key, keys.digest_for(issuer.key)))


def vouches(own: Certificate, shown: Certificate, new: Certificate) -> bool:
    """Whether an authority has vouched for another one by the certificate that is shown.

    Nodes have certificates of the same issuer, for keys of their own; but none of them is an authority's.
    """
    limits = _basic_constraints(shown)
    authority = limits is not None and limits.ca
    return authority and ca.issued(shown, own) and _digest(shown.public_key()) == _digest(new.public_key())


def chainable(before: Sequence[Certificate], new: Certificate) -> bool:
    """Whether a voucher can be in a chain: those above have room for one more below, and names tell them apart.

    before: path of the authority that vouches
    """
    for number, each in enumerate(before, start=1):
        limits = _basic_constraints(each)
        if limits is not None and limits.path_length is not None and limits.path_length < number:
            return False
    return before[0].subject != new.subject


def path(pem: str) -> tuple[Certificate, ...]:
    """Return an authority and those above it. Raises BasaltError where something else stands among them."""
    found = _all(pem)
    if ca.path_of(found) != tuple(found):
        raise BasaltError("among the certificates of an authority is one that has signed none of the others")
    return tuple(found)


def _basic_constraints(certificate: Certificate) -> BasicConstraints | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _certificates(authority: Authority, overlap: Overlap) -> list[files.File]:
    wanted = [files.File(authority.certificate, overlap.bundle())]
    if overlap.beside:
        wanted.append(files.File(authority.beside, overlap.beside.encode()))
    return wanted


def _key(authority: Authority, overlap: Overlap) -> files.File:
    key = key_of(authority, fingerprint(overlap.signs), overlap.rotation)
    if key is None:
        raise BasaltError(
            f"the private key of the certificate authority {authority.name} is lost: neither {authority.key} nor "
            f"{authority.key_to_come(overlap.rotation)} is the key of the one that signs now",
            ca.RESTORE,
        )
    return files.File(authority.key, key, authority.mode, authority.owner)


def _leftovers(authority: Authority, overlap: Overlap) -> Iterator[Path]:
    """Yield what has to go: the authority that nobody believes any more, and a key that has found its place."""
    if not overlap.beside:
        yield authority.beside
    if not overlap.awaits:
        yield authority.key_to_come(overlap.rotation)


def _digest(key: PublicKeyTypes) -> str:
    return hashlib.sha256(keys.public_pem(key)).hexdigest()
