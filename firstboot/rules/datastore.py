# SPDX-License-Identifier: Apache-2.0
"""The datastore: its backups, and an etcd that somebody else runs."""

from __future__ import annotations

from firstboot.codes import Code
from firstboot.config import DatastoreType
from firstboot.datastores import ASK_ITS_OWNER, NOT_OURS
from firstboot.failure import BasaltError
from firstboot.rules.model import POD_CIDR, SERVICE_CIDR, Rules
from firstboot.schemacheck import show
from firstboot.strictyaml import Path
from firstboot.values import endpoint_url, is_of_one_machine, parse_ip

DATASTORE_TYPE: Path = ("basalt", "datastore", "type")
EXTERNAL: Path = ("basalt", "datastore", "external")


def check(rules: Rules) -> None:
    """Note what is wrong with backups and with a datastore of somebody else's."""
    _recipient(rules)
    _external(rules)


def _recipient(rules: Rules) -> None:
    """Backups are sealed for a key that somebody can have the private half of."""
    path: Path = ("basalt", "datastore", "backup", "recipient")
    text = rules.value(path)
    if text is None:
        return
    from firstboot.backup.locks import Recipient

    try:
        Recipient.of(text)
    except BasaltError as error:
        rules.fail(Code.BAD_VALUE, path, str(error), error.hint)


def _external(rules: Rules) -> None:
    """A datastore that somebody else runs is described whole, where there is one and nowhere else."""
    given = rules.value(EXTERNAL)
    theirs = rules.value(DATASTORE_TYPE) == DatastoreType.EXTERNAL
    if given is None:
        if theirs and not rules.joins and not rules.bad_above(EXTERNAL):
            remedy = "Write its `endpoints`, `ca`, `client-certificate` and `client-key` below it."
            rules.fail(Code.MISSING_KEY, EXTERNAL, "no `external`, which `type` says", remedy)
    elif rules.is_worker:
        found, remedy = (
            "a worker has no datastore",
            "Remove it: a worker need not have the key to all data.",
        )
        rules.fail(Code.BAD_VALUE, EXTERNAL, found, remedy)
    elif not theirs and not rules.bad_above(DATASTORE_TYPE):
        remedy = "Write `type: external`, or remove `external`."
        rules.fail(Code.BAD_VALUE, EXTERNAL, "`type` is not `external`", remedy)
    if theirs and rules.value(("basalt", "datastore", "backup")) is not None:
        path: Path = ("basalt", "datastore", "backup")
        rules.fail(Code.NOT_POSSIBLE, path, NOT_OURS, f"Remove the key. {ASK_ITS_OWNER}")
    _endpoints(rules)
    _credentials(rules)


def _endpoints(rules: Rules) -> None:
    seen: dict[str, int] = {}
    known = (path for path in (POD_CIDR, SERVICE_CIDR) if not rules.bad_above(path))
    inside = [network for path in known for network in rules.networks_at(path)]
    for path, text in rules.entries((*EXTERNAL, "endpoints")):
        url = endpoint_url(text)
        address = None if url is None else parse_ip(str(url.hostname))
        if url is None:
            remedy = "Write `https://`, a host and a port and nothing more, e.g. `https://192.0.2.5:2379`."
            if text.lower().startswith("http://"):
                remedy = "Have etcd serve https with client certificates, and write `https://`."
            rules.fail(Code.BAD_URL, path, f"`{show(text)}`", remedy)
        elif address is not None and not is_of_one_machine(address):
            found = f"{address} is another machine for each control plane, or none"
            rules.fail(Code.BAD_ADDRESS, path, found, "Write an address that all control planes reach.")
        elif address is not None and any(address in network for network in inside):
            remedy = "Choose other networks for the cluster: packets to this address would stay in it."
            rules.fail(Code.INSIDE_NETWORK, path, f"{address} lies in the pod or service network", remedy)
        elif (place := f"{url.hostname}:{url.port}") in seen:
            found = f"`{show(text)}` is item {seen[place]} once more"
            rules.fail(Code.BAD_VALUE, path, found, "Write each endpoint once.")
        else:
            seen[place] = int(path[-1])


def _credentials(rules: Rules) -> None:
    """The authority can vouch for servers, and the key belongs to a certificate that is a client's today."""
    ca, certificate, key = ((*EXTERNAL, name) for name in ("ca", "client-certificate", "client-key"))
    vouches, shown, private = (rules.value(path) for path in (ca, certificate, key))
    if (vouches, shown, private) == (None, None, None):
        return
    from firstboot.pki import pasted

    if vouches and (problem := pasted.authority_problem(vouches, rules.now, "those of etcd's members")):
        rules.fail(Code.BAD_CERTIFICATE, ca, *problem)
    if shown and (problem := pasted.client_problem(shown, rules.now)):
        rules.fail(Code.BAD_CERTIFICATE, certificate, *problem)
    if shown and private and (problem := pasted.key_problem(private, shown)):
        rules.fail(Code.BAD_KEY, key, *problem)
