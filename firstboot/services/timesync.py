# SPDX-License-Identifier: Apache-2.0
"""systemd-timesyncd: the document's time servers go before those of the image and of DHCP."""

from __future__ import annotations

from pathlib import Path

from firstboot.files import File
from firstboot.probes import FileProbe
from firstboot.services.model import Node, Service

UNIT = "systemd-timesyncd"
FOLDER = Path("/run/systemd/timesyncd.conf.d")


def service(node: Node) -> Service:
    """Return the time service; without servers in the document it takes nothing from the agent."""
    servers = node.config.time.servers
    content = f"[Time]\nNTP={' '.join(servers)}\n".encode()
    return Service(
        unit=UNIT,
        probe=FileProbe(Path("/run/systemd/timesync/synchronized"), "not synchronised yet"),
        files=(File(FOLDER / "basalt.conf", content),) if servers else (),
    )
