# SPDX-License-Identifier: Apache-2.0
"""An authority that somebody else signs: its key is made here and stays, and a signing request goes to him."""

from __future__ import annotations

from datetime import datetime

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import ca, keys
from firstboot.pki.ca import Authority


def request(authority: Authority, now: datetime) -> bytes:
    """Return a signing request (PEM) for an authority of that kind, signed with a key that is kept for it.

    The key is that of the last request as long as none was used: a certificate that is on its way stays good.
    Raises BasaltError for one that cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = files.read_or_none(authority.requested)
    if pem is None:
        pem = keys.private_pem(keys.new_key())
        files.write(authority.requested, pem, 0o600, authority.owner)
    try:
        key = keys.read_key(pem)
    except keys.Unreadable as error:
        remedy = "Remove it, and request again; a certificate for an earlier request is worth nothing then."
        raise BasaltError(f"{authority.requested} {error}", remedy) from error
    builder = (
        x509.CertificateSigningRequestBuilder(ca.subject_of(authority, ca.era(now)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(ca.key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, keys.digest_for(key)).public_bytes(Encoding.PEM)


def key_for(authority: Authority) -> bytes | None:
    """Return the key (PEM) of the last request that was not used, None where there is none."""
    return files.read_or_none(authority.requested)
