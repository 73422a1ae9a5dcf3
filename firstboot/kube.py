# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP client: health probes, and the few requests it makes to the Kubernetes API.

A full Kubernetes client costs three seconds of start-up and 66 MB under emulation; the agent needs get,
server-side apply and, for records that two may want to write at once, create and replace.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from firstboot.failure import BasaltError
from firstboot.paths import PKI

if TYPE_CHECKING:
    import aiohttp

FIELD_MANAGER = "basalt"
SERVER = "https://127.0.0.1:6443"

SECONDS = 5.0
"""How long a service may take to answer; a busy node answers late, a dead one never."""

WATCH_SECONDS, SILENCE_SECONDS = 300, 120.0
"""How long the API server keeps up a watch, and how long one may be silent: there is a bookmark each minute."""

CHANGE_SECONDS = 20.0
"""How long the API server may take to make an object as it should be: asked again it would only have more to do."""

JSON = "application/json"
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"

Object = Mapping[str, Any]
"""A Kubernetes object as JSON data; applied by the server under the agent's field manager."""


class Trust(StrEnum):
    """Whom a request believes to speak with the service."""

    PLAIN = "plain"
    """HTTP on the loopback address."""
    CLUSTER = "cluster"
    """HTTPS with the cluster's CA and the client certificate of the agent, or of whose process this is."""
    KUBELET = "kubelet"
    """HTTPS with the cluster's CA and the kubelet's client certificate, which may change its own Node."""
    ETCD = "etcd"
    """HTTPS with the datastore's CA and the API server's client certificate."""


FILES = {
    Trust.CLUSTER: ("ca-trusted.crt", "agent.crt", "agent.key"),
    Trust.KUBELET: ("ca-trusted.crt", "kubelet-client.crt", "kubelet-client.key"),
    Trust.ETCD: ("etcd/ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key"),
}
"""CA, certificate and key below the folder of certificates."""


class KubeError(BasaltError):
    """The API server refused a request or did not answer; status is 0 when there was no answer."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status or 'no answer'}: {_message(text)}")


class Client:
    """One connection pool for all probes and requests.

    ahead: seconds by which this clock is ahead of the API server's, as of its last answer; less than 0: behind
    """

    def __init__(self, pki: Path = PKI, identity: str = "agent") -> None:
        """Be known to the API server by the client certificate `identity`.crt below `pki`."""
        self.ahead = 0.0
        self._pki = pki
        self._files = {**FILES, Trust.CLUSTER: ("ca-trusted.crt", f"{identity}.crt", f"{identity}.key")}
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[Trust, tuple[object, ssl.SSLContext]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def get_text(
        self, url: str, trust: Trust, timeout: float, server: str | None = None
    ) -> tuple[int, str]:
        """GET and return status and body; status is 0 and the body the reason when there is no answer.

        server: the name in the service's certificate, where it is not the URL's
        """
        return await self._request("GET", url, trust, timeout, server=server)

    async def names(self, host: str, port: int) -> tuple[str, ...]:
        """Return the DNS names in the certificate that the cluster's server at an address shows. Raises BasaltError."""
        import asyncio

        try:
            async with asyncio.timeout(SECONDS):
                _, writer = await asyncio.open_connection(host, port, ssl=self._context(Trust.CLUSTER))
        except (OSError, TimeoutError) as error:
            raise BasaltError(str(error) or "no answer in time") from error
        writer.close()
        shown = writer.get_extra_info("peercert").get("subjectAltName", ())
        return tuple(value for kind, value in shown if kind == "DNS")

    async def get(self, path: str) -> Any:
        """Return an object or a list of the Kubernetes API; None where there is no such object."""
        status, text = await self._request("GET", SERVER + path, Trust.CLUSTER, SECONDS)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != 200:
            raise KubeError("GET", path, status, text)
        return json.loads(text)

    async def send(self, method: str, path: str, obj: Object | None = None) -> Any:
        """Return what the API answers to POST, PUT or DELETE. Raises KubeError, 404 and 409 included."""
        return await self.call(method, SERVER + path, Trust.CLUSTER, obj)

    async def call(self, method: str, url: str, trust: Trust, obj: Object | None = None) -> Any:
        """Return the JSON that answers JSON. Raises KubeError for anything but success."""
        body = None if obj is None else json.dumps(obj)
        status, text = await self._request(method, url, trust, SECONDS, body, JSON)
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            raise KubeError(method, url.removeprefix(SERVER), status, text)
        return json.loads(text)

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Any]]:
        """Give what happens to the objects of a list after a version of it, as (``ADDED``, object), until it ends.

        The API server ends a watch now and then; so does silence for longer than it is ever silent. Raises KubeError.
        """
        import aiohttp

        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        url = f"{SERVER}{path}{'&' if '?' in path else '?'}{query}"
        times = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS, sock_read=SILENCE_SECONDS)
        rest = b""
        try:
            async with self._pool().get(url, ssl=self._context(Trust.CLUSTER), timeout=times) as response:
                if response.status != 200:
                    raise KubeError("WATCH", path, response.status, await response.text())
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for event in map(json.loads, filter(None, lines)):
                        if event["type"] == "ERROR":
                            told = event["object"]
                            raise KubeError("WATCH", path, told.get("code", 0), json.dumps(told))
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubeError("WATCH", path, 0, str(error) or "no sign of life") from error

    async def apply(
        self,
        obj: Object,
        manager: str = FIELD_MANAGER,
        trust: Trust = Trust.CLUSTER,
        seconds: float = CHANGE_SECONDS,
    ) -> None:
        """Make the object so by server-side apply; what others set in other fields stays. Raises KubeError.

        manager: whose fields these are; those it applied before and leaves out now are removed
        trust:   by whose certificate
        seconds: how long the answer may take
        """
        await self._patch(object_path(obj), obj, APPLY, manager, trust, seconds)

    async def apply_status(self, obj: Object) -> None:
        """Make the status of an object so, which `apply` leaves alone."""
        await self._patch(f"{object_path(obj)}/status", obj, APPLY, FIELD_MANAGER)

    async def merge(self, path: str, change: Object, manager: str) -> Any:
        """Change some fields of an object, null removes one; return the object. Raises KubeError.

        With ``metadata.resourceVersion`` among them the object has to be that one still. manager: who says so
        """
        return await self._patch(path, change, MERGE, manager)

    async def _patch(
        self,
        path: str,
        change: Object,
        kind: str,
        manager: str,
        trust: Trust = Trust.CLUSTER,
        seconds: float = CHANGE_SECONDS,
    ) -> Any:
        # Only who applies can be told that others own a field.
        force = "&force=true" if kind == APPLY else ""
        url = f"{SERVER}{path}?fieldManager={manager}{force}"
        status, text = await self._request("PATCH", url, trust, seconds, json.dumps(change), kind)
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise KubeError("PATCH", path, status, text)
        return json.loads(text)

    async def _request(
        self,
        method: str,
        url: str,
        trust: Trust,
        timeout: float,
        body: str | None = None,
        kind: str = JSON,
        server: str | None = None,
    ) -> tuple[int, str]:
        import aiohttp

        headers = {"Content-Type": kind} if body is not None else {}
        try:
            async with self._pool().request(
                method,
                url,
                data=body,
                headers=headers,
                ssl=self._context(trust),
                server_hostname=server,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                if url.startswith(SERVER) and (date := response.headers.get("Date")):
                    self.ahead = time.time() - parsedate_to_datetime(date).timestamp()
                return response.status, await response.text()
        except aiohttp.ClientConnectorError as error:
            # The error's own text shows objects of this program.
            reason = error.os_error.strerror or "the connection ends in the TLS handshake"
            return 0, f"{error.host}:{error.port} cannot be reached: {reason}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return 0, str(error) or "no answer in time"

    def _pool(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        return self._session

    def _context(self, trust: Trust) -> ssl.SSLContext | bool:
        """Return how to speak TLS; made again when the files it was made from have changed."""
        if trust is Trust.PLAIN:
            return True
        paths = [self._pki / name for name in self._files[trust]]
        stamp = tuple(path.stat().st_mtime_ns for path in paths)
        known = self._contexts.get(trust)
        if known is None or known[0] != stamp:
            known = (stamp, _mutual(*paths))
            self._contexts[trust] = known
        return known[1]


def object_path(obj: Object) -> str:
    """Return the path of an object in the API, e.g. ``/api/v1/namespaces/kube-system/services/kube-dns``."""
    version: str = obj["apiVersion"]
    metadata = obj["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{namespace}/{_plural(obj['kind'].lower())}/{metadata['name']}"


def _plural(kind: str) -> str:
    if kind.endswith("s"):
        return f"{kind}es"
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def trusting(authority: Path) -> ssl.SSLContext:
    """Return how to speak TLS with servers that an authority's certificate vouches for. Raises OSError."""
    context = ssl.create_default_context(cafile=str(authority))
    # The cluster's CA may be an intermediate one: it is trusted itself, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _mutual(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = trusting(authority)
    context.load_cert_chain(certificate, key)
    return context


def _message(text: str) -> str:
    """Return what the API server says in a Status object, or the start of whatever it is."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
