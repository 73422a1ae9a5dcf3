# SPDX-License-Identifier: Apache-2.0
"""A document that names an etcd of somebody else: what is refused without a node, and that its key is never shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from firstboot.codes import Code
from firstboot.config import Config, DatastoreType, External
from firstboot.failure import DocumentError, Failure
from firstboot.pki.ca import Authority
from firstboot.pki.leaf import Usage
from firstboot.validate import check_text

from .support_external import ENDPOINTS, Pair, authority, pair, section

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Owner:
    """Who runs the etcd: his authority, and what it has signed."""

    authority: Authority
    client: Pair
    server: Pair
    ended: Pair

    def external(self, **changes: Any) -> dict[str, Any]:
        return section(self.authority, self.client, **changes)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    made = authority(tmp_path_factory.mktemp("etcd"))
    long_ago = datetime.now(UTC) - timedelta(days=500)
    server = pair(made, "server", Usage.SERVER)
    return Owner(made, pair(made, "client"), server, pair(made, "ended", now=long_ago))


def text(external: Any, **sections: Any) -> str:
    datastore = {"type": "external", **({} if external is None else {"external": external})}
    return yaml.safe_dump({"basalt": {"role": "control-plane", "datastore": datastore, **sections}})


def failures(document: str) -> tuple[Failure, ...]:
    with pytest.raises(DocumentError) as caught:
        check_text(document, "FILE")
    return caught.value.failures


def test_a_right_one(owner: Owner) -> None:
    config = check_text(text(owner.external(prefix="/production")), "FILE")
    assert config.datastore.type is DatastoreType.EXTERNAL and not config.datastore.type.is_ours
    assert config.datastore.external.endpoints == tuple(ENDPOINTS)
    assert config.datastore.external.prefix == "/production"
    assert External.from_dict(config.datastore.external.to_dict()) == config.datastore.external
    assert External().prefix == "/registry"


def encrypted(owner: Owner) -> str:
    key = load_pem_private_key(owner.client.key.encode(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()


BAD: list[tuple[Callable[[Owner], dict[str, Any]], Code, str, list[str]]] = [
    (lambda o: {"endpoints": []}, Code.BAD_VALUE, "endpoints", ["at least 1"]),
    (
        lambda o: {"endpoints": ["http://192.0.2.5:2379"]},
        Code.BAD_URL,
        "endpoints[0]",
        ["client certificates"],
    ),
    (lambda o: {"endpoints": ["https://192.0.2.5"]}, Code.BAD_URL, "endpoints[0]", ["a port"]),
    (lambda o: {"endpoints": ["192.0.2.5:2379"]}, Code.BAD_URL, "endpoints[0]", ["`https://`"]),
    (lambda o: {"endpoints": ["https://192.0.2.5:2379/v3"]}, Code.BAD_URL, "endpoints[0]", ["nothing more"]),
    (lambda o: {"endpoints": ["https://u:s3cret@a:2379"]}, Code.BAD_URL, "endpoints[0]", ["//…@"]),
    (lambda o: {"endpoints": ["https://-a:2379"]}, Code.BAD_URL, "endpoints[0]", []),
    (
        lambda o: {"endpoints": ["https://127.0.0.1:2379"]},
        Code.BAD_ADDRESS,
        "endpoints[0]",
        ["control plane"],
    ),
    (lambda o: {"endpoints": ["https://10.1.2.3:2379"]}, Code.INSIDE_NETWORK, "endpoints[0]", ["10.1.2.3"]),
    (
        lambda o: {"endpoints": ["https://ETCD.example.org:2379", "https://etcd.example.org:2379"]},
        Code.BAD_VALUE,
        "endpoints[1]",
        ["item 0"],
    ),
    (
        lambda o: {"ca": "-----BEGIN CERTIFICATE-----\nx"},
        Code.BAD_CERTIFICATE,
        "ca",
        ["PEM form", "below `|`"],
    ),
    (lambda o: {"ca": o.client.certificate}, Code.BAD_CERTIFICATE, "ca", ["no CA's", "etcd's members"]),
    (lambda o: {"ca": o.client.key}, Code.PRIVATE_KEY, "ca", ["a private key"]),
    (
        lambda o: {"client-certificate": o.server.certificate, "client-key": o.server.key},
        Code.BAD_CERTIFICATE,
        "client-certificate",
        ["not for clients", "`clientAuth`"],
    ),
    (
        lambda o: {"client-certificate": o.ended.certificate, "client-key": o.ended.key},
        Code.BAD_CERTIFICATE,
        "client-certificate",
        ["expired on"],
    ),
    (
        lambda o: {"client-certificate": "-----BEGIN CERTIFICATE-----"},
        Code.BAD_CERTIFICATE,
        "client-certificate",
        ["PEM form"],
    ),
    (lambda o: {"client-key": o.server.key}, Code.BAD_KEY, "client-key", ["another certificate"]),
    (lambda o: {"client-key": encrypted(o)}, Code.BAD_KEY, "client-key", ["encrypted", "openssl pkey"]),
    (lambda o: {"client-key": "s3cret"}, Code.BAD_VALUE, "client-key", ["what stands here"]),
    (lambda o: {"prefix": "registry"}, Code.BAD_VALUE, "prefix", ["a slash"]),
    (lambda o: {"prefix": "/a/b"}, Code.BAD_VALUE, "prefix", ["`/a/b`"]),
]


@pytest.mark.parametrize(
    ("changes", "code", "path", "words"),
    BAD,
    ids=[f"{path}-{number}" for number, (_, _, path, _) in enumerate(BAD)],
)
def test_each_mistake(
    owner: Owner, changes: Callable[[Owner], dict[str, Any]], code: Code, path: str, words: list[str]
) -> None:
    [failure] = failures(text(owner.external(**changes(owner))))
    assert (failure.code, failure.path) == (code, f"basalt.datastore.external.{path}")
    told = f"{failure.found} {failure.remedy}"
    assert all(word in told for word in words), told
    assert "s3cret" not in told and owner.client.key.splitlines()[1] not in told


def without(section: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name != key}


@pytest.mark.parametrize("key", ["endpoints", "ca", "client-certificate", "client-key"])
def test_each_key_is_needed(owner: Owner, key: str) -> None:
    [failure] = failures(text(without(owner.external(), key)))
    assert (failure.code, failure.path) == (Code.MISSING_KEY, f"basalt.datastore.external.{key}")


WAY_IN = {"token": TOKEN, "endpoints": ["192.0.2.10"]}


def test_where_the_section_may_stand(owner: Owner) -> None:
    [failure] = failures(text(None))
    assert (failure.code, failure.path) == (Code.MISSING_KEY, "basalt.datastore.external")
    # The cluster tells a control plane that joins; its document may say it, too, and a worker's must not.
    for external in (None, owner.external()):
        check_text(text(external, cluster=WAY_IN), "FILE")
    check_text(text(None, role="worker", cluster=WAY_IN), "FILE")
    [failure] = failures(text(owner.external(), role="worker", cluster=WAY_IN))
    assert failure.code == Code.BAD_VALUE and "a worker has no datastore" in failure.found
    [failure] = failures(text(owner.external(), datastore={"external": owner.external()}))
    assert failure.code == Code.BAD_VALUE and "Write `type: external`" in failure.remedy


def test_backups_are_its_owners(owner: Owner) -> None:
    recipient = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAqeUbOPgbv0jGh1cl2uR9qatJ2q/VTw6NuLxHH2banD0=\n"
    backup = {"recipient": f"{recipient}-----END PUBLIC KEY-----\n"}
    datastore = {"type": "external", "external": owner.external(), "backup": backup}
    [failure] = failures(text(None, datastore=datastore))
    assert (failure.code, failure.path) == (Code.NOT_POSSIBLE, "basalt.datastore.backup")
    assert "etcdctl snapshot save" in failure.remedy


def test_the_key_is_not_shown(owner: Owner) -> None:
    config = Config.from_dict(
        {"role": "control-plane", "datastore": {"type": "external", "external": owner.external()}}
    )
    assert owner.client.key.splitlines()[1] not in repr(config)
