# SPDX-License-Identifier: Apache-2.0
"""One connection of a machine's, carried to a port of this host: standard input and output, for guestfwd.

    python3 -IS pipe.py HOST PORT

An API server keeps a connection for each kind of object, and each has a process of this, so it imports next to nothing.
Uses nothing but the standard library, for it runs with the Python of the tools tree.
"""

import os
import select
import socket
import sys

PIECE = 65536


def carry(stream: socket.socket) -> None:
    """Copy both ways until the host's side hangs up; what the machine has ended is ended there, too."""
    sources = [0, stream.fileno()]
    while stream.fileno() in sources:
        for source in select.select(sources, [], [])[0]:
            data = os.read(source, PIECE)
            if not data:
                sources.remove(source)
                if source == 0:
                    stream.shutdown(socket.SHUT_WR)
            elif source == 0:
                stream.sendall(data)
            else:
                write(data)


def write(data: bytes) -> None:
    """Write all of it to standard output."""
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Serve the connection that this process was started for; without anybody on the host's side it ends at once."""
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as stream:
            carry(stream)
    except OSError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
