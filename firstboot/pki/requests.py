# SPDX-License-Identifier: Apache-2.0
"""Certificates signed on another machine: the key stays here, a signing request goes there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import ca, keys, leaf
from firstboot.pki.leaf import CertificateSpec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
    )


def prepare(specs: Iterable[CertificateSpec]) -> dict[str, str]:
    """Return a signing request (PEM) by name; keys are made first, for one that can be used is kept for ever."""
    specs = tuple(specs)
    held = {spec.name: leaf.kept_key(spec) or keys.new_key() for spec in specs}
    files.write_all(
        files.File(spec.key, keys.private_pem(held[spec.name]), spec.mode, spec.owner) for spec in specs
    )
    return {spec.name: _request(spec, held[spec.name]).decode() for spec in specs}


def accept(specs: Iterable[CertificateSpec], certificates: Mapping[str, str]) -> list[files.File]:
    """Return the certificates as they should be written. Raises BasaltError when one is missing or is no PEM."""
    written = []
    for spec in specs:
        pem = str(certificates.get(spec.name, "")).encode()
        try:
            keys.read_certificates(pem)
        except keys.Unreadable as error:
            raise BasaltError(f"the control plane's certificate {spec.name} {error}") from error
        written.append(files.File(spec.certificate, pem))
    return written


def sign(specs: Iterable[CertificateSpec], requests: Mapping[str, str]) -> dict[str, str]:
    """Return a certificate (PEM) by name: what is in it is the specification's, only the key the request's.

    Raises BasaltError when a request is missing or damaged.
    """
    specs = tuple(specs)
    issuers = {authority: ca.load(authority) for authority in dict.fromkeys(spec.ca for spec in specs)}
    return {
        spec.name: leaf.sign(spec, issuers[spec.ca], public_key(spec.name, requests.get(spec.name))).decode()
        for spec in specs
    }


def _request(spec: CertificateSpec, key: CertificateIssuerPrivateKeyTypes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    with leaf.long_names():
        builder = x509.CertificateSigningRequestBuilder(leaf.subject(spec))
        return builder.sign(key, keys.digest_for(key)).public_bytes(Encoding.PEM)


def public_key(name: str, pem: object) -> CertificatePublicKeyTypes:
    """Return the key in a signing request that its owner has signed. Raises BasaltError for anything else."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with leaf.long_names():
            request = x509.load_pem_x509_csr(str(pem).encode())
        if request.is_signature_valid:
            return request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise BasaltError(f"the signing request for {name} is missing or damaged")
