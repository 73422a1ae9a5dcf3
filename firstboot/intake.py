# SPDX-License-Identifier: Apache-2.0
"""From whatever the sources hold to the node the agent follows; a bad document never replaces a good one."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firstboot import files, paths, sources
from firstboot.cluster import settings
from firstboot.cluster.followed import FILE, Followed
from firstboot.cluster.membership import Membership
from firstboot.cluster.noticed import FILE as POLICIES
from firstboot.cluster.noticed import Noticed
from firstboot.cluster.rotation import FILE as ROTATION
from firstboot.cluster.rotation import Rotation
from firstboot.codes import Code
from firstboot.config import Config, DatastoreType
from firstboot.facts import Facts
from firstboot.failure import DocumentError, Failure
from firstboot.identity import Identity
from firstboot.moving.records import stored_in
from firstboot.pki import given
from firstboot.services.model import Ipv6, Node
from firstboot.sources import Absent, Accepted, Found, Waiting

log = logging.getLogger(__name__)

FACTS_AGE = 10.0
"""Seconds after which the facts are gathered again on a node that runs."""

ADDRESS_PATIENCE = 20.0
"""Seconds in which a missing address is not worth a word: DHCP takes its time."""

TRANSIENT = (Code.NO_ADDRESS, Code.NOT_ON_NODE, Code.NOT_CONNECTED)

GENERIC_HOSTNAMES = ("", "localhost", "localhost.localdomain", "basalt", "debian")
"""Names that say nothing: a node called so gets a name out of its machine id."""


@dataclass(frozen=True)
class Taken:
    """What a look has found.

    node:      the node to follow, None while there is none
    joiner:    the node that has to join its cluster before it can be followed
    addresses: all of the machine's, the node's own first
    failures:  what is wrong with the newest document, which then is not the one that is followed
    present:   whether a source has a document at all, right or wrong
    pending:   whether what is missing may come by itself
    origin, digest: of the document that is followed, else of the newest
    """

    facts: Facts
    node: Node | None = None
    joiner: Node | None = None
    addresses: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    present: bool = False
    pending: bool = False
    origin: str | None = None
    digest: str | None = None


class Intake:
    """Looks again and again; remembers what it has checked so that a look without news is cheap."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._started = clock()
        self._facts: tuple[float, Facts] | None = None
        self._known = sources.recall(root)
        self._followed: tuple[Accepted, Node] | None = None
        self._checked: tuple[str, Accepted | tuple[Failure, ...]] | None = None
        self._merged: tuple[tuple[str, settings.Settings, Mapping[str, Any] | None], Config] | None = None

    def look(self) -> Taken:
        """Return what is to be followed now. Raises BasaltError when the node's own records are damaged."""
        facts = self._gather()
        found = sources.find(self._root)
        newest, failures = self._accepted(found)
        node: Node | None = None
        joiner: Node | None = None
        # A document that cannot be used leaves the node with the one it has accepted before.
        for candidate in self._candidates(newest):
            node, problems = self._resolve(candidate, facts)
            failures += problems
            if node is None:
                continue
            if node.config.joins and not node.control_planes:
                node, joiner = None, node
            else:
                self._follow(candidate, node)
            break
        if node is None and self._followed is not None:
            node = self._followed[1]
        shown = self._followed[0] if self._followed else found
        return Taken(
            facts=facts,
            node=node,
            joiner=joiner,
            addresses=_addresses(facts, node or joiner),
            failures=self._worth_saying(failures),
            present=isinstance(found, Found),
            pending=isinstance(found, Waiting) or any(f.code in TRANSIENT for f in failures),
            origin=getattr(shown, "origin", None),
            digest=getattr(shown, "digest", None),
        )

    def _gather(self) -> Facts:
        now = self._clock()
        # Until there is a node to follow every look may bring the address it waits for.
        if self._facts is None or self._followed is None or now - self._facts[0] > FACTS_AGE:
            self._facts = (now, Facts.gather(self._root))
        return self._facts[1]

    def _candidates(self, newest: Accepted | None) -> tuple[Accepted, ...]:
        """Return the documents that may be followed, the wanted one first."""
        if newest is None:
            return () if self._known is None else (self._known,)
        if self._known is None or self._known.digest == newest.digest:
            return (newest,)
        return newest, self._known

    def _accepted(self, found: Found | Waiting | Absent) -> tuple[Accepted | None, tuple[Failure, ...]]:
        """Return the newest document if it is right, otherwise what is wrong; each is checked once.

        A source that has gone, for example a seed pulled out, says nothing against what it once said.
        """
        if isinstance(found, Waiting) or (isinstance(found, Absent) and self._known is not None):
            return None, ()
        if isinstance(found, Absent):
            return None, (found.failure,)
        if self._checked is None or self._checked[0] != found.digest:
            self._checked = (found.digest, self._check(found))
        verdict = self._checked[1]
        return (verdict, ()) if isinstance(verdict, Accepted) else (None, verdict)

    def _check(self, found: Found) -> Accepted | tuple[Failure, ...]:
        if self._known is not None and self._known.digest == found.digest:
            return self._known
        try:
            return sources.accept(found)
        except DocumentError as error:
            return error.failures

    def _resolve(self, accepted: Accepted, facts: Facts) -> tuple[Node | None, tuple[Failure, ...]]:
        """Return the node that a document describes on this machine, or why it cannot be."""
        config, address = accepted.config, accepted.config.node.ip or facts.default_address
        if address is None:
            return None, self._fact_failures(config, facts)
        membership, followed = Membership.load(self.membership), Followed.load(self.followed)
        known = membership.control_planes if membership else ()
        stated, stored = settings.stated(accepted.data), stored_in(self.membership.parent)
        if common := _common(config, membership, followed, stored):
            decides = settings.decides(config, address, known)
            refused = _differences(stated, common, followed, decides=decides)
            if refused := (*refused, *settings.impossible(accepted.data, common)):
                return None, refused
            config = self._in_cluster(accepted, common, membership.external if membership else None)
        kept = Identity.load(self._identity)
        if stored is not None:
            config = replace(config, datastore=replace(config.datastore, type=stored))
            kept = replace(kept, datastore=stored.value) if kept else None
        name = config.node.name or (kept.name if kept else node_name(facts))
        refused = kept.refuses(Identity.of(config, name)) if kept else ()
        # What a node once began with it may keep in its document, whatever was restored on it since.
        if self._known is None or accepted.digest != self._known.digest:
            refused += given.refuses(config, self._authority)
        if refused or (refused := self._fact_failures(config, facts)):
            return None, refused
        if membership and config.role.has_control_plane and address not in known:
            return None, (_moved(address, known),)
        peers = membership.peers if membership else ()
        virtual = config.cluster.virtual_address
        card = facts.card(virtual) if virtual else None
        rotation = Rotation.load(self.membership.with_name(ROTATION))
        policies = Noticed.load(self.membership.with_name(POLICIES)) is not None
        node = Node(
            *(config, name, address, _nameservers(), known, peers, stated, followed, card, rotation, policies)
        )
        if config.cluster.is_dual_stack:
            node = replace(node, ipv6=_ipv6(config, address, facts))
        if config.features.load_balancer.enabled:
            node = replace(node, networks=facts.interfaces, links=facts.links)
        return node, ()

    def _in_cluster(
        self, accepted: Accepted, common: settings.Settings, external: Mapping[str, Any] | None
    ) -> Config:
        """Return what a document means in a cluster; the same Config as long as nothing changes.

        external: the cluster's way into an etcd that somebody else runs, as others have told it
        """
        key = (accepted.digest, common, external)
        if self._merged is None or self._merged[0] != key:
            self._merged = (key, Config.from_dict(settings.merged(accepted.data, common, external)))
        return self._merged[1]

    def _fact_failures(self, config: Config, facts: Facts) -> tuple[Failure, ...]:
        from firstboot.validate import check_facts

        return tuple(check_facts(config, facts))

    def _follow(self, accepted: Accepted, node: Node) -> None:
        """Follow the node from now on; a new one is recorded before anything is done for it."""
        if self._followed == (accepted, node):
            return
        if Identity.load(self._identity) is None:
            Identity.of(node.config, node.name).save(self._identity)
        if self._known is None or self._known.digest != accepted.digest:
            sources.remember(accepted, self._root)
            self._known = accepted
        self._followed = (accepted, node)

    @property
    def membership(self) -> Path:
        """Where the record of a node that has joined is."""
        return self._root / paths.STATE.relative_to("/") / "membership.json"

    @property
    def followed(self) -> Path:
        """Where the record of the settings is that the node follows."""
        return self.membership.with_name(FILE)

    @property
    def _identity(self) -> Path:
        return self._root / paths.STATE.relative_to("/") / "identity.json"

    @property
    def _authority(self) -> Path:
        return self._root / paths.PKI.relative_to("/") / "ca.crt"

    def _worth_saying(self, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        if self._clock() - self._started < ADDRESS_PATIENCE:
            return tuple(failure for failure in failures if failure.code not in TRANSIENT)
        return failures


def node_name(facts: Facts) -> str:
    """Return the host name if it says something, else one that is the machine's own."""
    plain = re.sub(r"[^a-z0-9-]+", "-", facts.hostname.lower().partition(".")[0]).strip("-")
    return f"basalt-{facts.machine_id[:8]}" if plain in GENERIC_HOSTNAMES else plain[:63].strip("-")


def _common(
    config: Config, membership: Membership | None, followed: Followed | None, stored: DatastoreType | None
) -> settings.Settings | None:
    """Return the settings of the node's cluster, None where these are what its document says.

    stored: what the datastore was moved to
    """
    if config.joins and membership is None:
        return None
    known = followed.settings if followed else membership.settings if config.joins and membership else None
    return known if known is None or stored is None else settings.stored_in(known, stored)


def _differences(
    stated: settings.Values, common: settings.Settings, followed: Followed | None, *, decides: bool
) -> tuple[Failure, ...]:
    """Return what a document says anew about the settings of its cluster and cannot have.

    decides: whether the cluster is to become what this document says
    """
    news = settings.news(stated, followed.document if followed else {})
    if not decides:
        return settings.conflicts(news, common)
    from firstboot.cluster.changes import differing

    known = settings.flat(common)
    return tuple(
        replace(settings.fixed(path, known[path]), path=f"basalt.{path}")
        for path in (differing(common, news) if news else {})
        if path in settings.FIXED
    )


def _moved(address: str, known: tuple[str, ...]) -> Failure:
    """Return why a control plane that others know cannot have this address."""
    return Failure(
        Code.FIXED_SETTING,
        "basalt.node.ip",
        f"is {address}, and the control planes that this cluster knows are {', '.join(known)}",
        "Give the machine its old address back; members of a datastore are known by their addresses.",
    )


def _addresses(facts: Facts, node: Node | None) -> tuple[str, ...]:
    own = tuple(address for name, address in facts.named_addresses if name != "lo")
    if node is None:
        return own
    return (*node.ips, *(address for address in own if address not in node.ips))


def _ipv6(config: Config, beside: str, facts: Facts) -> Ipv6:
    """Return what the node has of IPv6, which `check_facts` has seen to be there."""
    address, card = config.node.ipv6 or facts.ipv6_beside(beside), facts.having(beside)
    assert address is not None and card is not None, "check_facts looks for them"
    return Ipv6(address, card, facts.mtus[card])


def _nameservers() -> tuple[str, ...]:
    """Return the name servers of the machine's networks; a resolver of the machine itself would be a loop."""
    text = (files.read_or_none(paths.RESOLV_CONF) or b"").decode(errors="replace")
    words = (line.split() for line in text.splitlines())
    servers = (word[1].partition("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver")
    return tuple(server for server in servers if not server.startswith("127."))
