# SPDX-License-Identifier: Apache-2.0
"""Whether an endpoint of somebody else's etcd can be used: it is asked as kube-apiserver would, step by step.

etcd tells its version and its health over HTTP on the port that clients use. `/health` reads with a quorum's consent,
and knows of alarms; it does so for everybody whose certificate is accepted, whatever rights its user has.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from firstboot.clocks import TOLERANCE, apart
from firstboot.codes import Code
from firstboot.datastores.external import Login
from firstboot.failure import Failure
from firstboot.values import split_url

SECONDS = 5.0
"""How long an endpoint may take from its connection to its last answer."""
OLDEST = (3, 5, 24)
"""Oldest etcd that Kubernetes 1.37 is made for: MinExternalEtcdVersion in its kubeadm."""
REFUSALS = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""Reasons of OpenSSL's for a handshake that the other side ends because of who we are."""

WHO_RUNS_IT = "Ask who runs etcd; this node goes on by itself."


@dataclass(frozen=True)
class Answer:
    """What an endpoint has said.

    version: of etcd, empty where it is not known
    failure: why it cannot be used
    notice:  what somebody should look at although it can be used
    """

    endpoint: str
    version: str = ""
    failure: Failure | None = None
    notice: Failure | None = None


class _Wrong(Exception):
    def __init__(self, code: Code, found: str, remedy: str = WHO_RUNS_IT) -> None:
        super().__init__(found)
        self.code, self.found, self.remedy = code, found, remedy


def ask(endpoint: str, login: Login, path: str) -> Answer:
    """Return what an endpoint says; holds up the caller for some seconds where nobody answers.

    path: of the endpoint in the document
    """
    version, notice = "", None
    try:
        end = time.monotonic() + SECONDS
        with closing(_connected(endpoint, login)) as connection:
            version, skew = _version(connection, end)
            _refuse_old(version)
            _refuse_sick(connection, end)
        if abs(skew) > TOLERANCE:
            notice = apart(-skew, endpoint, path)
    except _Wrong as wrong:
        found = f"{endpoint}: {wrong.found}"
        return Answer(endpoint, version, Failure(wrong.code, path, found, wrong.remedy))
    return Answer(endpoint, version, notice=notice)


def _connected(endpoint: str, login: Login) -> http.client.HTTPSConnection:
    """Return a connection on which etcd has proved who it is. Raises _Wrong."""
    url = split_url(endpoint)
    assert url is not None and url.hostname and url.port, "the document's rules see to that"
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=SECONDS, context=_context(login))
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise _Wrong(
            Code.DATASTORE_NOT_TRUSTED,
            f"its certificate is not accepted: {error.verify_message}",
            "Compare `ca` with the authority of etcd's server certificates, the endpoint with the names in them, and "
            "the node's clock with the time.",
        ) from None
    except ssl.SSLError as error:
        connection.close()
        raise _handshake(error) from None
    except OSError as error:
        connection.close()
        reason = error.strerror or "no answer in time"
        raise _Wrong(
            Code.DATASTORE_UNREACHABLE,
            f"cannot be reached: {reason}",
            "Is etcd up, the endpoint right, and its port open to this node? It goes on by itself.",
        ) from None
    return connection


def _context(login: Login) -> ssl.SSLContext:
    """Return how Go's TLS would look at certificates: names count in the extension only, any given CA ends a chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    try:
        context.load_verify_locations(login.ca)
        context.load_cert_chain(login.certificate, login.key)
    except (OSError, ssl.SSLError) as error:
        found = (
            f"the node's own files below {login.certificate.parent} cannot be used: {error.strerror or error}"
        )
        remedy = "They are written again by themselves; `basalt plan` says what is missing."
        raise _Wrong(Code.DATASTORE_REFUSES, found, remedy) from None
    return context


def _handshake(error: ssl.SSLError) -> _Wrong:
    """Return what it means that TLS failed, at its end or, since TLS 1.3, with the first answer after it."""
    reason = error.reason or "no reason"
    words = re.sub("^.*ALERT_", "", reason).replace("_", " ").lower()
    if REFUSALS.search(reason):
        remedy = (
            "Compare `client-certificate` with what etcd accepts (--trusted-ca-file): the authority that signed it, "
            "and until when it is valid."
        )
        return _Wrong(
            Code.DATASTORE_REFUSES, f"the client certificate is refused: {words}", f"{remedy} {WHO_RUNS_IT}"
        )
    remedy = "Is it etcd's port for clients, and does it serve https there? It goes on by itself."
    return _Wrong(Code.DATASTORE_UNREACHABLE, f"the TLS handshake fails: {words}", remedy)


def _get(connection: http.client.HTTPSConnection, path: str, end: float) -> tuple[int, Any, str]:
    """Return status, JSON and the header Date of an answer. Raises _Wrong, and TimeoutError."""
    try:
        connection.timeout = max(0.1, end - time.monotonic())
        # One that was closed with the last answer is opened again by itself.
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(65536)
    except TimeoutError:
        raise
    except ssl.SSLError as error:
        raise _handshake(error) from None
    except (OSError, http.client.HTTPException):
        raise _Wrong(
            Code.DATASTORE_REFUSES,
            "ends the connection after the TLS handshake",
            "Either it does not take the client certificate, or it serves no HTTP beside gRPC (etcd's option "
            f"--listen-client-http-urls), which this node needs to see its health. {WHO_RUNS_IT}",
        ) from None
    try:
        return answer.status, json.loads(text), answer.headers.get("Date", "")
    except ValueError:
        raise _not_etcd(f"answers {path} with status {answer.status} and no JSON") from None


def _version(connection: http.client.HTTPSConnection, end: float) -> tuple[str, float]:
    """Return etcd's version and by how many seconds its clock is ahead. Raises _Wrong."""
    try:
        status, told, date = _get(connection, "/version", end)
    except TimeoutError:
        raise _Wrong(Code.DATASTORE_UNREACHABLE, "takes a connection and does not answer") from None
    version = told.get("etcdserver") if isinstance(told, dict) else None
    if status != 200 or not isinstance(version, str):
        raise _not_etcd(f"answers /version with status {status}")
    try:
        return version, parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return version, 0.0


def _refuse_old(version: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:3])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise _Wrong(
            Code.DATASTORE_OLD,
            f"is etcd {version}, and Kubernetes needs {oldest} or newer",
            f"Have it upgraded to {oldest} or newer. {WHO_RUNS_IT}",
        )


def _refuse_sick(connection: http.client.HTTPSConnection, end: float) -> None:
    """Raise _Wrong unless a quorum lets the member read and no alarm keeps clients from writing."""
    try:
        _, told, _ = _get(connection, "/health", end)
    except TimeoutError:
        told = {"reason": "it cannot say within some seconds whether it may read"}
    said = told if isinstance(told, dict) else {}
    if str(said.get("health")).lower() == "true":
        return
    reason = str(said.get("reason") or "it gives no reason")
    if reason.startswith("ALARM"):
        remedy = "Have the alarm's cause removed and the alarm disarmed (`etcdctl alarm disarm`)."
        raise _Wrong(Code.DATASTORE_ALARM, f"has raised an alarm: {reason}", f"{remedy} {WHO_RUNS_IT}")
    remedy = f"Have a majority of its members brought back. {WHO_RUNS_IT}"
    raise _Wrong(Code.DATASTORE_NO_QUORUM, f"cannot read: {reason}", remedy)


def _not_etcd(found: str) -> _Wrong:
    return _Wrong(Code.DATASTORE_UNREACHABLE, found, "Is it etcd's port for clients? It goes on by itself.")
