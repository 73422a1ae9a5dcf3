# SPDX-License-Identifier: Apache-2.0
"""How a service is asked whether it works. A probe answers None for yes, or the reason why not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from firstboot.failure import BasaltError
from firstboot.kube import SECONDS, Client, Trust


class Lack(str):
    """A reason that the service itself gives: it runs, and something that it needs from outside is missing."""

    __slots__ = ()


class Probe(Protocol):
    """Asks one service."""

    async def __call__(self, client: Client) -> str | None:
        """Return None when the service works, otherwise why it does not."""


@runtime_checkable
class Telling(Protocol):
    """A probe that has something to say of a service that works, too."""

    @property
    def detail(self) -> str:
        """Return it, as of the last time that it asked."""


@dataclass(frozen=True)
class HttpProbe:
    """Works when a GET answers 200; server: the name in the service's certificate, where it is not the URL's."""

    url: str
    trust: Trust = Trust.PLAIN
    server: str | None = None

    async def __call__(self, client: Client) -> str | None:
        """Ask; an answer other than 200 gives its first line as the reason."""
        status, text = await client.get_text(self.url, self.trust, SECONDS, self.server)
        if status == 200:
            return None
        failing = [line for line in text.splitlines() if line.startswith("[-]")]
        first = failing[0] if failing else next(iter(text.splitlines()), "")
        return f"answers {status}: {first}" if status else first


@dataclass(frozen=True)
class SocketProbe:
    """Works when its unix socket accepts a connection."""

    path: Path

    async def __call__(self, client: Client) -> str | None:
        """Connect and hang up."""
        try:
            async with asyncio.timeout(SECONDS):
                _, writer = await asyncio.open_unix_connection(self.path)
        except (OSError, TimeoutError) as error:
            return f"{self.path} does not accept connections: {error or 'no answer'}"
        writer.close()
        return None


@dataclass(frozen=True)
class FileProbe:
    """Works when a file is there that the service writes once it has its part."""

    path: Path
    meaning: str

    async def __call__(self, client: Client) -> str | None:
        """Look for the file."""
        return None if self.path.exists() else self.meaning


@dataclass(frozen=True)
class ToldProbe:
    """Works when the file in which the service keeps what it lacks is there and empty; pending: said without it.

    account: the file in which it keeps what there is to say when it works
    """

    path: Path
    pending: str
    account: Path | None = None

    async def __call__(self, client: Client) -> str | None:
        """Read the file."""
        try:
            lack = self.path.read_text().strip()
        except FileNotFoundError:
            return self.pending
        return Lack(lack) if lack else None

    @property
    def detail(self) -> str:
        """Return what there is to say."""
        try:
            return self.account.read_text().strip() if self.account else ""
        except FileNotFoundError:
            return ""


@dataclass(frozen=True)
class Because:
    """Works when another probe does; says what it means for people when that does not."""

    meaning: str
    probe: Probe

    async def __call__(self, client: Client) -> str | None:
        """Ask the other probe."""
        reason = await self.probe(client)
        return f"{self.meaning}: {reason}" if reason else None


@dataclass(frozen=True)
class All:
    """Works when each of several probes does; the first reason is the answer."""

    probes: tuple[Probe, ...]

    async def __call__(self, client: Client) -> str | None:
        """Ask one after the other."""
        for probe in self.probes:
            if reason := await probe(client):
                return reason
        return None


@dataclass(frozen=True)
class Found:
    """Works when the API finds something at a path; missing: said when it does not."""

    path: str
    missing: str

    async def __call__(self, client: Client) -> str | None:
        """Ask for it; the API server's own words are the reason for any other answer."""
        try:
            return None if await client.get(self.path) else self.missing
        except BasaltError as error:
            return str(error)


@dataclass(frozen=True)
class NodeHasNetwork:
    """Works when the node is registered and has a pod network of its own."""

    name: str

    async def __call__(self, client: Client) -> str | None:
        """Look at the Node object."""
        found = await _node(client, self.name)
        if isinstance(found, str):
            return found
        return None if found["spec"].get("podCIDR") else "no pod network assigned to the node yet"


@dataclass(frozen=True)
class NodeIsReady:
    """Works when the node's condition Ready is true."""

    name: str

    async def __call__(self, client: Client) -> str | None:
        """Look at the Node object; the kubelet's own words are the reason."""
        found = await _node(client, self.name)
        if isinstance(found, str):
            return found
        ready = _condition(found)
        if ready is None:
            return "the kubelet has not reported yet"
        return None if ready["status"] == "True" else str(ready.get("message") or "the node is not Ready")


def is_ready(node: Any) -> bool:
    """Whether a Node object says so of itself."""
    ready = _condition(node)
    return ready is not None and ready["status"] == "True"


def _condition(node: Any) -> Any:
    conditions = node.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Ready"), None)


async def _node(client: Client, name: str) -> Any:
    """Return the Node object, or the reason why there is none in a line."""
    try:
        return await client.get(f"/api/v1/nodes/{name}") or "the node is not registered yet"
    except BasaltError as error:
        return str(error)
