# SPDX-License-Identifier: Apache-2.0
"""Until when certificates are valid: what the status has, who is told in time, and the list for people."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from firstboot import pki, schema
from firstboot.config import Config
from firstboot.pki import ca, leaf, validity
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.verdict import Ledger
from firstboot.report.metrics import render
from firstboot.report.status import Status
from tests.unit.support_pki import Company

from .support_external import authority, pair, section

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def described(root: Path, **document: object) -> Catalogue:
    config = Config.from_dict({"role": "control-plane", **document})
    return catalogue(config, "node-1", ["192.0.2.7"], root).unowned()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "kubernetes"
    pki.apply(described(root), Ledger(), NOW)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "kubernetes"))


def told(wanted: Catalogue, now: datetime, **more: datetime) -> dict[str, str]:
    ends = pki.expiries(wanted, Ledger(), now) | more
    found = {each.path: each for each in validity.endings(wanted, ends, now)}
    assert all(each.remedy for each in found.values())
    return {path: each.found for path, each in found.items()}


def test_nothing_is_told_of_a_new_node(root: Path) -> None:
    assert told(described(root), NOW) == {}


def test_an_authority_that_ends_is_told_once_and_not_with_all_that_end_with_it(root: Path) -> None:
    end = ca.load(described(root).authority("ca"), NOW).end
    late = end - 20 * DAY
    pki.apply(described(root), Ledger(), late)
    found = told(described(root), late)
    assert set(found) == {"ca.crt", "front-proxy-ca.crt", "dqlite/ca.crt", "admin-client-ca.crt"}
    assert found["ca.crt"] == f"ca.crt ends on {end:%Y-%m-%d}, in 20 days"
    assert told(described(root), end - 91 * DAY).keys() & {"ca.crt"} == set()
    assert told(described(root), end + DAY)["ca.crt"] == f"ca.crt has ended on {end:%Y-%m-%d}"


def test_an_intermediate_authority_ends_with_what_is_above_it(tmp_path: Path) -> None:
    company = Company.make("Company CA", Company.make("Company Root", days=40), days=400)
    wanted = described(tmp_path / "kubernetes", certificates=company.document)
    pki.apply(wanted, Ledger(), NOW)
    assert pki.expiries(wanted, Ledger(), NOW)["ca"] == company.path[1].not_valid_after_utc
    assert "ca.crt" in told(wanted, NOW)
    assert leaf.check(wanted.certificate("kubelet"), NOW) is None, "it is not made anew for ever"


def test_a_certificate_that_could_not_be_made_anew_is_told_and_stays_in_the_status(root: Path) -> None:
    """A worker whose control planes are away for months, for instance."""
    wanted = described(root)
    late = NOW + leaf.LIFETIME - 29 * DAY
    spec = wanted.certificate("kubelet")
    old = spec.certificate.read_bytes()
    pki.apply(wanted, Ledger(), late)
    spec.certificate.write_bytes(old)
    assert told(wanted, late) == {
        "kubelet.crt": f"kubelet.crt ends on {late + 29 * DAY:%Y-%m-%d}, in 29 days"
    }
    assert told(wanted, late - 2 * DAY) == {}


def test_a_worker_sees_the_authority_that_it_believes(tmp_path: Path) -> None:
    company = Company.make("Company CA", days=50)
    wanted = described(tmp_path, role="worker")
    (tmp_path / "pki").mkdir()
    wanted.certificates[0].ca.certificate.write_text(company.pem)
    ledger = tmp_path / "ledger.json"
    assert pki.expiries(wanted, Ledger(ledger), NOW) == {"ca": company.path[0].not_valid_after_utc}
    assert set(told(wanted, NOW)) == {"ca.crt"}
    [authority, *_] = validity.listed(wanted, now=NOW)
    assert (authority.name, authority.subject, authority.problem) == ("ca", "CN=Company CA", None)


def test_the_authority_of_administrators_is_told_too() -> None:
    first, second = Company.make("Admins"), Company.make("More", days=300)
    config = Config.from_dict({"role": "worker", "access": {"client-ca": first.pem + second.pem}})
    documents = validity.brought(config)
    ends = validity.brought_ends(documents)
    assert list(ends) == ["client-ca", "client-ca/2"]
    [failure] = validity.endings(described(Path("/nowhere")), ends, NOW, documents)
    assert (failure.code, failure.path) == ("authority-ends", "basalt.access.client-ca")


def test_certificates_of_an_etcd_of_somebody_else_are_told_too(tmp_path: Path) -> None:
    etcd = authority(tmp_path)
    external = section(etcd, pair(etcd, "client", now=NOW - leaf.LIFETIME + 29 * DAY))
    config = Config.from_dict(
        {"role": "control-plane", "datastore": {"type": "external", "external": external}}
    )
    documents = validity.brought(config)
    ends = validity.brought_ends(documents)
    assert list(ends) == ["etcd/ca", "apiserver-etcd-client"]
    wanted = described(tmp_path / "kubernetes", datastore={"type": "external", "external": external})
    [failure] = validity.endings(wanted, ends, NOW, documents)
    path = "basalt.datastore.external.client-certificate"
    assert (failure.code, failure.path) == ("certificate-ends", path)
    assert failure.found.startswith("apiserver-etcd-client ends on ")
    late = ca.load(etcd, NOW).end - 80 * DAY
    assert [
        each.code for each in validity.endings(wanted, {"etcd/ca": late + 80 * DAY}, late, documents)
    ] == ["authority-ends"]
    found = {each.name: each for each in validity.listed(wanted, documents, NOW)}
    assert found["apiserver-etcd-client"].path == path and found["etcd/ca"].problem is None


def test_the_list_says_whose_and_until_when(root: Path) -> None:
    wanted = described(root)
    wanted.certificate("coredns").certificate.unlink()
    wanted.certificate("scheduler").certificate.write_bytes(b"rubbish")
    wanted.authority("front-proxy-ca").key.unlink()
    admins = Config.from_dict({"role": "control-plane", "access": {"client-ca": Company.make("Admins").pem}})
    found = {each.name: each for each in validity.listed(wanted, validity.brought(admins), NOW)}
    assert list(found)[:5] == ["ca", "front-proxy-ca", "dqlite/ca", "admin-client-ca", "client-ca"]
    kubelet = found["kubelet"]
    assert (kubelet.subject, kubelet.issuer) == ("CN=system:node:node-1,O=system:nodes", "CN=kubernetes")
    assert kubelet.path == str(root / "pki/kubelet.crt")
    assert kubelet.ends == validity.written(NOW + leaf.LIFETIME)
    assert (
        kubelet.renewed is not None
        and NOW + 243 * DAY < datetime.fromisoformat(kubelet.renewed) < NOW + 244 * DAY
    )
    assert (found["ca"].renewed, found["ca"].problem) == (None, None)
    assert found["coredns"] == validity.Validity(
        "coredns", str(root / "pki/coredns.crt"), problem="coredns.crt is missing"
    )
    assert found["scheduler"].problem == "scheduler.crt holds no readable certificate"
    assert "is lost" in (found["front-proxy-ca"].problem or "")
    assert found["client-ca"].path == "basalt.access.client-ca"
    assert "PRIVATE KEY" not in json.dumps([each.to_dict() for each in found.values()])


def test_status_and_metrics_have_them_all(root: Path) -> None:
    ends = pki.expiries(described(root), Ledger(), NOW)
    status = Status(certificates={name: validity.written(end) for name, end in ends.items()})
    jsonschema.Draft202012Validator(schema.load("status")).validate(status.to_dict())
    seconds = f"{ends['dqlite/member'].timestamp():.0f}"
    line = f'basalt_certificate_expiry_timestamp_seconds{{certificate="dqlite/member"}} {seconds}'
    assert line in render(status).splitlines()
