# SPDX-License-Identifier: Apache-2.0
"""The real API server and controller manager by a node's arguments, with a company's root above the cluster's CA."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.x509 import Certificate

from firstboot import paths, pki
from firstboot.config import Config
from firstboot.datastores import Endpoint
from firstboot.pki import ca, keys, leaf, requests
from firstboot.pki.catalogue import Catalogue, catalogue
from firstboot.pki.leaf import CertificateSpec
from firstboot.pki.verdict import Ledger
from firstboot.services import apiserver, controllers
from firstboot.services.model import Node, Service
from image import components
from tests.unit.support_pki import Company

from .apiserver import running
from .programs import Programs, component
from .stores import Etcd, free_port, wait_until

ROOT = Company.make("Company Root")
ISSUING = Company.make("Company Kubernetes CA", ROOT, depth=0)
OTHER = Company.make("Company Laptops CA", ROOT)
START_SECONDS = 180


@dataclass(frozen=True)
class ControlPlane:
    """One that runs on this host; root: in the place of /etc/kubernetes."""

    root: Path
    certificates: Catalogue
    programs: Path
    port: int

    def certify(self) -> None:
        """Make keys, certificates and kubeconfigs as a pass of the agent does."""
        pki.apply(self.certificates, Ledger())
        for file in self.root.glob("*.kubeconfig"):
            file.write_text(file.read_text().replace(":6443", f":{self.port}"))

    def ask(self, path: str, client: tuple[Path, Path], authorities: str) -> int:
        """Return the HTTP status of a request as a program with OpenSSL makes it; 0 without a connection."""
        context = ssl.create_default_context(cadata=authorities)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(*client)
        try:
            url = f"https://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except (urllib.error.URLError, OSError):
            return 0

    def kubectl(self, kubeconfig: str, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl prints, with one of the node's kubeconfigs."""
        command = [str(self.programs / "kubectl"), f"--kubeconfig={self.root / kubeconfig}", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def argv(self, service: Service, **changes: str) -> list[str]:
        """Return the command of a service with the node's own arguments, but for where its files are."""
        arguments = {**service.arguments, **{name.replace("_", "-"): text for name, text in changes.items()}}
        return [
            str(self.programs / service.unit),
            *(f"--{name}={self.here(text)}" for name, text in arguments.items()),
        ]

    def here(self, text: str) -> str:
        return text.replace(str(paths.KUBERNETES), str(self.root))

    def issue(self, spec: CertificateSpec) -> Certificate:
        """Have a request signed as a user's is, through the API."""
        request = requests.prepare([spec])[spec.name]
        content = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": spec.name},
            "spec": {
                "request": b64encode(request.encode()).decode(),
                "signerName": "kubernetes.io/kube-apiserver-client",
                "usages": ["client auth"],
            },
        }
        self.kubectl("admin.kubeconfig", "create", "-f-", stdin=json.dumps(content))
        self.kubectl("admin.kubeconfig", "certificate", "approve", spec.name)
        signed = ("get", "csr", spec.name, "-o", "jsonpath={.status.certificate}")
        wait_until(
            "the request is signed", lambda: bool(self.kubectl("admin.kubeconfig", *signed)), START_SECONDS
        )
        pem = self.kubectl("admin.kubeconfig", *signed)
        self.kubectl("admin.kubeconfig", "delete", "csr", spec.name)
        return keys.read_certificates(b64decode(pem))[0]


@pytest.fixture
def control_plane(programs: Programs, folder: Path) -> Iterator[ControlPlane]:
    """Return a control plane that was started with a document which brings its CA."""
    config = Config.from_dict({"role": "control-plane", "certificates": ISSUING.document})
    with started(config, programs, folder) as made:
        yield made


@contextmanager
def started(config: Config, programs: Programs, folder: Path) -> Iterator[ControlPlane]:
    """Run API server and controller manager by a node's arguments."""
    node, root, port = Node(config, "node-1", "192.0.2.7"), folder / "kubernetes", free_port("127.0.0.1")
    described = catalogue(config, node.name, [node.ip], root).unowned()
    kubernetes = components.build(component("kubernetes")).folder / "tree/usr/bin"
    made = ControlPlane(root, described, kubernetes, port)
    made.certify()
    authentication = apiserver.authentication()
    Path(made.here(str(authentication.path))).write_bytes(authentication.data)
    (folder / "etcd").mkdir()
    with Etcd(programs, folder / "etcd") as store:
        endpoint = Endpoint({"etcd-servers": store.endpoint})
        serving = made.argv(
            apiserver.service(node, endpoint),
            secure_port=str(port),
            bind_address="127.0.0.1",
            endpoint_reconciler_type="none",
        )
        looping = made.argv(
            controllers.controller_manager(node),
            secure_port=str(free_port("127.0.0.1")),
            flex_volume_plugin_dir=str(folder / "plugins"),
        )
        with running(serving, folder / "apiserver.log") as server:
            admin = described.certificate("admin")
            wait_until(
                "the API server is ready",
                lambda: (
                    server.poll() is not None
                    or made.ask("/readyz", (admin.certificate, admin.key), admin.ca.certificate.read_text())
                    == 200
                ),
                START_SECONDS,
            )
            assert server.poll() is None, (folder / "apiserver.log").read_text()[-2000:]
            with running(looping, folder / "controllers.log") as loops:
                yield made
                assert loops.poll() is None, (folder / "controllers.log").read_text()[-2000:]


def test_a_companys_authority_and_nobody_else_of_the_company(
    control_plane: ControlPlane, folder: Path
) -> None:
    admin = control_plane.certificates.certificate("admin")
    own = (admin.certificate, admin.key)
    for believes in (ROOT.pem, ISSUING.pem):
        assert control_plane.ask("/api/v1/nodes", own, believes) == 200
    stranger = leaf.issue(replace(admin, directory=folder), ca.Issuer(OTHER.path, OTHER.key))
    (folder / "stranger.crt").write_bytes(stranger.certificate)
    (folder / "stranger.key").write_bytes(stranger.key)
    assert (
        control_plane.ask("/api/v1/nodes", (folder / "stranger.crt", folder / "stranger.key"), ROOT.pem)
        == 401
    )
    assert control_plane.kubectl("agent.kubeconfig", "get", "--raw", "/livez") == "ok", (
        "Go, by the signing CA alone"
    )
    assert control_plane.kubectl("admin.kubeconfig", "get", "--raw", "/livez") == "ok"


def test_pods_are_given_the_root_and_requests_are_signed(control_plane: ControlPlane) -> None:
    def kubectl(*arguments: str) -> str:
        return control_plane.kubectl("admin.kubeconfig", *arguments)

    bundle = ("-n", "default", "configmap", "kube-root-ca.crt", "--ignore-not-found", "-o")
    wait_until("pods have the cluster's CA", lambda: bool(kubectl("get", *bundle, "name")), START_SECONDS)
    assert kubectl("get", *bundle, r"jsonpath={.data.ca\.crt}") == ISSUING.pem
    certificate = control_plane.issue(control_plane.certificates.certificate("scheduler"))
    assert ca.issued(certificate, ISSUING.path[0])
