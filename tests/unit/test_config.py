# SPDX-License-Identifier: Apache-2.0
"""A Config has every value, from the document or by default, and its defaults are the schema's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from firstboot import schema, schemacheck
from firstboot.config import Config, DatastoreType, NetworkBackend, Role, Service

LEAST = Config.from_dict({"role": "control-plane"})
FULL = Config.from_dict(
    yaml.safe_load((Path(__file__).parents[2] / "examples/full.yaml").read_text())["basalt"]
)


def attribute(config: Config, path: tuple[str, ...]) -> Any:
    value: Any = config
    for key in path:
        value = getattr(value, key.replace("-", "_"))
    return value


def leaves(
    part: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for key, inner in part["properties"].items():
        if "properties" in inner and key != "services":
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


@pytest.mark.parametrize(("path", "inner"), list(leaves(schema.load("user-data"))), ids=lambda v: str(v)[:40])
def test_defaults_are_those_of_the_schema(path: tuple[str, ...], inner: dict[str, Any]) -> None:
    if path in (("role",), ("features", "dns", "service-ip")):
        return
    empties: dict[str, Any] = {"array": (), "object": {}, "boolean": False}
    empty = empties.get(str(inner.get("type")))
    assert attribute(LEAST, path) == (inner.get("default") or empty)


def test_everything_in_the_document_reaches_the_config() -> None:
    def check(full: Any, least: Any, path: str) -> None:
        for each in fields(full):
            ours, default = getattr(full, each.name), getattr(least, each.name)
            if is_dataclass(ours):
                check(ours, default, f"{path}.{each.name}")
            else:
                assert ours == default if f"{path}.{each.name}" in same else ours != default, each.name

    # What the example spells out although it is the default, because the key has only one sensible value
    # there.
    same = {
        *(
            ".version",
            ".role",
            ".cluster.domain",
            ".datastore.type",
        ),
        *(".features.network.enabled", ".features.dns.enabled", ".features.dns.service_ip"),
        # They would have private keys in them: test_external_document.py and test_pki_given.py have such documents.
        *(".certificates.ca.certificate", ".certificates.ca.key"),
        *(f".datastore.external.{each.name}" for each in fields(LEAST.datastore.external)),
    }
    check(FULL, LEAST, "")


def test_keys_of_schema_and_config_are_the_same() -> None:
    def names(part: Any) -> dict[str, Any]:
        return {each.name.replace("_", "-"): getattr(part, each.name) for each in fields(part)}

    def check(part: Any, inner: dict[str, Any]) -> None:
        assert set(names(part)) == set(inner["properties"])
        for key, value in names(part).items():
            if is_dataclass(value):
                check(value, inner["properties"][key])

    check(LEAST, schema.load("user-data"))
    assert set(schema.load("user-data")["properties"]["services"]["properties"]) == set(Service)
    assert ("services", "kubelet") in set(schemacheck.property_paths(schema.load("user-data")))


@pytest.mark.parametrize(
    ("cidr", "dns", "api"),
    [
        ("10.152.183.0/24", "10.152.183.10", "10.152.183.1"),
        ("172.16.0.0/12", "172.16.0.10", "172.16.0.1"),
        ("10.9.8.240/28", "10.9.8.250", "10.9.8.241"),
    ],
)
def test_addresses_of_the_service_network(cidr: str, dns: str, api: str) -> None:
    config = Config.from_dict({"role": "worker", "cluster": {"service-cidr": cidr}})
    assert (config.features.dns.service_ip, config.cluster.api_service_ip) == (dns, api)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("0.0.0.0:9180", "0.0.0.0", 9180), ("[::1]:80", "::1", 80)],
)
def test_listen_address(listen: str, host: str, port: int) -> None:
    status = Config.from_dict({"role": "worker", "status": {"listen": listen}}).status
    assert (status.host, status.port) == (host, port)


def test_enums_and_extra_arguments() -> None:
    assert (LEAST.role, LEAST.datastore.type) == (Role.CONTROL_PLANE, DatastoreType.DQLITE)
    assert LEAST.role.has_control_plane and not Role.WORKER.has_control_plane
    assert FULL.features.network.backend is NetworkBackend.WIREGUARD
    assert FULL.extra_args(Service.KUBELET) == FULL.extra_args("kubelet") == {"max-pods": "200"}
    assert LEAST.extra_args("kubelet") == {}


def test_a_proxy_is_not_shown() -> None:
    config = Config.from_dict({"role": "worker", "proxy": {"http": "http://user:s3cret@proxy"}})
    assert "s3cret" not in repr(config)
