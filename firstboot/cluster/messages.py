# SPDX-License-Identifier: Apache-2.0
"""What a machine that wants in and a control plane say to each other, as JSON over HTTPS.

POST /v1/join/hello   Hello -> Introduction   nobody trusts anybody: the control plane proves that it knows the token
POST /v1/join         Request -> Welcome      over TLS with the CA that the proof covered
POST /v1/certificates Renewal -> Renewed      later, with the client certificate of the node's agent
POST /v1/fence        Standing -> Verdict     between control planes, with the client certificate of the agent
POST /v1/ca-key       Wanted -> Key           likewise, while the cluster's CA is being replaced
POST /v1/partner      Partner -> Heard        likewise, before one of them may carry the API's virtual address
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from firstboot.failure import BasaltError

PORT = 6401
AUTHORITY = "ca"
"""Among the certificates of a welcome: the cluster's CA and those above it up to the root."""
HELLO, JOIN, CERTIFICATES = "/v1/join/hello", "/v1/join", "/v1/certificates"
FENCE = "/v1/fence"
CA_KEY = "/v1/ca-key"
PARTNER = "/v1/partner"


class Malformed(BasaltError):
    """The other side said something that is no such message."""


@dataclass(frozen=True)
class Message:
    """A flat JSON object; a value of another kind than the field's example is malformed."""

    def to_dict(self) -> dict[str, Any]:
        """Return the message as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read a message; unknown keys are passed over, so that a later version may say more."""
        if not isinstance(data, Mapping):
            raise Malformed("the message is no JSON object", "Are both nodes of versions that fit together?")
        try:
            message = cls(**{name: data[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise Malformed(
                f"the message lacks {error}", "Are both nodes of versions that fit together?"
            ) from None
        for name, kind in cls.kinds().items():
            if type(getattr(message, name)) is not kind:
                raise Malformed(f"{name} in the message is no {kind.__name__}")
        return message

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """Return the kind of each field."""
        names = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}
        return {
            name: names[str(each.type).partition("[")[0]] for name, each in cls.__dataclass_fields__.items()
        }


@dataclass(frozen=True)
class Hello(Message):
    """token: its id; nonce: hexadecimal, made anew for every hello."""

    token: str
    nonce: str


@dataclass(frozen=True)
class Introduction(Message):
    """authority: the cluster's CA, PEM; time: seconds of the epoch; proof: Token.proof of both."""

    authority: str
    time: int
    proof: str


@dataclass(frozen=True)
class Request(Message):
    """A machine that wants in.

    token, secret: of the token
    kubernetes:    version in its image
    requests:      certificate name as in the catalogue -> certificate signing request, PEM
    """

    token: str
    secret: str = field(repr=False)
    name: str
    ip: str
    role: str
    kubernetes: str
    requests: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Welcome(Message):
    """The machine is in.

    certificates:   name -> PEM; for a worker
    settings:       as in firstboot.cluster.settings
    control_planes: addresses
    peers:          for a control plane: members of the datastore, as in Membership
    secrets:        for a control plane: authorities and their keys, name -> PEM
    """

    certificates: dict[str, str]
    settings: dict[str, Any]
    control_planes: list[str]
    peers: list[str]
    secrets: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Renewal(Message):
    """A node asks for its certificates anew; requests as in Request."""

    requests: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Renewed(Message):
    """certificates: name -> PEM."""

    certificates: dict[str, str]


@dataclass(frozen=True)
class Standing(Message):
    """A control plane asks whether the cluster goes on without it.

    name:      of its node
    authority: whom the members of its datastore trust, PEM
    """

    name: str
    authority: str


@dataclass(frozen=True)
class Verdict(Message):
    """since: when the cluster was recovered without who asked (RFC 3339, UTC); empty where it was not."""

    since: str


@dataclass(frozen=True)
class Wanted(Message):
    """A control plane lacks the key of an authority of the cluster's.

    rotation: which the authority is from
    public:   SHA-256 of its public key, in hexadecimal
    """

    rotation: str
    public: str


@dataclass(frozen=True)
class Key(Message):
    """key: private, PEM; empty where who was asked has none either."""

    key: str = field(repr=False)


@dataclass(frozen=True)
class Partner(Message):
    """A control plane asks whether it is told who carries the API's virtual address; ip: of its node."""

    ip: str


@dataclass(frozen=True)
class Heard(Message):
    """told: whether who was asked tells it that by VRRP whenever he carries the address."""

    told: bool
