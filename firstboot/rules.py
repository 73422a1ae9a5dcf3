# SPDX-License-Identifier: Apache-2.0
"""Rules that no schema can say: what values mean, and how they go together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from firstboot.cluster.tokens import BadToken, Token
from firstboot.codes import Code
from firstboot.config import DNS_ADDRESS_INDEX, Cluster, DatastoreType, Role
from firstboot.datastores import ASK_ITS_OWNER, NOT_OURS
from firstboot.failure import BasaltError, Failure
from firstboot.loadbalancer import rules as balanced
from firstboot.owned import reason
from firstboot.schemacheck import show
from firstboot.strictyaml import Path, Place, show_path
from firstboot.values import (
    UNUSABLE,
    Network,
    Sizes,
    endpoint_url,
    is_host_name,
    is_restricted,
    networks_problem,
    parse_ip,
    split_port,
    split_url,
)

POD_CIDR: Path = ("basalt", "cluster", "pod-cidr")
SERVICE_CIDR: Path = ("basalt", "cluster", "service-cidr")
DNS_IP: Path = ("basalt", "features", "dns", "service-ip")
INGRESS: Path = ("basalt", "features", "ingress")
NODE_IP: Path = ("basalt", "node", "ip")
NODE_IPV6: Path = ("basalt", "node", "ipv6")
ONE_MASK: Path = ("basalt", "services", "kube-controller-manager", "extra-args", "node-cidr-mask-size")
API_ADDRESS: Path = ("basalt", "cluster", "api-address")
VIRTUAL_ADDRESS: Path = ("basalt", "cluster", "virtual-address")
VIRTUAL_ROUTER: Path = ("basalt", "cluster", "virtual-router-id")

DEFAULTS: Mapping[Path, str] = {POD_CIDR: Cluster.pod_cidr, SERVICE_CIDR: Cluster.service_cidr}

# The controller manager hands out at most 2^16 node networks, each a /24 and a /64. A million Services are enough for
# anybody; before version 1.34 the API server took no larger network.
PREFIXES: Mapping[Path, Sizes] = {
    POD_CIDR: {4: (8, 24), 6: (48, 64)},
    SERVICE_CIDR: {4: (12, 28), 6: (108, 120)},
}
SECOND: Mapping[Path, str] = {POD_CIDR: "fd01::/48", SERVICE_CIDR: "fd98::/112"}
"""What a remedy names as an IPv6 network."""

PORTS = {
    53: "cluster DNS",
    80: "ingress and gateway",
    443: "ingress and gateway",
    179: "BGP of the load balancer",
    2379: "etcd",
    2380: "etcd",
    2381: "etcd",
    6400: "the REST API",
    6401: "the API for nodes",
    6443: "the Kubernetes API",
    9000: "dqlite",
    10248: "kubelet",
    10249: "kube-proxy",
    10250: "kubelet",
    10251: "metrics-server",
    10252: "traefik",
    10256: "kube-proxy",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
}
NODE_PORTS = range(30000, 32768)

TOKEN: Path = ("basalt", "cluster", "token")
BOOTSTRAP: Path = ("basalt", "cluster", "bootstrap")
ENDPOINTS: Path = ("basalt", "cluster", "endpoints")
DATASTORE_TYPE: Path = ("basalt", "datastore", "type")
EXTERNAL: Path = ("basalt", "datastore", "external")


class Rules:
    """One document under the rules.

    data:   value of the key ``basalt``
    failed: paths, as users see them, at which something is already wrong: rules that need them keep silent
    now:    when certificates have to be valid
    """

    def __init__(self, data: Any, places: Mapping[Path, Place], failed: set[str], now: datetime) -> None:
        self.data, self.places, self.now = data, places, now
        self.failed = set(failed)
        self.failures: list[Failure] = []

    def check(self) -> list[Failure]:
        """Return what breaks a rule, at most one failure per place."""
        self.networks()
        self.dns()
        self.ingress()
        self.node_addresses()
        self.api_address()
        self.virtual_address()
        balanced.check(self)
        self.joining()
        self.labels()
        self.taints()
        self.listen()
        self.arguments()
        self.urls()
        self.client_ca()
        self.cluster_ca()
        self.recipient()
        self.external()
        return self.failures

    def value(self, path: Path) -> Any:
        """Return what the document says at the path, None when it says nothing there or something wrong."""
        found = self.data
        for depth, key in enumerate(path[1:], start=1):
            if self.is_bad(path[: depth + 1]) or not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def entries(self, path: Path) -> Iterator[tuple[Path, Any]]:
        """Return path and value of each good entry of a mapping or list."""
        found = self.value(path)
        pairs = found.items() if isinstance(found, dict) else enumerate(found or ())
        for key, value in pairs:
            if not self.is_bad((*path, key)):
                yield (*path, key), value

    def is_bad(self, path: Path) -> bool:
        """Whether something is already wrong at the path itself."""
        return show_path(path) in self.failed

    def fail(self, code: Code, path: Path, found: str, remedy: str) -> None:
        """Note a failure; only the first one of a place counts."""
        shown = show_path(path)
        if shown in self.failed:
            return
        place = self.places.get(path)
        self.failed.add(shown)
        self.failures.append(Failure(code, shown, f"{place}: {found}" if place else found, remedy))

    def networks_at(self, path: Path) -> tuple[Network, ...]:
        """Return the networks at the path or the default: IPv4, then IPv6; none when the document has wrong ones."""
        text = self.value(path)
        if text is None:
            return () if self.bad_above(path) else (ip_network(DEFAULTS[path]),)
        if problem := networks_problem(text, PREFIXES[path]):
            self.fail(problem[0], path, problem[1], problem[2])
            return ()
        return tuple(ip_network(each) for each in text.split(","))

    def bad_above(self, path: Path) -> bool:
        """Whether something is already wrong at the path or above it."""
        return any(self.is_bad(path[:depth]) for depth in range(1, len(path) + 1))

    def networks(self) -> None:
        """The networks of the cluster are networks, of a useful size, of the same versions, and apart."""
        found = {path: self.networks_at(path) for path in (POD_CIDR, SERVICE_CIDR)}
        if not all(found.values()):
            return
        path, other = POD_CIDR, SERVICE_CIDR
        if self.value(POD_CIDR) is None:
            path, other = SERVICE_CIDR, POD_CIDR
        default = "" if self.value(other) else " (its default)"
        for mine, theirs in zip(found[path], found[other], strict=False):
            if mine.overlaps(theirs):
                self.fail(
                    Code.OVERLAP,
                    path,
                    f"{mine} overlaps with `{other[-1]}`, which is {theirs}{default}",
                    "Choose two networks that share no address.",
                )
        self._both_or_neither(found)

    def _both_or_neither(self, found: Mapping[Path, tuple[Network, ...]]) -> None:
        """Where pods have IPv6 addresses Services have them too."""
        path, other = sorted(found, key=lambda each: len(found[each]))
        if len(found[path]) == len(found[other]):
            return
        default = "" if self.value(path) else ", its default,"
        have = f"{found[path][0]}{default} has no IPv6 network beside it, and `{other[-1]}` has one"
        wanted = f"{found[path][0]},{SECOND[path]}"
        remedy = f"Write `{path[-1]}: {wanted}`, or take {found[other][1]} out of `{other[-1]}`."
        # What is not in the document is no place to look at.
        if self.value(path):
            self.fail(Code.WRONG_FAMILY, path, have, remedy)
        else:
            self.fail(Code.WRONG_FAMILY, other, f"`{path[-1]}` {have}", remedy)

    def dns(self) -> None:
        """Cluster DNS has an address of the service network that nothing else has; it does not ask itself."""
        text = self.value(DNS_IP)
        services = None if self.is_bad(SERVICE_CIDR) else next(iter(self.networks_at(SERVICE_CIDR)), None)
        address = None if text is None else self.address(DNS_IP, text)
        if address is not None and services is not None:
            if address not in services:
                self.fail(
                    Code.OUTSIDE_NETWORK,
                    DNS_IP,
                    f"{address} is not in the service network {services}",
                    f"Choose one of its addresses, e.g. {services[DNS_ADDRESS_INDEX]}, or remove the key.",
                )
            elif address in (services[0], services[1], services[-1]):
                use = "the Service `kubernetes`" if address == services[1] else "the network itself"
                self.fail(
                    Code.BAD_ADDRESS,
                    DNS_IP,
                    f"{address} belongs to {use}",
                    f"Choose another address of {services}, e.g. {services[DNS_ADDRESS_INDEX]}.",
                )
        self._nameservers(text or (str(services[DNS_ADDRESS_INDEX]) if services else ""))

    def _nameservers(self, own: str) -> None:
        for path, text in self.entries(("basalt", "features", "dns", "upstream-nameservers")):
            host, port = split_port(text)
            if parse_ip(host) is None or not 0 < port <= 65535:
                self.fail(
                    Code.BAD_ADDRESS,
                    path,
                    f"`{show(text)}` is no IP address",
                    "Write an IP address, with a port where it is not 53, e.g. `192.0.2.53:5353`.",
                )
            elif host == own:
                self.fail(
                    Code.BAD_ADDRESS,
                    path,
                    f"{host} is cluster DNS itself",
                    "Name servers that know the names outside the cluster.",
                )

    def ingress(self) -> None:
        """Proxies that tell who asks are known, and then believed."""
        enabled, trusted = INGRESS + ("enable-proxy-protocol",), INGRESS + ("trusted-proxies",)
        listed = list(self.entries(trusted))
        for path, text in listed:
            try:
                ip_network(text)
            except ValueError:
                self.fail(
                    Code.BAD_NETWORK,
                    path,
                    f"`{show(text)}` is no address and no network",
                    "Write an address or a network without host bits, e.g. `192.0.2.10` or `192.0.2.0/24`.",
                )
        if self.value(enabled) is True and not listed and not self.is_bad(trusted):
            self.fail(
                Code.MISSING_KEY,
                trusted,
                "nobody is named who may tell who asks",
                "Name the proxies before the nodes. Whoever is named can claim any address.",
            )

    def address(self, path: Path, text: str, version: int = 4) -> IPv4Address | IPv6Address | None:
        """Return the address, or note why it is none that a node or Service can have."""
        address = parse_ip(text)
        if address is None:
            example = "192.0.2.10" if version == 4 else "fd00::10"
            hint = " and without a prefix length" if "/" in text else ""
            self.fail(
                Code.BAD_ADDRESS,
                path,
                f"`{show(text)}` is no IP address",
                f"Write an IPv{version} address such as {example}, without leading zeros{hint}.",
            )
        elif address.version != version:
            remedy = f"Write an IPv{version} address."
            self.fail(Code.WRONG_FAMILY, path, f"{address} is IPv{address.version}", remedy)
        elif text != str(address):
            remedy = f"Write `{address}`."
            self.fail(Code.BAD_ADDRESS, path, f"{text} is {address}, written otherwise", remedy)
        elif any(address in network for network in UNUSABLE):
            self.fail(
                Code.BAD_ADDRESS,
                path,
                f"{address} cannot be reached by other machines",
                "Write another address.",
            )
        else:
            return address
        return None

    def node_addresses(self) -> None:
        """The node's addresses are some, and lie outside the cluster's own networks."""
        self._outside_networks(NODE_IP, "for the node")
        self._outside_networks(NODE_IPV6, "for the node", 6)

    def _outside_networks(self, own: Path, whose: str, version: int = 4) -> IPv4Address | IPv6Address | None:
        """Return the address at a path if it is one that lies outside the cluster's networks, or note why not."""
        text = self.value(own)
        address = None if text is None else self.address(own, text, version)
        for path in (POD_CIDR, SERVICE_CIDR):
            networks = () if self.bad_above(path) else self.networks_at(path)
            network = next((each for each in networks if address is not None and address in each), None)
            if network is not None:
                self.fail(
                    Code.INSIDE_NETWORK,
                    own,
                    f"{address} lies in `{path[-1]}` {network}",
                    f"Choose another `{path[-1]}`, or another address {whose}.",
                )
                return None
        return address

    def api_address(self) -> None:
        """The API's address is a name or an address and nothing more."""
        path, text = API_ADDRESS, self.value(API_ADDRESS)
        if text is None:
            return
        address = parse_ip(text)
        if address is not None:
            if address.is_loopback or address.is_unspecified or address.is_multicast:
                self.fail(
                    Code.BAD_ADDRESS,
                    path,
                    f"{address} means another machine to each client",
                    "Write an address that all clients reach.",
                )
            return
        if is_host_name(text):
            return
        remedy = "Write a host name or an IP address."
        if "://" in text or re.search(r":\d+$", text):
            remedy = "Write only the host name or address, without scheme and port."
        self.fail(Code.BAD_ADDRESS, path, f"`{show(text)}` is no host name and no address", remedy)

    def virtual_address(self) -> None:
        """The address that control planes carry is no machine's own, and its router id is for nothing else."""
        address = self._outside_networks(VIRTUAL_ADDRESS, "for the API")
        if address is not None and self.value(NODE_IP) == str(address):
            self.fail(
                Code.BAD_ADDRESS,
                VIRTUAL_ADDRESS,
                f"{address} is this machine's own `node.ip`",
                "Choose an address of the same network that no machine has.",
            )
        alone = self.value(VIRTUAL_ROUTER) is not None and self.value(VIRTUAL_ADDRESS) is None
        if alone and not self.bad_above(VIRTUAL_ADDRESS):
            remedy = "Write `virtual-address` too, or remove `virtual-router-id`."
            self.fail(Code.BAD_VALUE, VIRTUAL_ROUTER, "there is no `virtual-address`", remedy)

    def joining(self) -> None:
        """A machine that joins knows where and by what; one that starts the cluster does not join."""
        bootstrap = self.value(BOOTSTRAP)
        worker = self.value(("basalt", "role")) == Role.WORKER
        self._token(self.value(TOKEN))
        token = self.value(TOKEN)
        for path, text in self.entries(ENDPOINTS):
            host, port = split_port(text, 6401)
            if not (parse_ip(host) or is_host_name(host)) or not 0 < port <= 65535:
                remedy = "Write a host name or an address without scheme, with a port where it is not 6401."
                self.fail(Code.BAD_ADDRESS, path, f"`{show(text)}` is no host", remedy)
        if worker and bootstrap:
            found = "a worker cannot start a cluster"
            self.fail(Code.BAD_VALUE, BOOTSTRAP, found, "Remove the key, or make it a control-plane.")
        elif worker and token is None and not self.bad_above(TOKEN):
            remedy = "Write the fleet's token, or one from `basalt get-join-token` on a control plane."
            self.fail(
                Code.MISSING_KEY, TOKEN, "a worker joins a cluster, and for that it needs a token", remedy
            )
        elif bootstrap and token is None and not self.bad_above(TOKEN):
            remedy = "Write the token that the other machines have too, or remove `bootstrap`."
            self.fail(Code.MISSING_KEY, TOKEN, "nobody can join the cluster that this machine starts", remedy)
        known = self.value(ENDPOINTS) or self.value(API_ADDRESS) or self.value(VIRTUAL_ADDRESS)
        if token is not None and self._joins() and not known and not self.bad_above(ENDPOINTS):
            remedy = "Write the address of one control plane or more, e.g. `endpoints: [192.0.2.10]`."
            found = "the machine joins a cluster and does not know where"
            if not worker:
                remedy += " On the one machine that starts the cluster write `bootstrap: true`."
            self.fail(Code.MISSING_KEY, ENDPOINTS, found, remedy)

    def _joins(self) -> bool:
        """Whether the machine becomes part of a cluster that another one starts."""
        worker = self.value(("basalt", "role")) == Role.WORKER
        return worker or (self.value(TOKEN) is not None and not self.value(BOOTSTRAP))

    def _token(self, text: str | None) -> None:
        try:
            if text is not None:
                Token.parse(text)
        except BadToken as error:
            remedy = "Take all that `basalt get-join-token` prints, or 32 random characters (`openssl rand -hex 32`)."
            self.fail(Code.BAD_TOKEN, TOKEN, str(error), remedy)

    def labels(self) -> None:
        """A node sets no label that the API server forbids a node to set."""
        for path, _ in self.entries(("basalt", "node", "labels")):
            key = str(path[-1])
            if is_restricted(key):
                self.fail(
                    Code.RESTRICTED_LABEL,
                    path,
                    f"a node may not set `{show(key)}` on itself",
                    "Use a key of your own domain, or set it with kubectl once the node is Ready.",
                )

    def taints(self) -> None:
        """A taint's key and effect stand only once."""
        seen: dict[tuple[str, str], int] = {}
        for path, text in self.entries(("basalt", "node", "taints")):
            key_value, _, effect = text.rpartition(":")
            identity = (key_value.partition("=")[0], effect)
            if identity in seen:
                self.fail(
                    Code.DUPLICATE_TAINT,
                    path,
                    f"`{show(text)}` has the key and effect of item {seen[identity]}",
                    "Keep one of the two.",
                )
            seen.setdefault(identity, int(path[-1]))

    def listen(self) -> None:
        """The status page listens where nothing else does."""
        path: Path = ("basalt", "status", "listen")
        text = self.value(path)
        if text is None:
            return
        host, port = split_port(text)
        if parse_ip(host) is None:
            self.fail(
                Code.BAD_ADDRESS,
                path,
                f"`{show(host)}` is no IP address",
                "Write `address:port`, e.g. `0.0.0.0:9180` for every interface.",
            )
        elif not 0 < port <= 65535:
            self.fail(
                Code.BAD_VALUE, path, f"{port} is no TCP port", "Write a port from 1 to 65535, e.g. 9180."
            )
        elif port in PORTS or port in NODE_PORTS:
            user = PORTS.get(port, "Services of type NodePort")
            self.fail(
                Code.PORT_IN_USE, path, f"port {port} belongs to {user}", "Choose another port, e.g. 9180."
            )

    def arguments(self) -> None:
        """No extra argument breaks what Basalt itself relies on."""
        for service, _ in self.entries(("basalt", "services")):
            for path, _ in self.entries((*service, "extra-args")):
                why = reason(str(service[-1]), str(path[-1]))
                if why:
                    self.fail(
                        Code.OWNED_ARGUMENT, path, f"`{show(path[-1])}` is Basalt's: {why}", "Remove it."
                    )
        if self.value(ONE_MASK) is not None and len(self.networks_at(POD_CIDR)) > 1:
            self.fail(
                Code.BAD_VALUE,
                ONE_MASK,
                "in a dual-stack cluster the networks of nodes have a length for each version",
                "Write `node-cidr-mask-size-ipv4`, `node-cidr-mask-size-ipv6` or both.",
            )

    def urls(self) -> None:
        """Mirrors and proxies can be asked."""
        for registry, _ in self.entries(("basalt", "registries", "mirrors")):
            for path, text in self.entries(registry):
                url = split_url(text)
                if url is None or url.query or url.fragment or url.username is not None:
                    self.fail(
                        Code.BAD_URL,
                        path,
                        f"`{show(text)}`",
                        "Write http or https, host, port and path only, e.g. `https://mirror.example.org/v2`.",
                    )
        for name in ("http", "https"):
            text = self.value(("basalt", "proxy", name))
            url = None if text is None else split_url(text)
            if text is not None and (url is None or url.path not in ("", "/") or url.query or url.fragment):
                self.fail(
                    Code.BAD_URL,
                    ("basalt", "proxy", name),
                    f"`{show(text)}`",
                    "Write scheme, host and port only, e.g. `http://proxy.example.org:3128`.",
                )

    def client_ca(self) -> None:
        """The client CA is made of certificates that can vouch for clients today."""
        path: Path = ("basalt", "access", "client-ca")
        text = self.value(path)
        if text is None:
            return
        from firstboot.pki.pasted import authority_problem

        if problem := authority_problem(text, self.now, "the clients'"):
            self.fail(Code.BAD_CERTIFICATE, path, *problem)

    def cluster_ca(self) -> None:
        """Only the machine that starts a cluster brings its CA, whose key fits and whom all clients can believe."""
        path: Path = ("basalt", "certificates", "ca")
        certificate, key = (self.value((*path, name)) for name in ("certificate", "key"))
        if self.value(path) is not None and self._joins():
            found = "a machine that joins is given the cluster's CA"
            self.fail(Code.BAD_VALUE, path, found, "Write it on the one machine that starts the cluster.")
        elif certificate is not None:
            from firstboot.pki import given, pasted

            if problem := given.certificate_problem(certificate, self.now):
                self.fail(Code.BAD_CERTIFICATE, (*path, "certificate"), *problem)
            if key is not None and (problem := pasted.key_problem(key, certificate)):
                self.fail(Code.BAD_KEY, (*path, "key"), *problem)

    def recipient(self) -> None:
        """Backups are sealed for a key that somebody can have the private half of."""
        path: Path = ("basalt", "datastore", "backup", "recipient")
        text = self.value(path)
        if text is None:
            return
        from firstboot.backup.locks import Recipient

        try:
            Recipient.of(text)
        except BasaltError as error:
            self.fail(Code.BAD_VALUE, path, str(error), error.hint)

    def external(self) -> None:
        """A datastore that somebody else runs is described whole, where there is one and nowhere else."""
        given = self.value(EXTERNAL)
        theirs = self.value(DATASTORE_TYPE) == DatastoreType.EXTERNAL
        worker = self.value(("basalt", "role")) == Role.WORKER
        if given is None:
            if theirs and not self._joins() and not self.bad_above(EXTERNAL):
                remedy = "Write its `endpoints`, `ca`, `client-certificate` and `client-key` below it."
                self.fail(Code.MISSING_KEY, EXTERNAL, "no `external`, which `type` says", remedy)
        elif worker:
            found, remedy = (
                "a worker has no datastore",
                "Remove it: a worker need not have the key to all data.",
            )
            self.fail(Code.BAD_VALUE, EXTERNAL, found, remedy)
        elif not theirs and not self.bad_above(DATASTORE_TYPE):
            remedy = "Write `type: external`, or remove `external`."
            self.fail(Code.BAD_VALUE, EXTERNAL, "`type` is not `external`", remedy)
        if theirs and self.value(("basalt", "datastore", "backup")) is not None:
            path: Path = ("basalt", "datastore", "backup")
            self.fail(Code.NOT_POSSIBLE, path, NOT_OURS, f"Remove the key. {ASK_ITS_OWNER}")
        self._endpoints()
        self._credentials()

    def _endpoints(self) -> None:
        seen: dict[str, int] = {}
        known = (path for path in (POD_CIDR, SERVICE_CIDR) if not self.bad_above(path))
        inside = [network for path in known for network in self.networks_at(path)]
        for path, text in self.entries((*EXTERNAL, "endpoints")):
            url = endpoint_url(text)
            address = None if url is None else parse_ip(str(url.hostname))
            if url is None:
                remedy = (
                    "Write `https://`, a host and a port and nothing more, e.g. `https://192.0.2.5:2379`."
                )
                if text.lower().startswith("http://"):
                    remedy = "Have etcd serve https with client certificates, and write `https://`."
                self.fail(Code.BAD_URL, path, f"`{show(text)}`", remedy)
            elif address is not None and (
                address.is_loopback or address.is_unspecified or address.is_multicast
            ):
                found = f"{address} is another machine for each control plane, or none"
                self.fail(Code.BAD_ADDRESS, path, found, "Write an address that all control planes reach.")
            elif address is not None and any(address in network for network in inside):
                remedy = "Choose other networks for the cluster: packets to this address would stay in it."
                self.fail(Code.INSIDE_NETWORK, path, f"{address} lies in the pod or service network", remedy)
            elif (place := f"{url.hostname}:{url.port}") in seen:
                found = f"`{show(text)}` is item {seen[place]} once more"
                self.fail(Code.BAD_VALUE, path, found, "Write each endpoint once.")
            else:
                seen[place] = int(path[-1])

    def _credentials(self) -> None:
        """The authority can vouch for servers, and the key belongs to a certificate that is a client's today."""
        ca, certificate, key = ((*EXTERNAL, name) for name in ("ca", "client-certificate", "client-key"))
        vouches, shown, private = (self.value(path) for path in (ca, certificate, key))
        if (vouches, shown, private) == (None, None, None):
            return
        from firstboot.pki import pasted

        if vouches and (problem := pasted.authority_problem(vouches, self.now, "those of etcd's members")):
            self.fail(Code.BAD_CERTIFICATE, ca, *problem)
        if shown and (problem := pasted.client_problem(shown, self.now)):
            self.fail(Code.BAD_CERTIFICATE, certificate, *problem)
        if shown and private and (problem := pasted.key_problem(private, shown)):
            self.fail(Code.BAD_KEY, key, *problem)
