# SPDX-License-Identifier: Apache-2.0
"""What is made once must be kept: authorities and the key pair of service account tokens."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_public_key,
)

from firstboot.failure import BasaltError
from firstboot.pki import ca, keys, leaf, tokens
from firstboot.pki.ca import Authority
from firstboot.pki.leaf import CertificateSpec
from firstboot.pki.tokens import TokenKeys

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority("ca", "kubernetes", tmp_path / "ca.crt", tmp_path / "ca.key", owner=None)


@pytest.fixture
def pair(tmp_path: Path) -> TokenKeys:
    return TokenKeys("sa", tmp_path / "sa.key", tmp_path / "sa.pub", owner=None, mode=0o640)


def leaf_of(authority: Authority) -> CertificateSpec:
    folder = authority.key.parent
    return CertificateSpec("leaf", authority, "leaf", dns_names=("leaf",), owner=None, directory=folder)


def both(authority: Authority) -> tuple[bytes, bytes]:
    return authority.certificate.read_bytes(), authority.key.read_bytes()


def test_made_once(authority: Authority) -> None:
    assert ca.check(authority, NOW) == "there is none yet"
    assert ca.apply(authority, NOW) is True
    before = both(authority)
    assert ca.apply(authority, NOW + timedelta(days=3600)) is False
    assert both(authority) == before
    certificate = x509.load_pem_x509_certificate(before[0])
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc - NOW > timedelta(days=3650)
    certificate.verify_directly_issued_by(certificate)


def test_power_cut_between_key_and_certificate(authority: Authority) -> None:
    ca.apply(authority, NOW)
    key = authority.key.read_bytes()
    authority.certificate.unlink()
    assert ca.check(authority, NOW) == "only its key exists yet"
    ca.apply(authority, NOW)
    assert authority.key.read_bytes() == key


def test_certificate_made_again_from_its_key_keeps_what_it_signed_valid(authority: Authority) -> None:
    ca.apply(authority, NOW)
    leaf.apply(leaf_of(authority), NOW)
    authority.certificate.unlink()
    ca.apply(authority, NOW + timedelta(days=1))
    assert leaf.check(leaf_of(authority), NOW + timedelta(days=1)) is None


def lose_key(authority: Authority) -> None:
    authority.key.unlink()


def tear_certificate(authority: Authority) -> None:
    authority.certificate.write_bytes(authority.certificate.read_bytes()[:100])


def tear_key(authority: Authority) -> None:
    authority.key.write_bytes(b"")


def swap_key(authority: Authority) -> None:
    authority.key.write_bytes(keys.private_pem(keys.new_key()))


def encrypt_key(authority: Authority) -> None:
    key = keys.read_key(authority.key.read_bytes())
    encryption = BestAvailableEncryption(b"passphrase")
    authority.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def put_a_leaf(authority: Authority) -> None:
    issued = leaf.issue(leaf_of(authority), ca.load(authority, NOW), NOW)
    authority.certificate.write_bytes(issued.certificate)
    authority.key.write_bytes(issued.key)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lose_key, "private key of the certificate authority ca is lost"),
        (tear_certificate, "ca.crt holds no readable certificate"),
        (tear_key, "ca.key holds no readable private key"),
        (swap_key, "ca.key is not the key of"),
        (encrypt_key, "is encrypted"),
        (put_a_leaf, "may not sign certificates"),
    ],
)
def test_harmed_authority_is_reported_and_never_replaced(
    authority: Authority, harm: Callable[[Authority], None], expected: str
) -> None:
    ca.apply(authority, NOW)
    harm(authority)
    state = {path.name: path.read_bytes() for path in authority.certificate.parent.iterdir()}
    for action in (ca.check, ca.apply, ca.load):
        with pytest.raises(BasaltError, match=expected) as raised:
            action(authority, NOW)
        assert "Nothing replaces an authority" in raised.value.hint
    assert {path.name: path.read_bytes() for path in authority.certificate.parent.iterdir()} == state


def test_lost_key_is_not_made_up_behind_a_check(authority: Authority) -> None:
    ca.apply(authority, NOW)
    authority.key.unlink()
    with pytest.raises(BasaltError, match="is lost"):
        ca.make(authority, NOW)


@pytest.mark.parametrize("away", [timedelta(days=-1), timedelta(days=3653)])
def test_clock_outside_an_authoritys_life_is_reported(authority: Authority, away: timedelta) -> None:
    ca.apply(authority, NOW)
    before = both(authority)
    with pytest.raises(BasaltError, match="and the clock says") as raised:
        ca.apply(authority, NOW + away)
    assert "time.servers" in raised.value.hint
    assert both(authority) == before


def test_wrong_mode_of_the_key_is_put_right(authority: Authority) -> None:
    ca.apply(authority, NOW)
    before = both(authority)
    authority.key.chmod(0o644)
    assert ca.check(authority, NOW) == "ca.key has mode 0644 instead of 0600"
    assert ca.apply(authority, NOW) is True
    assert ca.check(authority, NOW) is None
    assert both(authority) == before


GIVEN_KEYS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", GIVEN_KEYS)
def test_authority_given_by_somebody_else_is_used_as_it_is(authority: Authority, kind: str) -> None:
    """An intermediate of a company's root with a bundle, without the optional key identifiers."""
    root_key, key = keys.new_key(), GIVEN_KEYS[kind]()
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("root", "given")]

    def signed(subject: x509.Name, public: x509.CertificateBuilder) -> bytes:
        builder = (
            public.subject_name(subject)
            .issuer_name(names[0])
            .serial_number(7)
            .not_valid_before(NOW - timedelta(days=5))
            .not_valid_after(NOW + timedelta(days=100))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        )
        return builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    bundle = signed(names[1], x509.CertificateBuilder().public_key(key.public_key()))
    bundle += signed(names[0], x509.CertificateBuilder().public_key(root_key.public_key()))
    authority.certificate.write_bytes(bundle)
    authority.key.write_bytes(keys.private_pem(key))
    authority.key.chmod(0o600)
    assert ca.apply(authority, NOW) is False
    spec = leaf_of(authority)
    assert leaf.apply(spec, NOW) is True
    assert leaf.check(spec, NOW) is None
    certificate = x509.load_pem_x509_certificate(spec.certificate.read_bytes())
    assert certificate.issuer == names[1]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=100), "no longer than its authority"
    assert both(authority) == (bundle, keys.private_pem(key))


def test_certificate_of_an_earlier_authority_is_issued_again(authority: Authority) -> None:
    """Also when the new authority has the old one's name."""
    ca.apply(authority, NOW)
    leaf.apply(leaf_of(authority), NOW)
    for path in authority.paths:
        path.unlink()
    assert leaf.check(leaf_of(authority), NOW) == "its authority ca is missing"
    ca.apply(authority, NOW)
    assert leaf.check(leaf_of(authority), NOW) == "it was issued by another authority"
    assert leaf.apply(leaf_of(authority), NOW) is True


def test_long_node_name(authority: Authority) -> None:
    """A kubelet's common name may exceed the 64 characters of X.520, and warnings are errors here."""
    ca.apply(authority, NOW)
    name = "system:node:" + "a-rather-long-host-name." * 8 + "example.org"
    folder = authority.key.parent
    spec = CertificateSpec("kubelet", authority, name, ("system:nodes",), owner=None, directory=folder)
    leaf.apply(spec, NOW)
    assert leaf.check(spec, NOW) is None


def test_credentials_for_a_person_need_no_file(authority: Authority) -> None:
    ca.apply(authority, NOW)
    before = sorted(authority.key.parent.iterdir())
    issued = leaf.issue(leaf_of(authority), ca.load(authority, NOW), NOW, lifetime=timedelta(hours=8))
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    assert certificate.not_valid_after_utc == NOW + timedelta(hours=8)
    assert keys.public_pem(keys.read_key(issued.key).public_key()) == keys.public_pem(
        certificate.public_key()
    )
    assert sorted(authority.key.parent.iterdir()) == before


def test_token_keys_are_made_once_and_fit(pair: TokenKeys) -> None:
    assert tokens.apply(pair) is True
    private, public = pair.private.read_bytes(), pair.public.read_bytes()
    assert tokens.apply(pair) is False
    key = keys.read_key(private)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    verifier = load_pem_public_key(public)
    assert isinstance(verifier, ec.EllipticCurvePublicKey)
    verifier.verify(key.sign(b"token", ec.ECDSA(hashes.SHA256())), b"token", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("rest", [None, b"", b"rubbish"])
def test_public_token_key_is_made_again(pair: TokenKeys, rest: bytes | None) -> None:
    tokens.apply(pair)
    private, public = pair.private.read_bytes(), pair.public.read_bytes()
    pair.public.unlink()
    if rest is not None:
        pair.public.write_bytes(rest)
    assert tokens.check(pair) == "sa.pub lacks the public part of sa.key"
    assert tokens.apply(pair) is True
    assert (pair.private.read_bytes(), pair.public.read_bytes()) == (private, public)


def test_keys_of_earlier_tokens_are_kept(pair: TokenKeys) -> None:
    tokens.apply(pair)
    earlier = pair.public.read_bytes()
    pair.private.write_bytes(keys.private_pem(keys.new_key()))
    assert tokens.apply(pair) is True
    assert pair.public.read_bytes().endswith(earlier)
    assert len(tokens.PUBLIC_KEY.findall(pair.public.read_bytes())) == 2
    assert tokens.check(pair) is None


def test_lost_token_key_is_reported_and_never_replaced(pair: TokenKeys) -> None:
    tokens.apply(pair)
    pair.private.unlink()
    for action in (tokens.check, tokens.apply, tokens.make):
        with pytest.raises(BasaltError, match="private key of service account tokens is lost"):
            action(pair)
    assert not pair.private.exists()
