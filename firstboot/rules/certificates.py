# SPDX-License-Identifier: Apache-2.0
"""Certificates that the document brings: of who administers, and the cluster's own CA."""

from __future__ import annotations

from firstboot.codes import Code
from firstboot.rules.model import Rules
from firstboot.strictyaml import Path


def check(rules: Rules) -> None:
    """Note certificates and keys that cannot be what they are given for."""
    _client_ca(rules)
    _cluster_ca(rules)


def _client_ca(rules: Rules) -> None:
    """The client CA is made of certificates that can vouch for clients today."""
    path: Path = ("basalt", "access", "client-ca")
    text = rules.value(path)
    if text is None:
        return
    from firstboot.pki.pasted import authority_problem

    if problem := authority_problem(text, rules.now, "the clients'"):
        rules.fail(Code.BAD_CERTIFICATE, path, *problem)


def _cluster_ca(rules: Rules) -> None:
    """Only the machine that starts a cluster brings its CA, whose key fits and whom all clients can believe."""
    path: Path = ("basalt", "certificates", "ca")
    certificate, key = (rules.value((*path, name)) for name in ("certificate", "key"))
    if rules.value(path) is not None and rules.joins:
        found = "a machine that joins is given the cluster's CA"
        rules.fail(Code.BAD_VALUE, path, found, "Write it on the one machine that starts the cluster.")
    elif certificate is not None:
        from firstboot.pki import given, pasted

        if problem := given.certificate_problem(certificate, rules.now):
            rules.fail(Code.BAD_CERTIFICATE, (*path, "certificate"), *problem)
        if key is not None and (problem := pasted.key_problem(key, certificate)):
            rules.fail(Code.BAD_KEY, (*path, "key"), *problem)
