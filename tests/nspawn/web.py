# SPDX-License-Identifier: Apache-2.0
"""A web server and a client for tests, each a process of its own in a network namespace: on a wire beside the nodes.

python web.py serve ADDRESS PORT NAME    answers every request with what it was, as JSON
python web.py ask JSON                   asks as a Question says, and prints an Answer
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECONDS = 10.0


@dataclass(frozen=True)
class Question:
    """What is asked.

    address: of the node
    host:    the name in the request, and in TLS
    ca:      PEM of whom the answer has to come from; None for HTTP
    claims:  what a proxy says by the PROXY protocol who asks
    """

    address: str
    host: str
    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    claims: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    status:  0 where nothing did
    headers: names in lower case
    seen:    what the server behind has seen: name, method, path, headers; empty where none has
    error:   why nothing came back
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def _here(namespace: str, *args: str) -> list[str]:
    """Return the command that runs this file in a network namespace."""
    return ["ip", "netns", "exec", namespace, sys.executable, "-I", __file__, *args]


def ask(namespace: str, question: Question) -> Answer:
    """Ask from a network namespace."""
    asked = json.dumps(asdict(question))
    done = subprocess.run(_here(namespace, "ask", asked), check=True, capture_output=True, timeout=60)
    return Answer(**json.loads(done.stdout))


@contextmanager
def serving(namespace: str, address: str, port: int, name: str) -> Iterator[None]:
    """Have a server in a network namespace."""
    argv = _here(namespace, "serve", address, str(port), name)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"serving\n"
            yield
        finally:
            server.terminate()


@contextmanager
def running(program: Path, namespace: str, listen: str) -> Iterator[None]:
    """Have the tests' own program serve in a network namespace."""
    argv = ["ip", "netns", "exec", namespace, "env", f"LISTEN={listen}", str(program)]
    with subprocess.Popen(argv) as process:
        try:
            yield
        finally:
            process.terminate()


def _serve(address: str, port: str, name: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            seen = {"name": name, "method": self.command, "path": self.path, "headers": headers}
            body = json.dumps(seen).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    with Server((address, int(port)), Handler) as server:
        print("serving", flush=True)
        server.serve_forever()


def _ask(question: Question) -> Answer:
    port = 443 if question.ca else 80
    try:
        with socket.create_connection((question.address, port), timeout=SECONDS) as plain:
            if question.claims:
                plain.sendall(f"PROXY TCP4 {question.claims} {question.address} 40000 {port}\r\n".encode())
            connection = HTTPConnection(question.host, port, timeout=SECONDS)
            connection.sock = plain
            if question.ca:
                context = ssl.create_default_context(cadata=question.ca)
                connection.sock = context.wrap_socket(plain, server_hostname=question.host)
            connection.request(
                question.method, question.path, headers={"Host": question.host, **question.headers}
            )
            response: HTTPResponse = connection.getresponse()
            body = response.read()
    except OSError as error:
        return Answer(0, error=str(error))
    headers = {key.lower(): value for key, value in response.getheaders()}
    return Answer(response.status, headers, json.loads(body) if body.startswith(b"{") else {})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", address, port, name]:
            _serve(address, port, name)
        case ["ask", text]:
            print(json.dumps(asdict(_ask(Question(**json.loads(text))))))
