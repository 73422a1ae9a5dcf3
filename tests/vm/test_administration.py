# SPDX-License-Identifier: Apache-2.0
"""Administration as people do it: from a workstation with a client certificate, and as root on the node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from image import components, declaration
from image.vm import administration
from image.vm.administration import Credentials
from image.vm.place import ROOT

from . import states
from .machine import KUBERNETES_PORT, REST_PORT, Machine

BASALT = "import sys; from firstboot.cli import main; sys.exit(main())"
DENIED = 1


@pytest.fixture
def authority(shared_machine: Machine, tmp_path: Path) -> Path:
    """The cluster's CA, as an administrator has got it."""
    path = tmp_path / "cluster-ca.crt"
    path.write_text(shared_machine.run("cat /etc/kubernetes/pki/ca.crt").stdout)
    return path


def workstation(
    machine: Machine, credentials: Credentials, authority: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    """Run `basalt --endpoint …` on this host, in an environment that knows nothing of nodes."""
    access = ["--cert", credentials.certificate, "--key", credentials.key, "--cacert", authority]
    return subprocess.run(
        [
            *(sys.executable, "-c", BASALT),
            *("--endpoint", f"https://127.0.0.1:{machine.port(REST_PORT)}"),
            *map(str, access),
            *command,
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_workstation_gets_its_kubeconfig_and_uses_it(
    shared_machine: Machine, authority: Path, tmp_path: Path
) -> None:
    machine, mine = shared_machine, states.administrator()
    told = workstation(machine, mine, authority, "status", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["phase"] == "ready"
    server = f"https://127.0.0.1:{machine.port(KUBERNETES_PORT)}"
    config = workstation(machine, mine, authority, "kubeconfig", "--server", server)
    assert config.returncode == 0, config.stderr
    path = tmp_path / "kubeconfig"
    path.write_text(config.stdout)
    kubernetes = components.build(declaration.load("kubernetes")).tree
    assert kubernetes
    kubectl = str(kubernetes / "usr/bin/kubectl")
    command = [kubectl, f"--kubeconfig={path}", "get", "nodes", "--no-headers"]
    table = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    name, ready, role, *_ = table.split()
    assert (name, ready, role) == ("node-1", "Ready", "control-plane")


def test_a_certificate_of_another_authority_does_not_administer(
    shared_machine: Machine, authority: Path, tmp_path: Path
) -> None:
    stranger = administration.make_credentials(tmp_path / "stranger")
    refused = workstation(shared_machine, stranger, authority, "kubeconfig")
    assert (refused.returncode, refused.stdout) == (DENIED, "")
    assert "certificate" in refused.stderr and "Traceback" not in refused.stderr


def test_a_node_of_another_cluster_is_not_believed(shared_machine: Machine, tmp_path: Path) -> None:
    other = administration.make_credentials(tmp_path / "other").authority
    refused = workstation(shared_machine, states.administrator(), other, "status")
    assert (refused.returncode, refused.stdout) == (DENIED, "")
    assert "--cacert" in refused.stderr


def test_root_on_the_node_needs_no_certificate(shared_machine: Machine) -> None:
    machine = shared_machine
    assert "Ready" in machine.run("kubectl --kubeconfig=/etc/kubernetes/admin.kubeconfig get nodes").stdout
    machine.run("basalt kubeconfig > /run/kubeconfig")
    assert machine.run("kubectl --kubeconfig=/run/kubeconfig get --raw /readyz").stdout == "ok"
    assert machine.run("basalt plan").stdout.startswith("Nothing to do")
    assert len(machine.run("basalt logs kubelet -n 5").stdout.splitlines()) == 5
    versions = machine.run("basalt version").stdout
    assert "kubernetes v1." in versions and machine.run("kubelet --version").stdout.split()[1] in versions
    bad = machine.run("basalt validate -", stdin="basalt:\n  rolle: worker\n", check=False)
    assert bad.code == 2 and "rolle" in bad.stderr and "Traceback" not in bad.stderr


def test_nobody_else_on_the_node_gets_in(shared_machine: Machine) -> None:
    refused = shared_machine.run(["setpriv", "--reuid=nobody", "basalt", "kubeconfig"], check=False)
    assert refused.code == DENIED and refused.stdout == ""
    assert "root" in refused.stderr and "Traceback" not in refused.stderr
