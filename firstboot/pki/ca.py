# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities: made once, and replaced by people only.

An administrator replaces the cluster's (see firstboot.pki.overlap), a recovery or a move the datastore's (see
`successor` and `inheritor`).
An authority is a pair of files. Where both are missing it is taken from the document, or made; where somebody has
put a pair of their own there before, that one is used, whatever its kind of key. An authority that exists but cannot
be used is an error for people: a new one in its place would silently cut off everything that trusts the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import keys
from firstboot.pki.verdict import Sound, Verdict, moment, reason

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
    from cryptography.x509 import Certificate, KeyUsage, Name

LIFETIME = timedelta(days=3652)
"""Ten years."""

BACKDATING = timedelta(hours=1)
"""Certificates begin this long ago: peers' clocks differ, and a clock may be set back after a first boot."""

SUCCESSOR = "recovered"
"""Organizational unit in the name of an authority that has taken the place of another one."""

RESTORE = (
    "Restore both files from a backup or from another control plane. Nothing replaces an authority by itself."
)

ABSENT = "A control plane makes or is given it before its certificates; a worker asks a control plane."


@dataclass(frozen=True)
class Given:
    """An authority out of the document: its certificate and those above it up to the root, and its key, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Authority:
    """Where a certificate authority is kept and what it is called when it has to be made.

    certificate: the one that signs and then those above it up to the root
    owner, mode: of the key; the certificate is for everyone to read
    given:       what to begin with; None means that the node makes it
    """

    name: str
    common_name: str
    certificate: Path
    key: Path
    owner: files.Owner | None = ("root", "root")
    mode: int = 0o600
    given: Given | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files whose state decides whether the authority is as it should be."""
        return (self.certificate, self.key)

    @property
    def trusted(self) -> Path:
        """Where certificates that sign are without those above, see firstboot.pki.trusted; the cluster's CA has it."""
        return self.certificate.with_name(f"{self.certificate.stem}-trusted.crt")

    @property
    def signing(self) -> Path:
        """Where the one certificate is that signs now, on a node that has its key."""
        return self.certificate.with_name(f"{self.certificate.stem}-signing.crt")

    @property
    def beside(self) -> Path:
        """Where another authority is that is believed, too, see firstboot.pki.overlap."""
        return self.certificate.with_name(f"{self.certificate.stem}-beside.crt")

    def key_to_come(self, rotation: str) -> Path:
        """Where the key is kept of the authority that a rotation is about, until that signs."""
        return self.certificate.with_name(f"{self.certificate.stem}-{rotation}.key")

    @property
    def requested(self) -> Path:
        """Where the key is kept for which a certificate was requested elsewhere, see firstboot.pki.requested."""
        return self.certificate.with_name(f"{self.certificate.stem}-requested.key")


@dataclass(frozen=True)
class Issuer:
    """An authority in memory, able to sign; path: as of `path_of`, its own certificate first.

    vouchers: what tells those who know the authority before only that they can believe this one
    """

    path: tuple[Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes
    vouchers: tuple[Certificate, ...] = ()

    @property
    def certificate(self) -> Certificate:
        """The certificate that signs."""
        return self.path[0]

    @property
    def end(self) -> datetime:
        """When the first of them ends: nobody believes what it signed any longer."""
        return end_of(self.path)


def check(authority: Authority, now: datetime | None = None) -> str | None:
    """Return why `apply` has work to do, or None. Raises BasaltError for an authority that cannot be used."""
    return reason(examine(authority, now))


def apply(authority: Authority, now: datetime | None = None) -> bool:
    """Make what is missing of the authority; return whether anything was. Raises BasaltError."""
    if check(authority, now) is None:
        return False
    key, certificate = make(authority, now)
    # The key has to be safe on disk first: a certificate without its key would be an authority lost.
    files.write_all([key])
    files.write_all([certificate])
    return True


def examine(authority: Authority, now: datetime | None = None) -> Verdict:
    """Look at both files. Raises BasaltError for an authority that cannot be used."""
    certificate, key = (files.read_or_none(path) for path in authority.paths)
    if certificate is None:
        return "there is none yet" if key is None else "only its key exists yet"
    issuer = load(authority, now)
    for path, mode, owner in (
        (authority.key, authority.mode, authority.owner),
        (authority.certificate, 0o644, None),
    ):
        if wrong := files.wrong_attributes(path, mode, owner):
            return f"{path.name} {wrong}"
    end = issuer.end.timestamp()
    return Sound(issuer.certificate.not_valid_before_utc.timestamp(), end, end)


def examine_public(authority: Authority, now: datetime | None = None) -> Verdict:
    """Look at the certificate alone, on a node that does not sign."""
    certificate = files.read_or_none(authority.certificate)
    if certificate is None:
        return f"{authority.certificate.name} is missing"
    try:
        path = path_of(keys.read_certificates(certificate))
    except keys.Unreadable as error:
        return f"{authority.certificate.name} {error}"
    begin, end = max(each.not_valid_before_utc for each in path), end_of(path)
    if not begin <= moment(now) <= end:
        return f"it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    return Sound(begin.timestamp(), end.timestamp(), end.timestamp())


def make(authority: Authority, now: datetime | None = None) -> tuple[files.File, files.File]:
    """Return key and certificate as they should be written, in this order; what exists of them is kept."""
    key_pem, certificate_pem = files.read_or_none(authority.key), files.read_or_none(authority.certificate)
    if key_pem is None:
        if certificate_pem is not None:
            raise _key_lost(authority)
        given = authority.given
        key_pem = keys.private_pem(_read_key(authority, given.key) if given else keys.new_key())
    if certificate_pem is None:
        key = _read_key(authority, key_pem)
        certificate_pem = (
            _given(authority, authority.given, key, moment(now))
            if authority.given
            else _self_signed(authority, key, moment(now))
        )
    return (
        files.File(authority.key, key_pem, authority.mode, authority.owner),
        files.File(authority.certificate, certificate_pem),
    )


def load(authority: Authority, now: datetime | None = None) -> Issuer:
    """Return the authority ready to sign. Raises BasaltError when it is missing, damaged or out of date."""
    certificate_pem, key_pem = (files.read_or_none(path) for path in authority.paths)
    if certificate_pem is None:
        raise BasaltError(absent(authority), ABSENT)
    if key_pem is None:
        raise _key_lost(authority)
    key = _read_key(authority, key_pem)
    try:
        certificates = keys.read_certificates(certificate_pem)
    except keys.Unreadable as error:
        raise _unusable(authority, f"{authority.certificate} {error}") from error
    path = path_of(certificates)
    certificate = path[0]
    if keys.public_pem(certificate.public_key()) != keys.public_pem(key.public_key()):
        raise _unusable(authority, f"{authority.key} is not the key of {authority.certificate}")
    if not _may_sign(certificate):
        raise _unusable(authority, f"{authority.certificate} may not sign certificates")
    for each in path:
        _refuse_out_of_date(authority, each, moment(now))
    return Issuer(path, key, _vouchers(certificates))


def path_of(certificates: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Return the first and those that vouch for it, each for the one before, as far as they are there."""
    path = [certificates[0]]
    while not self_issued(path[-1]):
        above = next((each for each in certificates if each not in path and issued(path[-1], each)), None)
        if above is None:
            break
        path.append(above)
    return tuple(path)


def _vouchers(certificates: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Return the other certificate for the key of the first, with which it is believed by more, and its chain."""
    key = keys.public_pem(certificates[0].public_key())
    for each in certificates[1:]:
        if each != certificates[0] and keys.public_pem(each.public_key()) == key:
            return chain_of(path_of((each, *certificates[1:])))
    return ()


def chain_of(path: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Return what goes with a certificate of the authority, for clients that know the root only."""
    return tuple(each for each in path if not self_issued(each))


def end_of(path: Sequence[Certificate]) -> datetime:
    """Return when the first of the certificates ends."""
    return min(each.not_valid_after_utc for each in path)


def self_issued(certificate: Certificate) -> bool:
    """Whether it is a root."""
    return certificate.issuer == certificate.subject


def issued(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether the issuer has signed the certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _given(authority: Authority, given: Given, key: CertificateIssuerPrivateKeyTypes, now: datetime) -> bytes:
    """Return the document's certificates, if they are valid now and the key on disk is that of the first."""
    certificates = keys.read_certificates(given.certificate)
    if keys.public_pem(certificates[0].public_key()) != keys.public_pem(key.public_key()):
        raise BasaltError(
            f"{authority.key} is there, and it is not the key of the document's certificate authority",
            "It is left of another authority that was never used: remove the file, or reset the node.",
        )
    # Once it is written the document cannot bring another one.
    for each in certificates:
        _refuse_out_of_date(authority, each, now)
    return b"".join(map(keys.certificate_pem, certificates))


def absent(authority: Authority) -> str:
    """Return what is wrong where somebody needs an authority that is not there."""
    return f"the certificate authority {authority.name} is not on this node ({authority.certificate})"


def successor(authority: Authority, now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return key and certificate (PEM) that take the place of an authority whose key others keep who are out.

    The certificate says that it is one, and begins later than the one before, by whatever clock.
    """
    known = files.read_or_none(authority.certificate)
    begins = moment(now) - BACKDATING
    if known is not None:
        try:
            before = keys.read_certificates(known)[0].not_valid_before_utc
        except keys.Unreadable as error:
            raise _unusable(authority, f"{authority.certificate} {error}") from error
        begins = max(begins, before + timedelta(seconds=1))
    return anew(authority, SUCCESSOR, begins + BACKDATING)


def anew(authority: Authority, unit: str, now: datetime) -> tuple[bytes, bytes]:
    """Return key and certificate (PEM) of another authority of that kind; unit: what tells it from the first one."""
    key = keys.new_key()
    return keys.private_pem(key), _self_signed(authority, key, now, unit)


def inheritor(authority: Authority, before: Authority, now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return key and certificate (PEM) of a new authority for the data of another datastore, whose was `before`.

    If that one says that it is a successor, so does this: who was out then is still out. Raises BasaltError.
    """
    try:
        known = keys.read_certificates(files.read_or_none(before.certificate) or b"")[0]
    except keys.Unreadable as error:
        raise _unusable(before, f"{before.certificate} {error}") from error
    key = keys.new_key()
    unit = SUCCESSOR if _is_successor(known) else None
    return keys.private_pem(key), _self_signed(authority, key, moment(now), unit)


def succeeded(own: bytes, other: bytes) -> datetime | None:
    """Return since when another authority has had the place of one's own; None where it has not. Raises Unreadable.

    own, other: what is trusted on either side, PEM; the first certificate of each signs
    """
    ours, theirs = keys.read_certificates(own), keys.read_certificates(other)
    first, second = ours[0], theirs[0]
    # Where one side trusts the other, somebody exchanges an authority by hand, and members still understand each other.
    if first in theirs or second in ours or not _is_successor(second):
        return None
    began, begins = first.not_valid_before_utc, second.not_valid_before_utc
    return begins + BACKDATING if begins > began else None


def _is_successor(certificate: Certificate) -> bool:
    from cryptography import x509

    units = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    return SUCCESSOR in [unit.value for unit in units]


def _read_key(authority: Authority, pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    try:
        return keys.read_key(pem)
    except keys.Unreadable as error:
        raise _unusable(authority, f"{authority.key} {error}") from error


def _key_lost(authority: Authority) -> BasaltError:
    return BasaltError(
        f"the private key of the certificate authority {authority.name} is lost: "
        f"{authority.certificate} is there and {authority.key} is not",
        RESTORE,
    )


def _unusable(authority: Authority, found: str) -> BasaltError:
    return BasaltError(f"the certificate authority {authority.name} cannot be used: {found}", RESTORE)


def _refuse_out_of_date(authority: Authority, certificate: Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start <= now <= end:
        return
    raise BasaltError(
        f"the certificate authority {authority.name} ({authority.certificate}) is valid from "
        f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC and the clock says {now:%Y-%m-%d %H:%M}",
        "If the clock is wrong, set it or name working servers in time.servers. If it is right, it is too late "
        "for `basalt certificates rotate-ca`: the authority has to be replaced by hand, in all places that trust it.",
    )


def _may_sign(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        # Key usage is optional and its absence forbids nothing; without basic constraints it is no authority.
        return missing.oid == x509.KeyUsage.oid
    except ValueError:
        return False


def subject_of(authority: Authority, unit: str | None = None) -> Name:
    """Return the subject of an authority of that kind; unit: what tells it from the first one."""
    from cryptography import x509

    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, authority.common_name)]
    if unit is not None:
        attributes.append(x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name(attributes)


def era(now: datetime) -> str:
    """Return what tells an authority of that time from those before: for people, and programs that look at names."""
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _self_signed(
    authority: Authority, key: CertificateIssuerPrivateKeyTypes, now: datetime, unit: str | None = None
) -> bytes:
    from cryptography import x509

    subject = subject_of(authority, unit)
    start = (now - BACKDATING).replace(microsecond=0)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    return keys.certificate_pem(builder.sign(key, keys.digest_for(key)))


def key_usage(*, signs_certificates: bool) -> KeyUsage:
    """Signatures in TLS handshakes for everyone; certificates and revocation lists for authorities."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
