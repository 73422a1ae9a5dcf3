# SPDX-License-Identifier: Apache-2.0
"""Who carries the API's virtual address: asked at the address itself, whose certificate tells the node's name."""

from __future__ import annotations

from dataclasses import dataclass

from firstboot.failure import BasaltError
from firstboot.kube import Client

PORT = 6443


@dataclass(eq=False)
class Carrier:
    """Works when somebody carries the address and his API server answers; detail: who that was, last time.

    node:       the name of this one
    everybodys: names that the certificate of each API server has
    """

    address: str
    node: str
    everybodys: frozenset[str]
    port: int = PORT
    detail: str = ""

    async def __call__(self, client: Client) -> str | None:
        """Ask; the name that is nobody else's is that of the node."""
        try:
            names = await client.names(self.address, self.port)
        except BasaltError as error:
            return f"no control plane answers at {self.address}: {error}"
        who = next((name for name in names if name not in self.everybodys), "an unknown node")
        self.detail = f"{self.address} is carried by {'this node' if who == self.node else who}"
        return None
