# SPDX-License-Identifier: Apache-2.0
"""Authorities as a company has them, and TLS between two sides in memory."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from firstboot.pki import keys

SIGNS = x509.KeyUsage(
    digital_signature=False,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Company:
    """One authority; `path` are its certificate and those above it.

    without: extensions that are left out; more: further ones; depth: path length; critical: of the basic constraints
    """

    path: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes = field(repr=False)

    @classmethod
    def make(
        cls,
        name: str,
        parent: Company | None = None,
        *,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        days: int = 30,
        depth: int | None = None,
        ca: bool = True,
        critical: bool = True,
        without: tuple[type[x509.ExtensionType], ...] = (),
        more: tuple[x509.ExtensionType, ...] = (),
    ) -> Self:
        key = key or keys.new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent.key if parent else key
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=parent.path[0].subject if parent else subject,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=100),
            not_valid_after=now + timedelta(days=days),
        ).add_extension(x509.BasicConstraints(ca=ca, path_length=depth), critical=critical)
        usual = (
            SIGNS,
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
        )
        for each in (*usual, *more):
            if not isinstance(each, without):
                builder = builder.add_extension(each, critical=False)
        made = builder.sign(signer, keys.digest_for(signer))
        return cls((made, *(parent.path if parent else ())), key)

    @classmethod
    def signed(cls, request: str, parent: Company, days: int = 30) -> str:
        """Return what a company gives for a signing request: all that it asks for, and the path up to the root."""
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=parent.path[0].subject,
            subject_name=asked.subject,
            public_key=asked.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1),
            not_valid_after=now + timedelta(days=days),
        )
        for each in asked.extensions:
            builder = builder.add_extension(each.value, critical=each.critical)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key())
        made = builder.add_extension(signer, critical=False).sign(parent.key, keys.digest_for(parent.key))
        return b"".join(map(keys.certificate_pem, (made, *parent.path))).decode()

    @property
    def pem(self) -> str:
        """Certificates, in the order that a document has them in."""
        return b"".join(map(keys.certificate_pem, self.path)).decode()

    @property
    def key_pem(self) -> str:
        return keys.private_pem(self.key).decode()

    @property
    def document(self) -> dict[str, Any]:
        """The section `certificates`."""
        return {"ca": {"certificate": self.pem, "key": self.key_pem}}


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """Connect both sides and return the server's. Raises ssl.SSLError when one does not believe the other."""
    ends = [ssl.MemoryBIO() for _ in range(4)]
    here = client.wrap_bio(ends[0], ends[1], server_hostname=host)
    there = server.wrap_bio(ends[2], ends[3], server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (here, there):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
            ends[2].write(ends[1].read())
            ends[0].write(ends[3].read())
    assert done == {here, there}
    return there
