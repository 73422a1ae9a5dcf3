# SPDX-License-Identifier: Apache-2.0
"""The REST API from the other side, with nothing but the standard library: it has to start quickly."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from firstboot.failure import BasaltError, DocumentError, Failure, Refused

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

    def post_json(
        self, path: str, body: str, query: Mapping[str, str] | None = None, timeout: float = TIMEOUT
    ) -> Any:
        """Send a text and return the JSON that answers it; timeout: seconds of silence. Raises BasaltError."""
        with self._request("POST", path, query, _Body.text(body), timeout) as response:
            return _parse(response.read().decode())

    def patch_json(self, path: str, body: str, query: Mapping[str, str] | None = None) -> Any:
        """Send a change and return the JSON that answers it. Raises BasaltError."""
        with self._request("PATCH", path, query, _Body.text(body)) as response:
            return _parse(response.read().decode())

    def post_stream(self, path: str, body: str, timeout: float) -> Generator[bytes, None, None]:
        """Send a text and give the bytes that answer it as they come; timeout: seconds of silence."""
        with self._request("POST", path, None, _Body.text(body), timeout) as response:
            while piece := response.read1(65536):
                yield piece

    def upload(self, path: str, values: Mapping[str, str], file: tuple[str, BinaryIO], timeout: float) -> Any:
        """Send values and then a file, as a form does, and return the JSON that answers them. Raises BasaltError.

        timeout: seconds of silence
        """
        with self._request("POST", path, None, _Body.form(values, file), timeout) as response:
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
        with self._request("POST", path, query, _Body.text(""), timeout) as response:
            while line := response.readline():
                yield _parse(line.decode())

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: _Body | None = None,
        timeout: float | None = TIMEOUT,
    ) -> Iterator[http.client.HTTPResponse]:
        opened = self._connect(self._endpoint)
        target = path + (f"?{urlencode(query)}" if query else "")
        try:
            with _explained(self._endpoint):
                opened.connect()
                if body is not None and opened.sock is not None:
                    opened.sock.settimeout(timeout)
                # A node that refuses what it is sent need not read it to its end; what it answers says why.
                with suppress(BrokenPipeError, ConnectionResetError):
                    if body is None:
                        opened.request(method, target)
                    else:
                        opened.request(method, target, body.pieces, body.headers)
                response = opened.getresponse()
                if response.status >= 400:
                    raise _error(response.status, response.read().decode(errors="replace"))
                if opened.sock is not None:
                    opened.sock.settimeout(timeout)
                yield response
        finally:
            opened.close()


@dataclass(frozen=True)
class _Body:
    """What is sent, piece by piece, and what is said about it."""

    pieces: Iterable[bytes]
    headers: Mapping[str, str]

    @classmethod
    def text(cls, text: str) -> _Body:
        """A document or another text."""
        data = text.encode()
        return cls([data], {"Content-Type": "application/yaml", "Content-Length": str(len(data))})

    @classmethod
    def form(cls, values: Mapping[str, str], file: tuple[str, BinaryIO]) -> _Body:
        """A form with short values and one file at its end (RFC 7578)."""
        boundary = secrets.token_hex(16)
        begin = f"--{boundary}\r\nContent-Disposition: form-data; name="
        before = "".join(f'{begin}"{name}"\r\n\r\n{value}\r\n' for name, value in values.items())
        name, content = file
        kind = "Content-Type: application/octet-stream"
        head = f'{before}{begin}"{name}"; filename="{name}"\r\n{kind}\r\n\r\n'.encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        length = len(head) + os.fstat(content.fileno()).st_size + len(tail)

        def pieces() -> Iterator[bytes]:
            yield head
            yield from iter(lambda: content.read(65536), b"")
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(length),
        }
        return cls(pieces(), headers)


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
    # A given CA may be an intermediate one: it is trusted itself, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
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
    except http.client.IncompleteRead:
        raise Unreachable(
            f"{endpoint.name} ended its answer too early", "Try again; `basalt logs basalt` says what it met."
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
    if status == 409 and failures:
        return Refused(failures)
    if not failures:
        return BasaltError(f"the node answers with HTTP status {status}", "Is this the API of a Basalt node?")
    first = failures[0]
    return BasaltError(f"{first.path}: {first.found}" if first.path else first.found, first.remedy)
