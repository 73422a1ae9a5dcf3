# SPDX-License-Identifier: Apache-2.0
"""The REST API from the other side, with nothing but the standard library: it has to start quickly."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from firstboot.failure import BasaltError, DocumentError, Failure

SOCKET = Path("/run/basalt/api.sock")
PORT = 6400
TIMEOUT = 60.0
"""Seconds without a byte from the node; an emulated one may be slow."""


class Unreachable(BasaltError):
    """Nobody answers there, at least not now."""


@dataclass(frozen=True)
class Endpoint:
    """Where the API is. Without a URL it is this machine's unix socket.

    url:                 e.g. "https://192.0.2.7:6400"
    certificate, key:    of the client, files in PEM form
    authority:           file of the CA that signed the node's certificate
    insecure:            accept any certificate of the node
    """

    url: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    insecure: bool = False
    socket: Path = SOCKET

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.url or str(self.socket)


class Client:
    """One call, one connection; connect: makes it, not opened yet."""

    def __init__(
        self, endpoint: Endpoint, connect: Callable[[Endpoint], http.client.HTTPConnection] | None = None
    ) -> None:
        self._endpoint = endpoint
        self._connect = connect or connection

    def get(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return the text at a path. Raises BasaltError."""
        with self._request("GET", path, query) as response:
            return response.read().decode()

    def get_json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at a path. Raises BasaltError."""
        return _parse(self.get(path, query))

    def post_json(self, path: str, body: str, query: Mapping[str, str] | None = None) -> Any:
        """Send a text and return the JSON that answers it. Raises BasaltError."""
        with self._request("POST", path, query, body) as response:
            return _parse(response.read().decode())

    def stream(
        self, path: str, query: Mapping[str, str], timeout: float | None
    ) -> Generator[bytes, None, None]:
        """Give the bytes at a path as they come; timeout: seconds of silence, None for no end."""
        with self._request("GET", path, query, timeout=timeout) as response:
            while piece := response.read1(65536):
                yield piece

    def post_lines(self, path: str, query: Mapping[str, str], timeout: float) -> Generator[Any, None, None]:
        """Ask for something and give the JSON of each line of the answer as it comes; timeout: seconds of silence."""
        with self._request("POST", path, query, "", timeout) as response:
            while line := response.readline():
                yield _parse(line.decode())

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: str | None = None,
        timeout: float | None = TIMEOUT,
    ) -> Iterator[http.client.HTTPResponse]:
        opened = self._connect(self._endpoint)
        try:
            with _explained(self._endpoint):
                opened.request(
                    method,
                    path + (f"?{urlencode(query)}" if query else ""),
                    None if body is None else body.encode(),
                    {"Content-Type": "application/yaml"} if body is not None else {},
                )
                response = opened.getresponse()
                if response.status >= 400:
                    raise _error(response.status, response.read().decode(errors="replace"))
                if opened.sock is not None:
                    opened.sock.settimeout(timeout)
                yield response
        finally:
            opened.close()


def connection(endpoint: Endpoint) -> http.client.HTTPConnection:
    """Return a connection that is not opened yet. Raises BasaltError for an endpoint that cannot be right."""
    if endpoint.url is None:
        return UnixConnection(endpoint.socket)
    host, port = split_url(endpoint.url)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=_context(endpoint))


def split_url(url: str) -> tuple[str, int]:
    """Return host and port of an endpoint's URL; a bare host is taken too. Raises BasaltError."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, PORT
    if not host or parts.scheme != "https" or parts.path not in ("", "/") or parts.query or parts.username:
        raise BasaltError(f"{url!r} is no endpoint", f"Use a URL such as https://192.0.2.7:{PORT}.")
    return host, port


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Open the connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    if endpoint.certificate is None:
        raise BasaltError("a node's API asks for a client certificate", "Give --cert and --key.")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif endpoint.authority is not None:
        try:
            context.load_verify_locations(endpoint.authority)
        except (OSError, ssl.SSLError) as error:
            raise BasaltError(f"{endpoint.authority} cannot be used as --cacert: {error}") from None
    try:
        # The password is an empty one: a question on the terminal would hang whatever called us.
        context.load_cert_chain(endpoint.certificate, endpoint.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise BasaltError(
            f"{endpoint.certificate} cannot be used as --cert: {error}",
            "Give a certificate and its unencrypted key in PEM form.",
        ) from None
    return context


@contextmanager
def _explained(endpoint: Endpoint) -> Iterator[None]:
    """Turn errors of the connection into what a person can act upon."""
    try:
        yield
    except PermissionError:
        raise BasaltError(
            f"only root may use {endpoint.name}", "Run the command as root, e.g. with sudo."
        ) from None
    except FileNotFoundError:
        raise Unreachable(
            f"there is no {endpoint.name}: no Basalt agent runs on this machine",
            "On a node see `systemctl status basalt`; from elsewhere use --endpoint https://NODE:6400.",
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise BasaltError(
            f"the certificate of {endpoint.name} is not trusted: {error.verify_message}",
            "Give the cluster's CA with --cacert.",
        ) from None
    except (ConnectionResetError, ssl.SSLEOFError):
        # How a client certificate is refused: asyncio closes the connection without the alert that says so.
        hint = (
            "Probably the client certificate is refused: one signed by access.client-ca is needed, and valid."
        )
        raise Unreachable(
            f"{endpoint.name} closed the connection without an answer",
            hint if endpoint.url else "The agent has just been stopped: see `systemctl status basalt`.",
        ) from None
    except ssl.SSLError as error:
        raise _tls_error(endpoint, error) from None
    except TimeoutError:
        raise Unreachable(
            f"{endpoint.name} does not answer", "Is the node up and the address right?"
        ) from None
    except http.client.HTTPException as error:
        raise Unreachable(f"{endpoint.name} answers with something else than HTTP: {error!r}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unreachable(
            f"{endpoint.name} cannot be reached: {reason}", "Is the node up and the address right?"
        ) from None


def _tls_error(endpoint: Endpoint, error: ssl.SSLError) -> BasaltError:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason:
        return BasaltError(
            f"{endpoint.name} refuses the client certificate: {reason}",
            "Use one that is signed by the document's access.client-ca.",
        )
    return BasaltError(f"no TLS connection to {endpoint.name}: {reason}")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BasaltError("the answer is no JSON", "Is this the API of a Basalt node?") from None


def read_failures(body: Any) -> list[Failure]:
    """Return the failures of an answer. Raises KeyError or TypeError for one that has none."""
    keys = ("code", "path", "found", "remedy")
    return [Failure(*(str(each[key]) for key in keys)) for each in body["failures"]]


def _error(status: int, text: str) -> BasaltError:
    """Return the error that an answer describes."""
    try:
        failures = read_failures(json.loads(text))
    except (ValueError, KeyError, TypeError):
        failures = []
    if status == 422 and failures:
        return DocumentError(failures)
    if not failures:
        return BasaltError(f"the node answers with HTTP status {status}", "Is this the API of a Basalt node?")
    first = failures[0]
    return BasaltError(f"{first.path}: {first.found}" if first.path else first.found, first.remedy)
