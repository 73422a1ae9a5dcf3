# SPDX-License-Identifier: Apache-2.0
"""What an idle machine's memory is used for: by `free`, by control group, by process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..node import Node
from ..vm.channel import UNIT as CHANNEL
from .baseline import UNIT as BASELINE

SCRIPT = Path(__file__).parent / "memory.sh"

DATASTORE = "datastore"
SYSTEM = "system"
NAMES = {
    "k8s-dqlite": DATASTORE,
    "etcd": DATASTORE,
    "basalt": "agent",
    "shell": "shell",
    CHANNEL: "tests' channel",
}
"""Control groups that are called otherwise here."""


@dataclass(frozen=True)
class Use:
    """Bytes. current: charged to the control group, files included; anon: of that, not files; pss: of processes.

    The first two are 0 in a container whose control groups have no controllers.
    """

    current: int = 0
    anon: int = 0
    rss: int = 0
    pss: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.current + other.current,
            self.anon + other.anon,
            self.rss + other.rss,
            self.pss + other.pss,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of the machine as `free` says, and the use of each service."""

    total: int
    used: int
    available: int
    services: Mapping[str, Use] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict made of it."""
        services = {name: Use(**use) for name, use in data["services"].items()}
        return cls(data["total"], data["used"], data["available"], services)


def measure(node: Node) -> Memory:
    """Look inside a node; `free` tells of the host where that is a container."""
    return parse(node.run(["sh", "-c", SCRIPT.read_text()], timeout=120).stdout)


def parse(text: str) -> Memory:
    """Read what memory.sh prints."""
    total = used = available = 0
    services: dict[str, Use] = {}
    service = SYSTEM
    for line in text.splitlines():
        match line.split():
            case ["Mem:", *numbers]:
                total, used, available = (int(numbers[index]) for index in (0, 1, 5))
            case ["cgroup", path, current, anon]:
                service = name_of(path)
                services[service] = services.get(service, Use()) + Use(current=int(current), anon=int(anon))
            case ["process", _, rss, pss]:
                use = Use(rss=int(rss) << 10, pss=int(pss) << 10)
                services[service] = services.get(service, Use()) + use
    return Memory(total, used, available, services)


def name_of(path: str) -> str:
    """Return whose a control group is: a service of the cluster's, a pod, or the system."""
    parts = path.strip("/").split("/")
    name = parts[-1].removesuffix(".service")
    if parts[0] == "kubepods.slice":
        return "pod"
    ours = parts[0] == "basalt.slice" or f"{BASELINE}.service" in parts or name == CHANNEL
    return NAMES.get(name, name) if ours else SYSTEM
