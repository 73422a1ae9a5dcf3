# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from firstboot.api.access import Tls
from firstboot.client import Client, Endpoint, Unreachable
from firstboot.failure import BasaltError
from tests.unit.support_web import READY, Authority, Served, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "api.sock") as served:
        yield served


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Authority]:
    folder = tmp_path_factory.mktemp("pki")
    root = Authority.make(folder, "company")
    return {
        "cluster": Authority.make(folder, "cluster"),
        "admin": Authority.make(folder, "admin"),
        "other": Authority.make(folder, "other"),
        "company": root,
        "team": Authority.make(folder, "team", root),
    }


@pytest.fixture
def tls(authorities: dict[str, Authority]) -> Tls:
    return Tls(*authorities["cluster"].issue("node", server=True), (authorities["admin"].pem,))


def remote(served: Served, authorities: dict[str, Authority], name: str, days: int = 1) -> Client:
    certificate, key = authorities[name].issue("client", days=days)
    url = f"https://127.0.0.1:{served.server.port}"
    return Client(Endpoint(url, certificate, key, authorities["cluster"].file))


def test_tls_lets_in_who_has_the_right_certificate(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/status") == READY.to_dict()


@pytest.mark.parametrize(("name", "days"), [("other", 1), ("cluster", 1), ("admin", -5)])
def test_tls_refuses_others(
    served: Served, tls: Tls, authorities: dict[str, Authority], name: str, days: int
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    with pytest.raises(Unreachable, match="closed the connection without an answer") as raised:
        remote(served, authorities, name, days).get_json("/v1/status")
    assert "access.client-ca" in raised.value.hint


def test_tls_refuses_clients_without_a_certificate(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    with closing(http.client.HTTPSConnection("127.0.0.1", served.server.port, context=context)) as connection:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connection.request("GET", "/v1/status")
            connection.getresponse()


def test_tls_refuses_old_protocols(served: Served, tls: Tls, authorities: dict[str, Authority]) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    context.load_cert_chain(*authorities["admin"].issue("client"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.server.port or 0), 10) as sock:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_a_server_certificate_does_not_administer(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    certificate, key = authorities["admin"].issue("web", server=True)
    url = f"https://127.0.0.1:{served.server.port}"
    with pytest.raises(Unreachable, match="closed the connection without an answer"):
        Client(Endpoint(url, certificate, key, authorities["cluster"].file)).get_json("/v1/status")


def test_an_intermediate_authority_is_enough(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(replace(tls, client_cas=(authorities["team"].pem,)), "127.0.0.1:0"))
    assert remote(served, authorities, "team").get_json("/v1/version")["api"] == "v1"
    with pytest.raises(Unreachable, match="closed the connection"):
        remote(served, authorities, "company").get_json("/v1/version")


def test_new_authorities_count_at_once_and_close_old_connections(
    served: Served, tls: Tls, authorities: dict[str, Authority]
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    port = served.server.port
    context = ssl.create_default_context(cafile=str(authorities["cluster"].file))
    context.load_cert_chain(*authorities["admin"].issue("client"))
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as old:
        old.request("GET", "/v1/version")
        old.getresponse().read()
        served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
        old.request("GET", "/v1/version")
        assert old.getresponse().read(), "nothing changed, so the connection stays"
        served.run(
            served.server.listen_tls(replace(tls, client_cas=(authorities["other"].pem,)), "127.0.0.1:0")
        )
        assert served.server.port == port
        assert old.sock.recv(1) == b""
    assert remote(served, authorities, "other").get_json("/v1/version")["api"] == "v1"
    with pytest.raises(Unreachable, match="closed the connection"):
        remote(served, authorities, "admin").get_json("/v1/version")


@pytest.mark.parametrize(
    "pem", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_bad_authorities_change_nothing(
    served: Served, tls: Tls, authorities: dict[str, Authority], pem: str
) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    with pytest.raises(BasaltError, match="client CA cannot be used"):
        served.run(served.server.listen_tls(replace(tls, client_cas=(pem,)), "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/version")["api"] == "v1"


def test_missing_certificates_are_named(served: Served, tls: Tls, tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match=f"{tmp_path}/none.key cannot be read: No such file"):
        served.run(served.server.listen_tls(replace(tls, key=tmp_path / "none.key"), "127.0.0.1:0"))


def test_closed_is_closed(served: Served, tls: Tls, authorities: dict[str, Authority]) -> None:
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    client = remote(served, authorities, "admin")
    served.run(served.server.close_tls())
    with pytest.raises(BasaltError, match="Connection refused"):
        client.get_json("/v1/version")
    served.run(served.server.listen_tls(tls, "127.0.0.1:0"))
    assert remote(served, authorities, "admin").get_json("/v1/version")["api"] == "v1"
