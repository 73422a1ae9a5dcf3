# SPDX-License-Identifier: Apache-2.0
"""What a machine says of itself on its Node object.

It is told with the kubelet's certificate, which may change this one Node and no other: nothing has to be allowed.
"""

from __future__ import annotations

from typing import Any

from firstboot.kube import Client, Object, Trust


async def tell(client: Client, told: Object, manager: str) -> bool:
    """Apply fields of the Node that is there; False where there is none: one that was removed is not made again.

    manager: whose fields they are: the agent's own would be taken from the node by it
    """
    found: Any = await client.get(f"/api/v1/nodes/{told['metadata']['name']}")
    if found is None:
        return False
    known = {**told, "metadata": {**told["metadata"], "uid": found["metadata"]["uid"]}}
    await client.apply(known, manager=manager, trust=Trust.KUBELET)
    return True
