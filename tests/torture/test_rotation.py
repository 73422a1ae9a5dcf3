# SPDX-License-Identifier: Apache-2.0
"""The real API server and controller manager while their CA is replaced under them: neither is started again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from firstboot import files
from firstboot.cluster.rotation import Rotation, Stage
from firstboot.cluster.rotator import prepared
from firstboot.config import Config
from firstboot.pki import ca, keys, leaf, overlap

from .programs import Programs
from .stores import wait_until
from .test_authority import ControlPlane, started

RELOAD_SECONDS = 90.0
"""In which they see that their files have changed."""


def test_who_knows_the_old_ca_only_is_served_until_it_is_forgotten(programs: Programs, folder: Path) -> None:
    with started(Config.from_dict({"role": "control-plane"}), programs, folder) as running:
        admin = running.certificates.certificate("admin")
        before = admin.ca.certificate.read_text()
        shutil.copy(running.root / "admin.kubeconfig", running.root / "outside.kubeconfig")
        old = copied(running, folder / "old")
        key, rotation = prepared(admin.ca, "root", None)
        files.write(admin.ca.key_to_come(rotation.id), key)

        assert (
            running.ask("/api/v1/nodes", vouched_for(running, rotation, key, folder / "early"), before) == 200
        ), "a server that knows the old CA only believes a client that shows the voucher"
        go_on(running, rotation)
        assert running.ask("/api/v1/nodes", old, before) == 200
        go_on(running, rotation.at(Stage.SIGN))
        serves = partial(running.ask, "/api/v1/nodes", own(running), rotation.new)
        wait_until("it serves by the new CA", lambda: serves() == 200, RELOAD_SECONDS)
        assert running.ask("/api/v1/nodes", old, before) == 200, "OpenSSL, by the old CA alone"
        assert running.kubectl("outside.kubeconfig", "get", "--raw", "/livez") == "ok", (
            "Go, by the old CA alone"
        )
        scheduler = running.certificates.certificate("scheduler")
        new = overlap.first(rotation.new)
        wait_until("the new CA signs", lambda: ca.issued(running.issue(scheduler), new), RELOAD_SECONDS)

        go_on(running, rotation.at(Stage.DONE))
        refused = partial(running.ask, "/api/v1/nodes", old, rotation.new)
        wait_until("the old CA is forgotten", lambda: refused() == 401, RELOAD_SECONDS)
        assert serves() == 200
        with pytest.raises(CalledProcessError):
            running.kubectl("outside.kubeconfig", "get", "nodes")


def go_on(running: ControlPlane, rotation: Rotation) -> None:
    """Have the files of a stage, as a node's passes make them."""
    overlap.apply(running.certificates.authority("ca"), rotation.overlap, signer=True)
    running.certify()


def own(running: ControlPlane) -> tuple[Path, Path]:
    """Return the administrator's certificate and key of now."""
    spec = running.certificates.certificate("admin")
    return spec.certificate, spec.key


def copied(running: ControlPlane, folder: Path) -> tuple[Path, Path]:
    """Return a copy of them that nobody renews."""
    folder.mkdir()
    certificate, key = own(running)
    return Path(shutil.copy(certificate, folder)), Path(shutil.copy(key, folder))


def vouched_for(running: ControlPlane, rotation: Rotation, key: bytes, folder: Path) -> tuple[Path, Path]:
    """Return a certificate that the new CA has signed already, with the voucher behind it."""
    spec = replace(running.certificates.certificate("admin"), directory=folder)
    path, voucher = overlap.path(rotation.new), overlap.only(rotation.voucher)
    made = leaf.issue(spec, ca.Issuer(path, keys.read_key(key), (voucher,)))
    folder.mkdir()
    spec.certificate.write_bytes(made.certificate)
    spec.key.write_bytes(made.key)
    return spec.certificate, spec.key
