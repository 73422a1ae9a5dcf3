# SPDX-License-Identifier: Apache-2.0
"""A whole node's keys and certificates on disk: made, verified, damaged, healed, renewed."""

import os
import shutil
import ssl
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from firstboot import pki
from firstboot.config import Config
from firstboot.failure import BasaltError
from firstboot.pki import ca, leaf
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.leaf import CertificateSpec, Usage
from firstboot.pki.verdict import Ledger
from tests.unit.support_pki import handshake

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def described(root: Path, node_ip: str = "192.0.2.7", **document: object) -> Catalogue:
    config = Config.from_dict({"role": "control-plane", "datastore": {"type": "etcd"}, **document})
    return catalogue(config, "node-1", [node_ip], root).unowned()


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One node's files, made once: every test starts from a copy."""
    root = tmp_path_factory.mktemp("made") / "kubernetes"
    pki.apply(described(root), Ledger(), NOW)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "kubernetes"
    shutil.copytree(made, copy)
    for path in copy.glob("*.kubeconfig"):
        path.write_text(path.read_text().replace(str(made), str(copy)))
    return copy


def certificate_names(wanted: Catalogue) -> set[str]:
    return {entry.name for entry in wanted.authorities} | {entry.name for entry in wanted.certificates}


def certificate(spec: CertificateSpec) -> x509.Certificate:
    return x509.load_pem_x509_certificate(spec.certificate.read_bytes())


def test_everything_is_made_and_then_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "kubernetes"
    wanted, ledger = described(root), Ledger()
    findings = pki.check(wanted, ledger, NOW)
    names = certificate_names(wanted) | {"sa"}
    names |= {entry.path.name for entry in wanted.kubeconfigs} | {"ca-trusted.crt", "ca-signing.crt"}
    assert {finding.name for finding in findings} == names
    assert not root.exists(), "a check makes nothing"
    assert set(pki.apply(wanted, ledger, NOW)) == names
    before = content(root)
    for again in (ledger, Ledger()):
        assert pki.check(wanted, again, NOW) == ()
        assert pki.apply(wanted, again, NOW) == ()
    assert content(root) == before


def test_servers_are_verified_by_name_and_address(root: Path) -> None:
    for spec in described(root).certificates:
        if Usage.SERVER not in spec.usages:
            continue
        store = Store(x509.load_pem_x509_certificates(spec.ca.certificate.read_bytes()))
        builder = PolicyBuilder().store(store).time(NOW)
        subjects: list[x509.DNSName | x509.IPAddress] = [x509.DNSName(name) for name in spec.dns_names]
        subjects += [x509.IPAddress(ip_address(text)) for text in spec.ip_addresses]
        for subject in subjects:
            chain = builder.build_server_verifier(subject).verify(certificate(spec), [])
            assert len(chain) == 2
        with pytest.raises(x509.verification.VerificationError):
            builder.build_server_verifier(x509.DNSName("elsewhere")).verify(certificate(spec), [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees_about_every_chain_and_purpose(root: Path) -> None:
    def verify(authority: Path, purpose: str, *certificates: Path) -> int:
        command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))]
        command += ["-CAfile", str(authority), "-purpose", purpose, *map(str, certificates)]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode

    wanted = described(root)
    for usage, purpose in ((Usage.SERVER, "sslserver"), (Usage.CLIENT, "sslclient")):
        for authority in {spec.ca for spec in wanted.certificates}:
            of_this = [spec for spec in wanted.certificates if spec.ca == authority]
            may = [spec.certificate for spec in of_this if usage in spec.usages]
            assert not may or verify(authority.certificate, purpose, *may) == 0
            for spec in of_this:
                if usage not in spec.usages:
                    assert verify(authority.certificate, purpose, spec.certificate) != 0
    other = wanted.authority("front-proxy-ca").certificate
    assert verify(other, "sslserver", wanted.certificate("apiserver").certificate) != 0


def test_mutual_tls_handshake(tmp_path: Path) -> None:
    """By Python's ssl and the real clock, between the API server and the administrator."""
    wanted = described(tmp_path / "kubernetes")
    pki.apply(wanted, Ledger())
    roots = wanted.authority("ca").certificate
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(roots))
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(roots))
    for context, name in ((server, "apiserver"), (client, "admin")):
        spec = wanted.certificate(name)
        context.load_cert_chain(spec.certificate, spec.key)
    there = handshake(client, server, "192.0.2.7")
    peer = there.getpeercert()
    assert peer is not None
    assert (("organizationName", "system:masters"),) in peer["subject"]


def test_private_keys_are_private_and_certificates_public(root: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()}
    shared = {"ca.key", "sa.key"}
    for name, mode in modes.items():
        if name.endswith(".key") and name not in shared:
            assert mode == 0o600, name
        if name.endswith((".crt", ".pub")):
            assert mode == 0o644, name
    assert {modes[name] for name in ("sa.key", "kubelet.kubeconfig", "admin.kubeconfig")} == {0o640, 0o600}
    assert stat.S_IMODE((root / "pki/ca.key").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "pki/etcd/ca.key").stat().st_mode) == 0o600


DAMAGES = {
    "no certificate": ("apiserver.crt", None, "apiserver.crt is missing"),
    "no key": ("apiserver.key", None, "apiserver.key is missing"),
    "empty certificate": ("apiserver.crt", b"", "holds no readable certificate"),
    "empty key": ("apiserver.key", b"", "holds no readable private key"),
    "binary rubbish": ("apiserver.crt", bytes(range(256)), "holds no readable certificate"),
    "torn certificate": ("apiserver.crt", "half", "holds no readable certificate"),
    "torn key": ("apiserver.key", "half", "holds no readable private key"),
    "key of another": ("apiserver.key", "pki/kubelet.key", "apiserver.key is not the key of apiserver.crt"),
    "certificate of another": ("apiserver.crt", "pki/kubelet.crt", "is not the key of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_heals(root: Path, damage: str) -> None:
    name, put, expected = DAMAGES[damage]
    path = root / "pki" / name
    ledger = Ledger()
    wanted = described(root)
    pki.check(wanted, ledger, NOW)
    match put:
        case None:
            path.unlink()
        case "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case str():
            path.write_bytes((root / put).read_bytes())
        case bytes():
            path.write_bytes(put)
    [finding] = pki.check(wanted, ledger, NOW)
    assert finding.name == "apiserver"
    assert expected in finding.reason
    assert pki.apply(wanted, ledger, NOW) == ("apiserver",)
    assert pki.check(wanted, Ledger(), NOW) == ()


def test_wrong_mode_heals_without_a_new_key(root: Path) -> None:
    wanted = described(root)
    key = root / "pki/scheduler.key"
    before = key.read_bytes()
    key.chmod(0o644)
    [finding] = pki.check(wanted, Ledger(), NOW)
    assert finding.reason == "scheduler.key has mode 0644 instead of 0600"
    pki.apply(wanted, Ledger(), NOW)
    assert (key.read_bytes(), stat.S_IMODE(key.stat().st_mode)) == (before, 0o600)


def test_damage_that_keeps_size_and_time_is_noticed(root: Path) -> None:
    wanted, ledger = described(root), Ledger()
    pki.check(wanted, ledger, NOW)
    path = root / "pki/apiserver.crt"
    found = path.stat()
    path.write_bytes(bytes(found.st_size))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert [finding.name for finding in pki.check(wanted, ledger, NOW)] == ["apiserver"]


CUT_OFF = """
import os, sys
from pathlib import Path
from firstboot import pki
from firstboot.config import Config
from firstboot.pki.catalogue import catalogue
from firstboot.pki.verdict import Ledger
import cryptography.x509

config = Config.from_dict({"role": "control-plane", "datastore": {"type": "etcd"}})
for cut in map(int, sys.argv[2:]):
    if os.fork() == 0:
        left = cut
        def hook(event, args):
            global left
            if event == "os.rename":
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(hook)
        root = Path(sys.argv[1]) / str(cut) / "kubernetes"
        pki.apply(catalogue(config, "node-1", ["192.0.2.7"], root).unowned(), Ledger())
        os._exit(0)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 9, "there was nothing to cut off"
"""


def test_agent_killed_at_any_point_completes_what_it_began(tmp_path: Path) -> None:
    """The agent dies between two files taking their places; what is there stays and the rest is made."""
    cuts = [0, 3, 5, 8, 11, 42, 46]
    for cut in cuts:
        (tmp_path / str(cut)).mkdir()
    command = [sys.executable, "-c", CUT_OFF, str(tmp_path), *map(str, cuts)]
    subprocess.run(command, check=True, timeout=60)
    for cut in cuts:
        root = tmp_path / str(cut) / "kubernetes"
        before = {name: data for name, data in content(root).items() if not name.endswith(".new")}
        assert len(before) == cut
        wanted = described(root)
        pki.apply(wanted, Ledger())
        assert pki.check(wanted, Ledger()) == ()
        after = content(root)
        assert not [name for name in after if name.endswith(".new")], "no key is left lying about"
        assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("change", "names", "expected"),
    [
        (
            {"cluster": {"api-address": "api.example.org"}},
            {"apiserver", "basalt-api"},
            "it is not valid for api.example.org",
        ),
        ({"cluster": {"domain": "example.net"}}, {"apiserver"}, "kubernetes.default.svc.example.net"),
        ({"cluster": {"service-cidr": "10.9.0.0/16"}}, {"apiserver"}, "it is not valid for 10.9.0.1"),
        (
            {"node_ip": "198.51.100.1"},
            {"apiserver", "basalt-api", "kubelet", "etcd/server", "etcd/peer"},
            "it is not valid for 198.51.100.1",
        ),
    ],
)
def test_certificates_follow_the_document_and_the_facts(
    root: Path, change: dict[str, str], names: set[str], expected: str
) -> None:
    keys = {name: data for name, data in content(root).items() if name.endswith(".key")}
    wanted, ledger = described(root, **change), Ledger()
    findings = pki.check(wanted, ledger, NOW)
    assert {finding.name for finding in findings} == names
    assert all(expected in finding.reason for finding in findings)
    assert set(pki.apply(wanted, ledger, NOW)) == names
    assert pki.check(wanted, ledger, NOW) == ()
    assert {name: data for name, data in content(root).items() if name.endswith(".key")} == keys


def test_names_no_longer_wanted_are_taken_away(root: Path) -> None:
    pki.apply(described(root, cluster={"api-address": "198.51.100.9"}), Ledger(), NOW)
    findings = pki.check(described(root), Ledger(), NOW)
    assert {(finding.name, finding.reason) for finding in findings} == {
        ("apiserver", "it is still valid for 198.51.100.9"),
        ("basalt-api", "it is still valid for 198.51.100.9"),
    }


def test_changed_subject_and_usage_are_noticed(root: Path) -> None:
    spec = described(root).certificate("scheduler")
    assert leaf.check(spec, NOW) is None
    assert leaf.check(replace(spec, organizations=("other",)), NOW) == (
        "its subject is CN=system:kube-scheduler"
    )
    assert leaf.check(replace(spec, usages=(Usage.SERVER, Usage.CLIENT)), NOW) == "its usages differ"


@pytest.mark.parametrize(
    ("after", "due"), [(timedelta(0), False), (243 * DAY, False), (245 * DAY, True), (400 * DAY, True)]
)
def test_renewal_when_a_third_remains(root: Path, after: timedelta, due: bool) -> None:
    wanted, ledger = described(root), Ledger()
    pki.check(wanted, ledger, NOW)
    later = NOW + after
    names = {finding.name for finding in pki.check(wanted, ledger, later)} - {"admin.kubeconfig"}
    assert names == ({spec.name for spec in wanted.certificates} if due else set())
    changed = pki.apply(wanted, ledger, later)
    assert ("admin.kubeconfig" in changed) is due, "it embeds its certificate; the others name theirs"
    assert ("kubelet.kubeconfig" in changed) is False
    assert pki.check(wanted, ledger, later) == ()
    if due:
        assert min(pki.expiries(wanted, ledger, later).values()) == later + leaf.LIFETIME


def test_certificate_made_under_a_fast_clock_is_made_again(root: Path) -> None:
    spec = described(root).certificate("apiserver")
    spec.certificate.unlink()
    leaf.apply(spec, NOW + 30 * DAY)
    assert leaf.check(spec, NOW) == "it is not valid before 2026-12-23 11:00 UTC"
    assert leaf.apply(spec, NOW) is True
    assert leaf.check(spec, NOW) is None
    assert leaf.check(spec, NOW - timedelta(minutes=59)) is None, "a clock set back a little does no harm"


def test_near_the_end_of_its_authority_a_certificate_is_not_renewed_for_ever(root: Path) -> None:
    spec = described(root).certificate("apiserver")
    end = certificate_end(spec.ca.certificate)
    late = end - 30 * DAY
    assert leaf.apply(spec, late) is True
    assert certificate_end(spec.certificate) == end
    for moment in (late, end - 10 * DAY, end - timedelta(minutes=1)):
        assert leaf.check(spec, moment) is None


def certificate_end(path: Path) -> datetime:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def test_expiries(root: Path) -> None:
    wanted = described(root)
    (root / "pki/coredns.crt").unlink()
    found = pki.expiries(wanted, Ledger(), NOW)
    assert set(found) == certificate_names(wanted) - {"coredns"}
    assert found["apiserver"] == NOW + leaf.LIFETIME
    assert found["ca"] == NOW - ca.BACKDATING + ca.LIFETIME


def test_kubeconfigs_point_where_they_should(root: Path) -> None:
    for spec in described(root).kubeconfigs:
        data = yaml.safe_load(spec.path.read_text())
        [cluster], [user], [context] = data["clusters"], data["users"], data["contexts"]
        assert data["current-context"] == context["name"]
        assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
        assert cluster["cluster"]["server"] == "https://127.0.0.1:6443"
        if spec.name != "admin":
            for path in (cluster["cluster"]["certificate-authority"], *user["user"].values()):
                assert Path(path).is_file()


def test_damaged_kubeconfig_heals(root: Path) -> None:
    wanted = described(root)
    (root / "admin.kubeconfig").write_text("apiVersion: v1\n")
    (root / "scheduler.kubeconfig").unlink()
    ledger = Ledger()
    assert [(finding.name, finding.reason.split()[-1]) for finding in pki.check(wanted, ledger, NOW)] == [
        ("admin.kubeconfig", "certificates"),
        ("scheduler.kubeconfig", "missing"),
    ]
    assert pki.apply(wanted, ledger, NOW) == ("admin.kubeconfig", "scheduler.kubeconfig")


def test_worker_asks_for_what_it_cannot_sign(tmp_path: Path) -> None:
    wanted = catalogue(
        Config.from_dict({"role": "worker"}), "node-2", ["192.0.2.8"], tmp_path / "k"
    ).unowned()
    assert wanted.authorities == ()
    with pytest.raises(BasaltError, match="certificate authority ca is not on this node"):
        pki.apply(wanted, Ledger(), NOW)
    assert not list(tmp_path.rglob("*.key"))


def test_steady_node_needs_no_cryptography(tmp_path: Path) -> None:
    """The ledger on disk is what keeps a restart of the agent quick."""
    root, ledger = tmp_path / "kubernetes", tmp_path / "ledger.json"
    pki.apply(described(root), Ledger(ledger))
    pki.check(described(root), Ledger(ledger))
    script = (
        "import sys; from pathlib import Path; from firstboot import pki\n"
        "from firstboot.config import Config; from firstboot.pki.catalogue import catalogue\n"
        "from firstboot.pki.verdict import Ledger\n"
        "config = Config.from_dict({'role': 'control-plane', 'datastore': {'type': 'etcd'}})\n"
        f"wanted = catalogue(config, 'node-1', ['192.0.2.7'], Path({str(root)!r})).unowned()\n"
        f"ledger = Ledger(Path({str(ledger)!r}))\n"
        "assert pki.apply(wanted, ledger) == ()\n"
        "assert len(pki.expiries(wanted, ledger)) == 29\n"
        "sys.exit('cryptography' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"apiserver": {}}', '{"apiserver": {"stamp": "x"}}', "null"]
)
def test_damaged_ledger_counts_as_empty(root: Path, text: str) -> None:
    ledger = root / "ledger.json"
    ledger.write_text(text)
    assert pki.apply(described(root), Ledger(ledger), NOW) == ()
    assert Ledger(ledger)._entries.keys() >= {"ca", "apiserver"}
