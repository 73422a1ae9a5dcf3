# SPDX-License-Identifier: Apache-2.0
"""A cluster whose CA is a company's: what is taken, what is refused, and who believes whom afterwards."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from firstboot import pki
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.kube import _mutual
from firstboot.pki import ca, given, keys, leaf, pasted
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.leaf import Usage
from firstboot.pki.verdict import Ledger
from firstboot.validate import check_document
from tests.unit.support_pki import Company, handshake

ROOT = Company.make("Company Root")
POLICY = Company.make("Company Policy CA", ROOT, depth=1)
ISSUING = Company.make("Company Kubernetes CA", POLICY, depth=0)
OTHER = Company.make("Company Laptops CA", ROOT)


def described(root: Path, company: Company | None = ISSUING) -> Catalogue:
    document = {"certificates": company.document} if company else {}
    config = Config.from_dict({"role": "control-plane", **document})
    return catalogue(config, "node-1", ["192.0.2.7"], root).unowned()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """A node that was started with a document that brings a company's CA."""
    wanted = described(tmp_path_factory.mktemp("given") / "kubernetes")
    pki.apply(wanted, Ledger())
    return wanted


def test_a_node_begins_with_the_documents_authority_and_keeps_it(made: Catalogue) -> None:
    authority = made.authority("ca")
    assert authority.certificate.read_text() == ISSUING.pem
    assert authority.key.read_text() == ISSUING.key_pem
    assert authority.trusted.read_bytes() == keys.certificate_pem(ISSUING.path[0]), (
        "it alone signs for the cluster"
    )
    root = authority.certificate.parent.parent
    for later in (ISSUING, None, OTHER):
        assert pki.check(described(root, later), Ledger()) == ()


def test_the_other_authorities_are_the_nodes_own(made: Catalogue) -> None:
    for authority in made.authorities[1:]:
        issuer = ca.load(authority)
        assert len(issuer.path) == 1
        assert not ca.issued(issuer.certificate, ISSUING.path[0])


def test_certificates_come_with_what_a_client_needs_that_knows_the_root_only(made: Catalogue) -> None:
    for spec in made.certificates:
        own, *above = x509.load_pem_x509_certificates(spec.certificate.read_bytes())
        expected = [] if spec.ca.name != "ca" else list(ISSUING.path[:2])
        assert above == expected, spec.name
        assert own.not_valid_after_utc <= ca.end_of(ca.load(spec.ca).path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_believes_them_by_the_root(made: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "root.crt").write_text(ROOT.pem)
    for spec in made.certificates:
        if spec.ca.name == "ca":
            purpose = "sslserver" if Usage.SERVER in spec.usages else "sslclient"
            command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile"]
            command += [
                str(tmp_path / "root.crt"),
                "-untrusted",
                str(spec.certificate),
                str(spec.certificate),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def server(made: Catalogue) -> ssl.SSLContext:
    """Return the API server's side as its arguments make it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.authority("ca").trusted))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    spec = made.certificate("apiserver")
    context.load_cert_chain(spec.certificate, spec.key)
    return context


@pytest.mark.parametrize("believes", ["root alone", "all of ca.crt", "the agent's"])
def test_every_client_of_the_api_believes_it(made: Catalogue, tmp_path: Path, believes: str) -> None:
    authority, spec = made.authority("ca"), made.certificate("agent")
    if believes == "the agent's":
        client = _mutual(authority.trusted, spec.certificate, spec.key)
    else:
        file = tmp_path / "roots.crt"
        file.write_text(ROOT.pem if believes == "root alone" else authority.certificate.read_text())
        client = ssl.create_default_context(cafile=str(file))
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        client.load_cert_chain(spec.certificate, spec.key)
    peer = handshake(client, server(made), "192.0.2.7").getpeercert()
    assert peer is not None and (("commonName", "basalt-agent"),) in peer["subject"]


def test_what_another_authority_of_the_company_has_signed_is_nobody_here(
    made: Catalogue, tmp_path: Path
) -> None:
    """Whoever gets a certificate of the company for a group of his choice would be the cluster's administrator."""
    spec = replace(made.certificate("admin"), directory=tmp_path)
    stranger = leaf.issue(spec, ca.Issuer(OTHER.path, OTHER.key))
    (tmp_path / "client.pem").write_bytes(stranger.certificate + stranger.key)
    client = ssl.create_default_context(cafile=str(made.authority("ca").certificate))
    client.load_cert_chain(tmp_path / "client.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server(made), "192.0.2.7")


def test_services_believe_the_signing_certificate_alone_and_people_are_given_all(made: Catalogue) -> None:
    for spec in made.kubeconfigs:
        [cluster] = yaml.safe_load(spec.path.read_text())["clusters"]
        if spec.embed:
            assert b64decode(cluster["cluster"]["certificate-authority-data"]).decode() == ISSUING.pem
        else:
            assert cluster["cluster"]["certificate-authority"] == str(made.authority("ca").trusted)


@pytest.mark.parametrize("cut", ["before its certificate", "with a key of its own"])
def test_a_start_that_was_cut_off(tmp_path: Path, cut: str) -> None:
    wanted = described(tmp_path / "kubernetes")
    authority = wanted.authority("ca")
    authority.key.parent.mkdir(parents=True)
    held = keys.private_pem(ISSUING.key if cut == "before its certificate" else keys.new_key())
    authority.key.write_bytes(held)
    if held == ISSUING.key_pem.encode():
        pki.apply(wanted, Ledger())
        assert pki.check(wanted, Ledger()) == ()
    else:
        with pytest.raises(BasaltError, match="not the key of the document's") as raised:
            pki.apply(wanted, Ledger())
        assert "remove the file" in raised.value.hint
        assert not authority.certificate.exists()
    assert authority.key.read_bytes() == held


def test_an_authority_that_is_not_valid_by_the_clock_is_not_written(tmp_path: Path) -> None:
    """A clock that is wrong at the first start must not leave a node with an authority that it cannot change."""
    wanted = described(tmp_path / "kubernetes")
    for now in (datetime.now(UTC) - timedelta(days=200), datetime.now(UTC) + timedelta(days=60)):
        with pytest.raises(BasaltError, match="and the clock says"):
            pki.apply(wanted, Ledger(), now)
        assert not list(tmp_path.rglob("*.crt"))
    pki.apply(wanted, Ledger())


def test_a_changed_file_of_trust_is_written_again(tmp_path: Path, made: Catalogue) -> None:
    root = tmp_path / "kubernetes"
    shutil.copytree(made.authority("ca").certificate.parent.parent, root)
    wanted = described(root, None)
    trusted = wanted.authority("ca").trusted
    trusted.write_text(ISSUING.pem)
    found = [finding for finding in pki.check(wanted, Ledger()) if not finding.name.endswith("kubeconfig")]
    assert [(each.name, each.reason) for each in found] == [
        ("ca-trusted.crt", "ca-trusted.crt is of another authority")
    ]
    pki.apply(wanted, Ledger())
    assert trusted.read_bytes() == keys.certificate_pem(ISSUING.path[0])


BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])

GOOD: dict[str, Callable[[], Company]] = {
    "a root": lambda: ROOT,
    "three": lambda: ISSUING,
    "rsa": lambda: Company.make("r", ROOT, key=rsa.generate_private_key(65537, 2048)),
    "p521": lambda: Company.make("p", key=ec.generate_private_key(ec.SECP521R1())),
    "ed25519": lambda: Company.make("e", ROOT, key=ed25519.Ed25519PrivateKey.generate()),
    "both purposes": lambda: Company.make("b", ROOT, more=(BOTH,)),
    "root without its own identifier": lambda: Company.make("r", without=(x509.AuthorityKeyIdentifier,)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_the_clusters_authority(name: str) -> None:
    company = GOOD[name]()
    assert given.certificate_problem(company.pem, datetime.now(UTC)) is None
    assert pasted.key_problem(company.key_pem, company.pem) is None


def turned(*authorities: Company) -> str:
    return "".join(keys.certificate_pem(each.path[0]).decode() for each in authorities)


def odd(**changes: object) -> str:
    return Company.make("Odd", ROOT, **changes).pem  # type: ignore[arg-type]


BAD: dict[str, tuple[Callable[[], str], str]] = {
    "no PEM": (lambda: "-----BEGIN CERTIFICATE-----\nx", "not a certificate in PEM form"),
    "a leaf": (lambda: odd(ca=False), "certificate 1 (CN=Odd) is no CA's"),
    "not critical": (lambda: odd(critical=False), "basic constraints as critical"),
    "ended": (lambda: odd(days=-1), "certificate 1 (CN=Odd) expired on"),
    "root ended": (
        lambda: Company.make("X", Company.make("Old", days=-1)).pem,
        "certificate 2 (CN=Old) expired",
    ),
    "too deep": (lambda: Company.make("X", Company.make("Y", ISSUING)).pem, "allows 0 authorities below it"),
    "no usage": (lambda: odd(without=(x509.KeyUsage,)), "keyCertSign is missing"),
    "servers only": (
        lambda: odd(more=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),)),
        "not for servers and clients both",
    ),
    "constraints": (
        lambda: odd(more=(x509.NameConstraints([x509.DNSName("example.org")], None),)),
        "has name constraints",
    ),
    "no identifier": (lambda: odd(without=(x509.SubjectKeyIdentifier,)), "no subject key identifier"),
    "no identifier above": (
        lambda: odd(without=(x509.AuthorityKeyIdentifier,)),
        "no authority key identifier",
    ),
    "short key": (lambda: odd(key=rsa.generate_private_key(65537, 1024)), "RSA key of 1024 bits only"),
    "odd curve": (lambda: odd(key=ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
    "root missing": (
        lambda: turned(ISSUING, POLICY),
        "the root is missing: certificate 2 was signed by CN=Company Root",
    ),
    "wrong order": (lambda: turned(POLICY, ISSUING, ROOT), "certificate 2 has not signed certificate 1"),
    "one missing": (lambda: turned(ISSUING, ROOT), "certificate 2 has not signed certificate 1"),
    "another of its name": (
        lambda: turned(Company.make("Odd", Company.make("Company Root")), ROOT),
        "the signature of certificate 1 is not by the key of the one above it",
    ),
    "more than the root": (lambda: turned(ROOT, OTHER), "certificate 2 stands behind the root"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_the_clusters_authority(name: str) -> None:
    make, words = BAD[name]
    problem = given.certificate_problem(make(), datetime.now(UTC))
    assert problem is not None
    assert words in problem[0]
    assert problem[1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_signature_that_nobody_believes_any_more(tmp_path: Path) -> None:
    """Made by openssl: the library that we sign with does not."""
    for name, text in (("ca.crt", turned(ROOT)), ("ca.key", ROOT.key_pem)):
        (tmp_path / name).write_text(text)
    command = "openssl req -x509 -CA ca.crt -CAkey ca.key -sha1 -subj /CN=Odd -newkey rsa:2048 -nodes -keyout odd.key "
    command += "-addext basicConstraints=critical,CA:true -addext keyUsage=keyCertSign"
    made = subprocess.run(
        command.split(), cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True
    )
    problem = given.certificate_problem(made.stdout + ROOT.pem, datetime.now(UTC))
    assert problem is not None and "is signed with sha1" in problem[0]


def problems(certificates: object, **document: object) -> list[tuple[str, str]]:
    found = check_document({"role": "control-plane", "certificates": certificates, **document})
    assert all(ISSUING.key_pem.splitlines()[1] not in str(each) for each in found)
    return [(each.code, each.path) for each in found]


TOKEN = os.urandom(16).hex()
JOINS = {"token": TOKEN, "endpoints": ["192.0.2.1"]}
AT = "basalt.certificates.ca"


def test_the_machine_that_starts_a_cluster_brings_the_authority() -> None:
    assert problems(ISSUING.document) == []
    assert problems(ISSUING.document, cluster={"token": TOKEN, "bootstrap": True}) == []
    assert problems(ISSUING.document, cluster=JOINS) == [(Code.BAD_VALUE, AT)]
    assert problems(ISSUING.document, cluster=JOINS, role="worker") == [(Code.BAD_VALUE, AT)]


def test_mistakes_in_the_document() -> None:
    pem, key = ISSUING.pem, ISSUING.key_pem
    assert problems({"ca": {"certificate": pem}}) == [(Code.MISSING_KEY, f"{AT}.key")]
    assert problems({"ca": {"certificate": pem, "key": ROOT.key_pem}}) == [(Code.BAD_KEY, f"{AT}.key")]
    assert problems({"ca": {"certificate": pem, "key": key[:80]}}) == [(Code.BAD_KEY, f"{AT}.key")]
    assert problems({"ca": {"certificate": turned(ISSUING), "key": key}}) == [
        (Code.BAD_CERTIFICATE, f"{AT}.certificate")
    ]
    assert problems({"ca": {"certificate": key, "key": key}}) == [(Code.PRIVATE_KEY, f"{AT}.certificate")]
    assert problems({"ca": {"certificate": pem, "key": pem}}) == [(Code.BAD_VALUE, f"{AT}.key")]


def test_an_encrypted_key_is_told() -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ISSUING.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    problem = pasted.key_problem(key, ISSUING.pem)
    assert problem is not None and "is encrypted" in problem[0]


def test_the_key_is_not_shown() -> None:
    config = Config.from_dict({"role": "control-plane", "certificates": ISSUING.document})
    secret = ISSUING.key_pem.splitlines()[1]
    assert secret not in repr(config)
    assert secret not in repr(catalogue(config, "node-1", ["192.0.2.7"]))
