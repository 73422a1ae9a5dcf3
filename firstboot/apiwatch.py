# SPDX-License-Identifier: Apache-2.0
"""Says in a file whether this machine's API server may have the cluster's virtual address, for keepalived to follow.

It is a process of its own (virtual-address-watch.service): it goes on while the agent is away, and may do nothing but
ask. Its first verdict comes with the first answer; until then it stands by that of a process before it.
"""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from firstboot import systemd
from firstboot.kube import trusting
from firstboot.paths import API_VERDICT, PKI

READY, UNREADY = "0\n", "1\n"
"""What keepalived takes for yes and for no."""
HOST, PORT = "127.0.0.1", 6443
INTERVAL, TIMEOUT = 1.0, 3.0
"""Seconds between two questions, and for an answer."""
PATIENCE = 5.0
"""Seconds without a good answer that change nothing: while the datastore elects a leader no API server is ready, and
the address had better stay than be nowhere."""


@dataclass
class Judge:
    """Turns answers into a verdict.

    answered: when the last good one came, in seconds of a clock that only goes on; None for never
    """

    answered: float | None = None

    @classmethod
    def following(cls, verdict: str | None, now: float) -> Judge:
        """Return one that stands by a verdict for a while, None where nobody has given any: then by no."""
        return cls(now if verdict == READY else None)

    def hear(self, ready: bool, now: float) -> None:
        """Take in an answer."""
        if ready:
            self.answered = now

    def verdict(self, now: float) -> str:
        """Return what the file has to say."""
        return READY if self.answered is not None and now - self.answered <= PATIENCE else UNREADY


def is_ready(host: str = HOST, port: int = PORT, authority: Path = PKI / "ca-trusted.crt") -> bool:
    """Whether an API server calls itself ready, over a new connection as clients would make one."""
    try:
        # Read each time: authorities change, and a bad one must not let this process end.
        asked = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=trusting(authority))
        try:
            asked.request("GET", "/readyz")
            return asked.getresponse().status == 200
        finally:
            asked.close()
    except (OSError, ssl.SSLError, http.client.HTTPException):
        return False


def main() -> None:
    """Ask for ever; the entry point of virtual-address-watch.service."""
    told = API_VERDICT.read_text() if API_VERDICT.exists() else None
    judge = Judge.following(told, time.monotonic())
    while True:
        if told != (verdict := judge.verdict(time.monotonic())):
            API_VERDICT.write_text(verdict)
            told = verdict
        systemd.notify("READY=1\nWATCHDOG=1")
        time.sleep(INTERVAL)
        ready = is_ready()
        judge.hear(ready, time.monotonic())


if __name__ == "__main__":
    main()
