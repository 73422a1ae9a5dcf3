# SPDX-License-Identifier: Apache-2.0
"""Inside the machine under test: run the commands that arrive on a virtio-serial port, several at once.

Handed in by the test as a credential, never part of the image. A request is one line of JSON, an answer too:

    {"id": …, "command": [...] or "shell text", "stdin": base64, "timeout": seconds}
    {"id": …, "code": exit code or null when time ran out, "stdout": base64, "stderr": base64}
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

BLOCK = 65536
DISCONNECTED_SECONDS = 0.2
NOT_FOUND = 127

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
}

writing = threading.Lock()


def main(path: str) -> None:
    """Serve the port for ever."""
    port = os.open(path, os.O_RDWR)
    pending = b""
    while True:
        block = os.read(port, BLOCK)
        if not block:
            # Nobody holds the other end; poll(2) would report that at once and for ever.
            time.sleep(DISCONNECTED_SECONDS)
            continue
        *lines, pending = (pending + block).split(b"\n")
        for line in lines:
            threading.Thread(target=serve, args=(port, line), daemon=True).start()


def serve(port: int, line: bytes) -> None:
    """Answer one request; a line cut off by a restart of either side is passed over."""
    try:
        request = json.loads(line)
    except ValueError:
        return
    code, stdout, stderr = execute(request)
    answer = {
        "id": request["id"],
        "code": code,
        "stdout": base64.b64encode(stdout).decode(),
        "stderr": base64.b64encode(stderr).decode(),
    }
    data = memoryview(json.dumps(answer).encode() + b"\n")
    with writing:
        while data:
            data = data[os.write(port, data[:BLOCK]) :]


def execute(request: dict[str, Any]) -> tuple[int | None, bytes, bytes]:
    """Run the command in a session of its own, so that all of it can be ended when time runs out."""
    command = request["command"]
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command] if isinstance(command, str) else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=ENVIRONMENT,
        )
    except OSError as error:
        return NOT_FOUND, b"", str(error).encode()
    try:
        stdout, stderr = process.communicate(base64.b64decode(request.get("stdin", "")), request["timeout"])
        return process.returncode, stdout, stderr
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return None, stdout, stderr


if __name__ == "__main__":
    main(sys.argv[1])
