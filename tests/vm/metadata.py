# SPDX-License-Identifier: Apache-2.0
"""A cloud's metadata service for one connection: HTTP on standard input and output, for guestfwd.

    python3 metadata.py FILE    FILE: JSON object, path to content; a path that ends in / lists what is below

Uses nothing but the standard library, for it runs with the Python of the tools tree.
"""

import json
import sys
from pathlib import Path
from typing import BinaryIO

TOKEN_PATH = "/latest/api/token"
TOKEN = "token-of-the-test"
OPEN = "/openstack"
TOKEN_HEADER = "x-aws-ec2-metadata-token"


def respond(pages: dict[str, str], method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Return status and body; all but OpenStack's pages are only for who shows the token (IMDSv2)."""
    if (method, path) == ("PUT", TOKEN_PATH):
        return 200, TOKEN
    found = page(pages, path)
    if found is None:
        return 404, "no such page\n"
    if not path.startswith(OPEN) and headers.get(TOKEN_HEADER) != TOKEN:
        return 401, "a token is needed\n"
    return 200, found


def page(pages: dict[str, str], path: str) -> str | None:
    """Return a page, or the list of the names directly below a path that ends in a slash."""
    if path in pages:
        return pages[path]
    below = path if path.endswith("/") else f"{path}/"
    names = {name[len(below) :] for name in pages if name.startswith(below)}
    tops = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in names})
    return "\n".join(tops) if tops else None


def serve(pages: dict[str, str], requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the other side hangs up."""
    while line := requests.readline().decode("latin-1").split():
        headers = {}
        while header := requests.readline().strip().decode("latin-1"):
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        requests.read(int(headers.get("content-length", 0)))
        status, body = respond(pages, line[0], line[1].split("?")[0], headers)
        data = body.encode()
        answers.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answers.flush()


def main() -> None:
    """Serve the connection that this process was started for."""
    pages = json.loads(Path(sys.argv[1]).read_text())
    serve(pages, sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
