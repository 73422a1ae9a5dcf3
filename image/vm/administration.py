# SPDX-License-Identifier: Apache-2.0
"""A workstation's side of a node: a CA and client certificate of its own, the REST API, the node table."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from firstboot.failure import BasaltError
from firstboot.text import table
from image import host
from image.trees import with_tools

DAYS = "3650"
AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
# Without the first, openssl makes every certificate one that can sign others.
CLIENT = (
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    "extendedKeyUsage=clientAuth",
)
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""Makes the API server send what `kubectl get` prints."""


@dataclass(frozen=True)
class Credentials:
    """A CA that the document names as access.client-ca, and one client certificate of it."""

    authority: Path
    certificate: Path
    key: Path


def make_credentials(folder: Path) -> Credentials:
    """Make the CA and the certificate in a folder, or return those that are there already."""
    found = Credentials(folder / "client-ca.crt", folder / "client.crt", folder / "client.key")
    if all(path.is_file() for path in (found.authority, found.certificate, found.key)):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = folder / "client-ca.key"
    before = os.umask(0o077)
    try:
        _openssl("/CN=basalt-run-administrators", found.authority, authority_key, AUTHORITY)
        signed = ("-CA", str(found.authority), "-CAkey", str(authority_key))
        _openssl("/CN=basalt-run", found.certificate, found.key, CLIENT, *signed)
    finally:
        os.umask(before)
    return found


def _openssl(subject: str, certificate: Path, key: Path, extensions: Sequence[str], *more: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", subject, "-days", DAYS]
    command += [word for extension in extensions for word in ("-addext", extension)]
    host.run(with_tools([*command, "-out", certificate, "-keyout", key, *more]), timeout=30)


def kubeconfig(port: int, server: str, credentials: Credentials, timeout: float = 60) -> str:
    """Fetch an administrator's kubeconfig for a server's URL from the REST API on 127.0.0.1.

    Raises BasaltError with what the API answered.
    """
    # The cluster's CA is only known from the answer; the way there is the loopback interface.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(credentials.certificate, credentials.key)
    return _get(port, f"/v1/kubeconfig?server={quote(server, safe='')}", context, {}, timeout).decode()


def node_table(text: str, port: int, timeout: float = 60) -> str:
    """Return what `kubectl get nodes` prints, asked with a kubeconfig's certificates on 127.0.0.1."""
    context = ssl.create_default_context(cadata=_embedded(text, "certificate-authority-data").decode())
    with tempfile.TemporaryDirectory(prefix="basalt-") as folder:
        pair = Path(folder) / "pair.pem"
        pair.write_bytes(_embedded(text, "client-certificate-data") + _embedded(text, "client-key-data"))
        context.load_cert_chain(pair)
    found = json.loads(_get(port, "/api/v1/nodes", context, {"Accept": TABLE}, timeout))
    columns = [index for index, column in enumerate(found["columnDefinitions"]) if not column["priority"]]
    rows = [[str(row["cells"][index]) for index in columns] for row in found["rows"]]
    return table([[found["columnDefinitions"][index]["name"].upper() for index in columns], *rows])


def _embedded(text: str, key: str) -> bytes:
    found = re.search(rf'^\s*{key}:\s*"?([A-Za-z0-9+/=]+)"?\s*$', text, re.MULTILINE)
    if not found:
        raise BasaltError(f"the kubeconfig has no {key}")
    return base64.b64decode(found[1])


def _get(port: int, path: str, context: ssl.SSLContext, headers: dict[str, str], timeout: float) -> bytes:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BasaltError(f"https://127.0.0.1:{port}{path}: {error}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise BasaltError(f"https://127.0.0.1:{port}{path} answered {response.status}: {body[:300].decode()}")
    return body
