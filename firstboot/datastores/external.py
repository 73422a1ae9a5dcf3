# SPDX-License-Identifier: Apache-2.0
"""An etcd that somebody else runs: by TLS with a client certificate that they have made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot import run
from firstboot.codes import Code
from firstboot.config import DatastoreType, External
from firstboot.datastores import ASK_ITS_OWNER, NOT_OURS, Endpoint
from firstboot.datastores.store import DatastoreStatus, Member, Salvaged, Store
from firstboot.failure import BasaltError, Failure, Refused
from firstboot.files import File, Owner
from firstboot.paths import PKI, RUN
from firstboot.services.model import Node

SECONDS = 5.0
"""How long etcdctl may take for one small request; etcd itself gives up after about as long."""

OWNER: Owner = ("kube-apiserver", "kube-apiserver")


@dataclass(frozen=True)
class Login:
    """The files by which a client of an etcd trusts and is trusted, by the names that kubeadm has made known."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def below(cls, pki: Path) -> Login:
        """Return those in a folder of certificates."""
        name = "apiserver-etcd-client"
        return cls(pki / "etcd/ca.crt", pki / f"{name}.crt", pki / f"{name}.key")


LOGIN = Login.below(PKI)
"""The API server's."""

TRIED = Login.below(RUN / "datastore")
"""The agent's own, out of the newest document: the API server is given the same when they have opened its gate, so that
a document with a mistake in it changes nothing for one that runs."""


def endpoint(external: External, login: Login = LOGIN, owner: Owner | None = OWNER) -> Endpoint:
    """Return how a client reaches it, with the files of the document's certificates and key; owner: of the client's."""
    return Endpoint(
        arguments={
            "etcd-servers": ",".join(external.endpoints),
            "etcd-prefix": external.prefix,
            "etcd-cafile": str(login.ca),
            "etcd-certfile": str(login.certificate),
            "etcd-keyfile": str(login.key),
        },
        files=(
            File(login.ca, (external.ca or "").encode()),
            File(login.key, (external.client_key or "").encode(), 0o600, owner),
            File(login.certificate, (external.client_certificate or "").encode(), owner=owner),
        ),
    )


async def etcdctl(
    login: Login, endpoints: Sequence[str], *command: str, input: str | None = None, check: bool = True
) -> run.Completed:
    """Return what etcd's client says in JSON: it is known by its certificate, as the API server is.

    etcd's gateway is no way in here: it never passes on whose certificate it was shown, so that an etcd whose users
    have rights of their own takes its requests for nobody's. Raises BasaltError.
    """
    argv = [
        "etcdctl",
        f"--endpoints={','.join(endpoints)}",
        f"--cacert={login.ca}",
        f"--cert={login.certificate}",
        f"--key={login.key}",
        f"--command-timeout={SECONDS:.0f}s",
        f"--dial-timeout={SECONDS:.0f}s",
        "--write-out=json",
        *command,
    ]
    # It asks one endpoint after the other.
    return await run.run_async(argv, timeout=(len(endpoints) + 2) * SECONDS, input=input, check=check)


class ExternalEtcd(Store):
    """What its owner lets a client see; its data is not this node's to copy or to replace."""

    unit = ""
    folder = Path()
    port = 0

    def __init__(self, external: External, login: Login = TRIED) -> None:
        self._external, self._login = external, login

    async def status(self) -> DatastoreStatus:
        """Ask every endpoint; one that does not answer is shown as such as long as another one does."""
        # It ends with an error when one endpoint has not answered, and prints the others all the same.
        answer = await etcdctl(self._login, self._external.endpoints, "endpoint", "status", check=False)
        found = {each["Endpoint"]: each["Status"] for each in json.loads(answer.stdout or "null") or ()}
        if not found:
            raise BasaltError(
                f"the external etcd tells nothing: {complaint(answer.stderr)}",
                "`basalt status` says what is wrong with each endpoint.",
            )
        return DatastoreStatus(
            DatastoreType.EXTERNAL,
            leads=False,
            members=tuple(_member(each, found.get(each)) for each in self._external.endpoints),
            size=max(int(each.get("dbSize", 0)) for each in found.values()),
            revision=max(int(each["header"].get("revision", 0)) for each in found.values()),
        )

    async def snapshot(self, path: Path) -> None:
        """Refuse: a copy of all that somebody keeps in his etcd would be more than the cluster's."""
        raise not_ours()

    async def revision(self, snapshot: Path) -> int:
        """Refuse: there is no snapshot."""
        raise not_ours()

    async def build(self, node: Node, snapshot: Path, folder: Path) -> None:
        """Refuse: there is no folder."""
        raise not_ours()

    async def salvage(self, folder: Path, snapshot: Path) -> Salvaged:
        """Refuse: what becomes of members that are lost is for who runs them."""
        raise not_ours()

    async def defragment(self) -> None:
        """Refuse: a member that does so answers nobody meanwhile, and others may use it."""
        raise not_ours()


def complaint(stderr: str) -> str:
    """Return in one line why etcdctl has failed: what it says last, without the fields of its log."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else "it says nothing"
    try:
        return str(json.loads(last)["error"])
    except (ValueError, KeyError, TypeError):
        return last.removeprefix("Error: ")


def _member(endpoint: str, status: dict[str, Any] | None) -> Member:
    if status is None:
        return Member("", endpoint, "unknown", leader=False, healthy=False)
    leads = status["header"]["member_id"] == status.get("leader")
    role = "learner" if status.get("isLearner") else "voter"
    return Member("", endpoint, role, leads, not status.get("errors"), str(status.get("version", "")))


def not_ours() -> Refused:
    """Return why nothing is done with all of the data."""
    return Refused([Failure(Code.NOT_POSSIBLE, "datastore", NOT_OURS, ASK_ITS_OWNER)])
