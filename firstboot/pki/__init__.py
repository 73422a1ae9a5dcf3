# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates of a node: `catalogue` describes, `check` compares, `apply` makes and renews.

ca          authorities          tokens     the key pair of service account tokens
leaf        certificates         kubeconfig files that clients of the API read
trusted     whom a node believes verdict    what a check found, and the ledger that makes checks cheap
overlap     two authorities side by side, while one takes the place of the other
catalogue   what a node needs    keys       PEM and `cryptography`
given       an authority out of the document
pasted      other certificates and keys out of it
validity    until when, for people
handover    authorities from one control plane to another
requests    certificates that another machine signs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TypeVar

from firstboot import files
from firstboot.failure import BasaltError
from firstboot.pki import ca, keys, kubeconfig, leaf, tokens, trusted
from firstboot.pki.catalogue import Catalogue
from firstboot.pki.verdict import Ledger, Sound, Verdict, moment, reason, stamp


@dataclass(frozen=True)
class Finding:
    """Something `apply` would make or make again.

    name:   ``ca``, ``apiserver``, ``etcd/server``, ``sa`` or, with an ending, ``admin.kubeconfig``
    reason: the rest of a sentence
    """

    name: str
    reason: str


def check(described: Catalogue, ledger: Ledger, now: datetime | None = None) -> tuple[Finding, ...]:
    """Return all that `apply` would do; nothing on a steady node.

    Raises BasaltError for an authority or token key that exists and cannot be used.
    """
    at = moment(now)
    verdicts = _verdicts(described, ledger, at)
    found = [Finding(name, why) for name, verdict in verdicts if (why := reason(verdict))]
    found += [Finding(each.path.name, why) for each in described.trusted if (why := trusted.check(each))]
    for spec in described.kubeconfigs:
        # What an embedded one has to hold is known only once its certificate is right.
        if spec.embed and any(finding.name in (spec.client.name, spec.client.ca.name) for finding in found):
            found.append(Finding(spec.path.name, "the certificate it holds has to be made first"))
        elif why := kubeconfig.check(spec):
            found.append(Finding(spec.path.name, why))
    ledger.save()
    return tuple(found)


Issue = Callable[[Sequence[leaf.CertificateSpec]], Iterable[files.File]]
"""Makes certificates and their keys; raises BasaltError."""


def apply(
    described: Catalogue, ledger: Ledger, now: datetime | None = None, issue: Issue | None = None
) -> tuple[str, ...]:
    """Make and renew what has to be; return the names, as in `Finding`, of what changed. Raises BasaltError.

    issue: who makes certificates when the authorities are not on this node

    May be stopped at any moment, also by a power cut, and called again.
    """
    at = moment(now)
    for folder in described.directories:
        files.directory(folder)
    changed = _apply_authorities(described, ledger, at)
    believed = files.write_all([trusted.make(each) for each in described.trusted])
    changed += _apply_certificates(described, ledger, at, issue)
    written = files.write_all([kubeconfig.make(spec) for spec in described.kubeconfigs])
    ledger.save()
    return (*changed, *(path.name for path in (*believed, *written)))


def expiries(described: Catalogue, ledger: Ledger, now: datetime | None = None) -> dict[str, datetime]:
    """Return until when each authority and certificate is valid, also one that has to be made again.

    One that is missing or cannot be read is left out.
    """
    at = moment(now)
    found = {
        **{each.name: _end(ledger, each, ca.examine, at) for each in described.authorities},
        **{each.name: _end(ledger, each, ca.examine_public, at) for each in described.foreign},
        **{each.name: _end(ledger, each, leaf.examine, at) for each in described.certificates},
    }
    return {name: end for name, end in found.items() if end is not None}


C = TypeVar("C", ca.Authority, leaf.CertificateSpec)


def _end(
    ledger: Ledger, entry: C, examine: Callable[[C, datetime], Verdict], now: datetime
) -> datetime | None:
    try:
        verdict = _examined(ledger, entry, examine, now)
    except BasaltError as error:
        verdict = str(error)
    if isinstance(verdict, Sound) and verdict.not_after is not None:
        return datetime.fromtimestamp(verdict.not_after, UTC)
    try:
        certificates = keys.read_certificates(files.read_or_none(entry.certificate) or b"")
    except keys.Unreadable:
        return None
    return ca.end_of(ca.path_of(certificates))


def _verdicts(described: Catalogue, ledger: Ledger, now: datetime) -> Iterator[tuple[str, Verdict]]:
    return chain(
        _verdicts_of_authorities(described, ledger, now), _verdicts_of_leaves(described, ledger, now)
    )


def _verdicts_of_authorities(
    described: Catalogue, ledger: Ledger, now: datetime
) -> Iterator[tuple[str, Verdict]]:
    for authority in described.authorities:
        yield authority.name, _examined(ledger, authority, ca.examine, now)
    for pair in described.tokens:
        yield pair.name, _examined(ledger, pair, tokens.examine, now)


def _verdicts_of_leaves(described: Catalogue, ledger: Ledger, now: datetime) -> Iterator[tuple[str, Verdict]]:
    for spec in described.certificates:
        yield spec.name, _examined(ledger, spec, leaf.examine, now)


E = TypeVar("E", ca.Authority, tokens.TokenKeys, leaf.CertificateSpec)


def _examined(ledger: Ledger, entry: E, examine: Callable[[E, datetime], Verdict], now: datetime) -> Verdict:
    mark = stamp(entry, entry.paths)
    known = ledger.recall(entry.name, mark, now)
    if known is not None:
        return known
    verdict = examine(entry, now)
    ledger.note(entry.name, mark, verdict)
    return verdict


def _apply_authorities(described: Catalogue, ledger: Ledger, now: datetime) -> list[str]:
    wrong = {name for name, verdict in _verdicts_of_authorities(described, ledger, now) if reason(verdict)}
    made = [ca.make(authority, now) for authority in described.authorities if authority.name in wrong]
    made += [tokens.make(pair) for pair in described.tokens if pair.name in wrong]
    # All keys have to be safe on disk first: a certificate without its key would be an authority lost.
    files.write_all([key for key, _ in made])
    files.write_all([public for _, public in made])
    names = [authority.name for authority in described.authorities] + [pair.name for pair in described.tokens]
    return [name for name in names if name in wrong]


def _apply_certificates(
    described: Catalogue, ledger: Ledger, now: datetime, issue: Issue | None
) -> list[str]:
    wrong = {name for name, verdict in _verdicts_of_leaves(described, ledger, now) if reason(verdict)}
    due = [spec for spec in described.certificates if spec.name in wrong]
    if due:
        files.write_all(issue(due) if issue else _issue_here(due, now))
    return [spec.name for spec in due]


def _issue_here(due: Sequence[leaf.CertificateSpec], now: datetime) -> Iterator[files.File]:
    issuers = {authority: ca.load(authority, now) for authority in dict.fromkeys(spec.ca for spec in due)}
    return chain.from_iterable(leaf.make(spec, issuers[spec.ca], now) for spec in due)
