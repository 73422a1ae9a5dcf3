# SPDX-License-Identifier: Apache-2.0
"""Kubeconfig files, written as text: a YAML library costs a slow node more than all of them."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki.leaf import CertificateSpec


@dataclass(frozen=True)
class KubeconfigSpec:
    """One kubeconfig as it should be.

    embed: True puts certificates and key into the file, so that it can be carried away; False names their
           files, so that the client sees for itself when they are renewed
    """

    name: str
    path: Path
    server: str
    cluster_name: str
    client: CertificateSpec
    embed: bool = False
    owner: files.Owner | None = ("root", "root")
    mode: int = 0o600


def kubeconfig(
    server: str, ca_pem: bytes, cert_pem: bytes, key_pem: bytes, user: str, cluster_name: str
) -> str:
    """Return a kubeconfig that holds everything a client needs.

    server: URL such as ``https://192.0.2.7:6443``
    user:   name within the file only; who the client is stands in the certificate
    """
    authority = ("certificate-authority-data", b64encode(ca_pem).decode())
    client = (
        ("client-certificate-data", b64encode(cert_pem).decode()),
        ("client-key-data", b64encode(key_pem).decode()),
    )
    return _text(server, authority, client, user, cluster_name)


def kubeconfig_of_files(
    server: str, ca: Path, certificate: Path, key: Path, user: str, cluster_name: str
) -> str:
    """Return a kubeconfig that names the files of the client's credentials."""
    client = (("client-certificate", str(certificate)), ("client-key", str(key)))
    return _text(server, ("certificate-authority", str(ca)), client, user, cluster_name)


def render(spec: KubeconfigSpec, server: str | None = None) -> str:
    """Return the text of the file, for another server if one is given. Raises BasaltError.

    An embedded one needs the certificate it embeds.
    """
    where, client = server or spec.server, spec.client
    if not spec.embed:
        return kubeconfig_of_files(
            where,
            client.ca.trusted,
            client.certificate,
            client.key,
            client.common_name,
            spec.cluster_name,
        )
    return kubeconfig(
        where,
        _required(client.ca.certificate),
        _required(client.certificate),
        _required(client.key),
        client.common_name,
        spec.cluster_name,
    )


def check(spec: KubeconfigSpec) -> str | None:
    """Return why the file has to be written (again), or None. Raises BasaltError."""
    found = files.read_or_none(spec.path)
    if found is None:
        return f"{spec.path.name} is missing"
    if wrong := files.wrong_attributes(spec.path, spec.mode, spec.owner):
        return f"{spec.path.name} {wrong}"
    if found != render(spec).encode():
        return f"{spec.path.name} is not of the present server and certificates"
    return None


def apply(spec: KubeconfigSpec) -> bool:
    """Write the file; return whether anything had to change. Raises BasaltError."""
    return bool(files.write_all([make(spec)]))


def make(spec: KubeconfigSpec) -> files.File:
    """Return the file as it should be written. Raises BasaltError."""
    return files.File(spec.path, render(spec).encode(), spec.mode, spec.owner)


def _required(path: Path) -> bytes:
    content = files.read_or_none(path)
    if content is None:
        raise BasaltError(f"{path} is missing, and a kubeconfig needs it", "The certificates are made first.")
    return content


def _text(
    server: str, authority: tuple[str, str], client: tuple[tuple[str, str], ...], user: str, cluster_name: str
) -> str:
    # A JSON string is a YAML string too, whatever is in it.
    cluster, who, context = (json.dumps(name) for name in (cluster_name, user, f"{user}@{cluster_name}"))
    credentials = "\n".join(f"      {key}: {json.dumps(value)}" for key, value in client)
    return f"""\
apiVersion: v1
kind: Config
clusters:
  - name: {cluster}
    cluster:
      server: {json.dumps(server)}
      {authority[0]}: {json.dumps(authority[1])}
users:
  - name: {who}
    user:
{credentials}
contexts:
  - name: {context}
    context:
      cluster: {cluster}
      user: {who}
current-context: {context}
"""
