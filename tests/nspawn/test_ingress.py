# SPDX-License-Identifier: Apache-2.0
"""HTTP from a machine beside the nodes to servers behind them: by Ingresses and by the Gateway API, on every node.

Containers run no pods, so the Services have endpoints that are written by hand: plain servers on the same network.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstboot.pki import ca, leaf
from firstboot.pki.ca import Authority
from firstboot.pki.leaf import CertificateSpec, Usage
from firstboot.report.status import Phase, State
from image import components, declaration
from image.vm.fleet import address
from tests.node import JOIN_TOKEN
from tests.objects import ingress

from .cluster import CONTROL_PLANES, JOINED_SECONDS, WORKER, Cluster
from .container import Container, Tree
from .host import empty
from .web import Answer, Question, ask, running, serving

FIRST = CONTROL_PLANES[0]
BACKENDS = {"blue": address(60), "green": address(61)}
PROXY, STRANGER = address(70), address(71)
BALANCED = address(90)
CLAIMED = "203.0.113.9"
PORT, GRPC_PORT = 8080, 9090
FOLLOWED_SECONDS = 60.0
"""Until what was applied or set is served, on a busy host."""
COMPLAINT = "journalctl -u traefik --grep 'is no certificate with its key' --quiet"
STOPPED = "! systemctl is-active --quiet traefik"
TIMES = 60
"""Requests that show how traffic is divided."""


@dataclass
class Web:
    """A control plane and a worker that serve, two servers behind them and two clients before them."""

    cluster: Cluster
    clients: dict[str, str]
    authority: Authority
    program: Path

    @property
    def first(self) -> Container:
        """The control plane."""
        return self.cluster.nodes[FIRST]

    def ask(self, node: Container, host: str, path: str = "/", by: str = STRANGER, **more: Any) -> Answer:
        """Ask a node for a page; `ca=True` means HTTPS with a certificate of the test's authority."""
        if more.get("ca") is True:
            more["ca"] = self.authority.certificate.read_text()
        return ask(self.clients[by], Question(node.address, host, path, **more))

    def call(self, node: Container, method: str) -> str | None:
        """Call a method of gRPC with "hello", and return what it says, None for an error."""
        argv = [str(self.program), "grpc", f"{node.address}:80", "grpc.example.org", method, "hello"]
        entered = ["ip", "netns", "exec", self.clients[STRANGER], *argv]
        done = subprocess.run(entered, capture_output=True, timeout=60)
        said: str = json.loads(done.stdout).get("body", "")
        return said if done.returncode == 0 else None

    def wait(
        self, what: str, question: Callable[[Container], Answer], good: Callable[[Answer], object]
    ) -> None:
        """Wait until every node answers as it should."""
        for node in self.cluster.nodes.values():
            node.wait_until(what, partial(lambda each: good(question(each)), node), FOLLOWED_SECONDS)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        self.first.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def pair(self, *names: str) -> dict[str, str]:
        """Return the data of a Secret with a certificate for these names."""
        spec = CertificateSpec(names[0], self.authority, names[0], dns_names=names, usages=(Usage.SERVER,))
        made = leaf.issue(spec, ca.load(self.authority))
        return {"tls.crt": made.certificate.decode(), "tls.key": made.key.decode()}

    def settings(self, *values: str) -> None:
        """Set and wait until all nodes are Ready with it."""
        self.first.run(["basalt", "set", *values])
        self.cluster.wait_whole()


@pytest.fixture(scope="module")
def web(able: None, tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Ingress is on from the first boot, the Gateway API is switched on by a test."""
    folder = tmp_path_factory.mktemp("authority")
    authority = Authority("test", "a test's CA", folder / "ca.crt", folder / "ca.key", None)
    ca.apply(authority)
    program = components.build(declaration.load("testpod")).folder / "testpod"
    with empty("dqlite", tree) as cluster, ExitStack() as stack:
        features = {"ingress": {"enabled": True}}
        founds = {"token": JOIN_TOKEN, "bootstrap": True}
        cluster.add(FIRST, {"version": 1, "role": "control-plane", "cluster": founds, "features": features})
        joins = {"token": JOIN_TOKEN, "endpoints": [address(1)]}
        cluster.add(WORKER, {"version": 1, "role": "worker", "cluster": joins})
        for name, where in BACKENDS.items():
            wire = cluster.wires.place(name, where)
            stack.enter_context(serving(wire.namespace, where, PORT, name))
            stack.enter_context(running(program, wire.namespace, f"{where}:{GRPC_PORT}"))
        clients = {
            each: cluster.wires.place(f"client{n}", each).namespace
            for n, each in enumerate((PROXY, STRANGER))
        }
        web = Web(cluster, clients, authority, program)
        cluster.wait_whole()
        for name in BACKENDS:
            web.apply(*backend(name, "default"))
        yield web


def backend(name: str, namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a Service for one of the servers."""
    metadata = {"name": name, "namespace": namespace}
    labels = {"kubernetes.io/service-name": name}
    ports = [{"name": "http", "port": 80}, {"name": "grpc", "port": GRPC_PORT}]
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [BACKENDS[name]], "conditions": {"ready": True}}],
            "ports": [
                {"name": "http", "port": PORT, "protocol": "TCP"},
                {"name": "grpc", "port": GRPC_PORT, "protocol": "TCP"},
            ],
        },
    )


def secret(name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    """Return a Secret with a certificate."""
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": metadata,
        "stringData": data,
    }


def rule(host: str, path: str, service: str, kind: str = "Prefix") -> dict[str, Any]:
    """Return a rule of an Ingress."""
    target = {"service": {"name": service, "port": {"number": 80}}}
    return {"host": host, "http": {"paths": [{"path": path, "pathType": kind, "backend": target}]}}


def served_by(name: str) -> Callable[[Answer], bool]:
    """Return whether an answer came through, from that server."""
    return lambda answer: answer.status == 200 and answer.seen.get("name") == name


def succeeds(node: Container, command: str) -> bool:
    """Return whether a command does."""
    return node.run(command, check=False).ok


def has_status(code: int) -> Callable[[Answer], bool]:
    """Return whether an answer has this status."""
    return lambda answer: answer.status == code


def test_hosts_and_paths_lead_to_their_services(web: Web) -> None:
    rules = [
        rule("shop.example.org", "/", "blue"),
        rule("shop.example.org", "/cart", "green"),
        rule("shop.example.org", "/exact", "green", "Exact"),
        rule("shop.example.org", "/deep/in", "green"),
        rule("shop.example.org", "/deep/in", "blue", "Exact"),
        rule("*.wild.example.org", "/", "green"),
        rule("wiki.example.org", "/", "green"),
    ]
    tls = [{"hosts": ["shop.example.org"], "secretName": "shop"}]
    web.apply(
        secret("shop", "default", web.pair("shop.example.org")),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {"rules": rules, "tls": tls},
        },
    )
    web.wait("serves", lambda node: web.ask(node, "shop.example.org"), served_by("blue"))
    for node in web.cluster.nodes.values():
        for host, path, name in (
            ("shop.example.org", "/anything", "blue"),
            ("shop.example.org", "/cart/7", "green"),
            ("shop.example.org", "/cartoon", "blue"),
            ("shop.example.org", "/exact", "green"),
            ("shop.example.org", "/exact/no", "blue"),
            ("shop.example.org", "/deep/in", "blue"),
            ("shop.example.org", "/deep/in/it", "green"),
            ("wiki.example.org", "/", "green"),
            ("any.wild.example.org", "/cart", "green"),
        ):
            answer = web.ask(node, host, path)
            assert served_by(name)(answer), (node.name, host, path, answer)
            assert answer.seen["path"] == path
            assert answer.seen["headers"]["x-forwarded-for"] == STRANGER
        assert web.ask(node, "example.net").status == 404


def test_a_host_has_the_certificate_of_its_secret(web: Web) -> None:
    web.wait("has it", lambda node: web.ask(node, "shop.example.org", ca=True), served_by("blue"))
    for node in web.cluster.nodes.values():
        assert "certificate verify failed" in web.ask(node, "other.example.org", ca=True).error


def test_an_ingress_tells_where_the_nodes_are(web: Web) -> None:
    def told() -> list[str]:
        found = web.first.get("ingress", "shop")["status"]["loadBalancer"].get("ingress", ())
        return sorted(each["ip"] for each in found)

    wanted = sorted(node.address for node in web.cluster.nodes.values())
    web.first.wait_until("the addresses are told", lambda: told() == wanted, FOLLOWED_SECONDS)
    # Of the class that is named nowhere in it.
    assert web.first.get("ingress", "shop")["spec"]["ingressClassName"] == "basalt"


def test_an_ingress_from_before_there_was_a_class(web: Web) -> None:
    """The API server adds the default class when an Ingress is made, and never to one that is there."""
    web.apply(ingress("early", "early.example.org", "blue"))
    question = partial(web.ask, host="early.example.org")
    web.wait("serves its class", question, served_by("blue"))
    # Another server, since one that is not served any more might still answer for a moment.
    server = "/spec/rules/0/http/paths/0/backend/service/name"
    changes = [
        {"op": "remove", "path": "/spec/ingressClassName"},
        {"op": "replace", "path": server, "value": "green"},
    ]
    web.first.kubectl("patch", "ingress", "early", "--type=json", "-p", json.dumps(changes))
    assert "ingressClassName" not in web.first.get("ingress", "early")["spec"]
    web.wait("serves it without a class", question, served_by("green"))
    web.first.kubectl("annotate", "ingress", "early", "kubernetes.io/ingress.class=other")
    web.wait("leaves it to the other", question, has_status(404))
    web.first.kubectl("delete", "ingress", "early")


def test_all_other_names_have_the_default_certificate(web: Web) -> None:
    refused = web.first.run("basalt set features.ingress.default-tls-secret=wildcard", check=False)
    assert refused.code == 1 and "secret-missing" in refused.stderr
    web.apply(secret("wildcard", "kube-system", web.pair("*.example.org")))
    web.settings("features.ingress.default-tls-secret=wildcard")
    question = partial(web.ask, host="other.example.org", ca=True)
    web.wait("has the default certificate", question, has_status(404))
    # It is read anew, and one that is broken is not taken.
    web.apply(secret("wildcard", "kube-system", web.pair("*.example.com")))
    web.wait("has the new one", partial(web.ask, host="other.example.com", ca=True), has_status(404))
    web.apply(secret("wildcard", "kube-system", {**web.pair("*.example.net"), "tls.key": "none"}))
    for node in web.cluster.nodes.values():
        node.wait_until("it says so", partial(succeeds, node, COMPLAINT), FOLLOWED_SECONDS)
        assert question(node).status == 0 and web.ask(node, "other.example.com", ca=True).status == 404


def test_a_proxy_that_is_trusted_tells_who_asks(web: Web) -> None:
    web.settings("features.ingress.enable-proxy-protocol=true", f"features.ingress.trusted-proxies=[{PROXY}]")

    def seen(node: Container, by: str) -> str | None:
        headers: dict[str, str] = web.ask(node, "shop.example.org", by=by, claims=CLAIMED).seen.get(
            "headers", {}
        )
        return headers.get("x-forwarded-for")

    for node in web.cluster.nodes.values():
        node.wait_until(
            "it believes the proxy",
            partial(lambda each: seen(each, PROXY) == CLAIMED, node),
            FOLLOWED_SECONDS,
        )
        assert seen(node, STRANGER) != CLAIMED
        assert web.ask(node, "shop.example.org").seen["headers"]["x-forwarded-for"] == STRANGER
    refused = web.first.run("basalt set features.ingress.trusted-proxies=[]", check=False)
    assert refused.code == 2 and "missing-key" in refused.stderr
    web.settings("features.ingress.enable-proxy-protocol=false")


ROUTED = "edge.example.org"


def route(name: str, namespace: str, rules: list[dict[str, Any]], host: str = ROUTED) -> dict[str, Any]:
    """Return an HTTPRoute of the Gateway."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "edge", "namespace": "default"}],
            "hostnames": [host],
            "rules": rules,
        },
    }


def to(*names: str, weights: tuple[int, ...] = (), namespace: str | None = None) -> list[dict[str, Any]]:
    """Return backendRefs."""
    found: list[dict[str, Any]] = [{"name": name, "port": 80} for name in names]
    for each, weight in zip(found, weights, strict=False):
        each["weight"] = weight
    return [{**each, "namespace": namespace} if namespace else each for each in found]


@pytest.fixture(scope="module")
def gateway(web: Web) -> Web:
    """A Gateway with a listener for HTTP and one for HTTPS."""
    web.first.run("basalt enable gateway")
    web.cluster.wait_whole()
    known = partial(web.first.kubectl, "get", "gatewayclass", "basalt", check=False)
    web.first.wait_until("there is a class", lambda: known().ok, FOLLOWED_SECONDS)
    everywhere = {"namespaces": {"from": "All"}}
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "edge"}]}
    web.apply(
        secret("edge", "default", web.pair(ROUTED)),
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "default"},
            "spec": {
                "gatewayClassName": "basalt",
                "listeners": [
                    {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": everywhere},
                    {
                        "name": "https",
                        "port": 443,
                        "protocol": "HTTPS",
                        "tls": tls,
                        "allowedRoutes": everywhere,
                    },
                ],
            },
        },
    )
    return web


def conditions(web: Web, *what: str) -> dict[str, str]:
    """Return the conditions of an object, those of a route as its first parent has them."""
    status = web.first.get(*what).get("status", {})
    if "parents" in status:
        status = next(iter(status["parents"]), {})
    return {each["type"]: each["status"] for each in status.get("conditions", ())}


def test_a_gateway_is_accepted_and_tells_where_the_nodes_are(gateway: Web) -> None:
    def programmed() -> bool:
        found = conditions(gateway, "gateway", "edge")
        return found.get("Accepted") == found.get("Programmed") == "True"

    gateway.first.wait_until("the Gateway is programmed", programmed, FOLLOWED_SECONDS)
    assert conditions(gateway, "gatewayclass", "basalt")["Accepted"] == "True"
    found = gateway.first.get("gateway", "edge")["status"]
    wanted = sorted(node.address for node in gateway.cluster.nodes.values())
    assert sorted(each["value"] for each in found["addresses"]) == wanted


def test_routes_match_filter_and_divide(gateway: Web) -> None:
    header = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "X-Colour", "value": "blue"}]},
    }
    rewrite = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
    redirect = {"scheme": "https", "hostname": "www.example.org", "statusCode": 301}
    rules: list[dict[str, Any]] = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/blue"}}],
            "backendRefs": to("blue"),
            "filters": [header],
        },
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
            "backendRefs": to("green"),
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": rewrite}}],
        },
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/away"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": redirect}],
        },
        {"matches": [{"headers": [{"name": "X-Want", "value": "green"}]}], "backendRefs": to("green")},
        {"matches": [{"method": "POST"}], "backendRefs": to("green")},
        {"matches": [{"queryParams": [{"name": "want", "value": "blue"}]}], "backendRefs": to("blue")},
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/both"}}],
            "backendRefs": to("blue", "green", weights=(3, 1)),
        },
    ]
    gateway.apply(route("edge", "default", rules))
    gateway.wait("routes", lambda node: gateway.ask(node, ROUTED, "/blue"), served_by("blue"))
    for node in gateway.cluster.nodes.values():
        get = partial(gateway.ask, node, ROUTED)
        assert get("/blue/1").seen["headers"]["x-colour"] == "blue"
        assert get("/old/1").seen["path"] == "/new/1"
        away = get("/away/1")
        assert (away.status, away.headers["location"]) == (301, "https://www.example.org/away/1")
        assert served_by("green")(get("/", headers={"X-Want": "green"}))
        assert served_by("green")(get("/", method="POST"))
        assert served_by("blue")(get("/?want=blue"))
        assert get("/").status == 404
        assert served_by("blue")(get("/blue", ca=True)), "over HTTPS, with the listener's certificate"
        shares = Counter(get("/both").seen["name"] for _ in range(TIMES))
        assert shares["blue"] > shares["green"] > 0, shares


def test_grpc_is_routed_by_its_methods(gateway: Web) -> None:
    rules = [
        {
            "matches": [{"method": {"service": "echo.Echo", "method": "Say"}}],
            "backendRefs": [{"name": "blue", "port": GRPC_PORT}],
        }
    ]
    spec = {"parentRefs": [{"name": "edge"}], "hostnames": ["grpc.example.org"], "rules": rules}
    metadata = {"name": "echo", "namespace": "default"}
    version = "gateway.networking.k8s.io/v1"
    gateway.apply({"apiVersion": version, "kind": "GRPCRoute", "metadata": metadata, "spec": spec})

    def says_hello(node: Container) -> bool:
        return gateway.call(node, "echo.Echo/Say") == "hello"

    for node in gateway.cluster.nodes.values():
        node.wait_until("the method is served", partial(says_hello, node), FOLLOWED_SECONDS)
        assert gateway.call(node, "echo.Echo/Shout") is None
    assert conditions(gateway, "grpcroute", "echo") == {"Accepted": "True", "ResolvedRefs": "True"}


def test_another_namespace_is_reached_by_its_leave(gateway: Web) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
    gateway.apply(namespace, *backend("green", "team"))
    rules = [{"backendRefs": to("green", namespace="team")}]
    gateway.apply(route("team", "default", rules, "team.example.org"))

    def resolved() -> str | None:
        return conditions(gateway, "httproute", "team").get("ResolvedRefs")

    gateway.first.wait_until("it is refused", lambda: resolved() == "False", FOLLOWED_SECONDS)
    assert conditions(gateway, "httproute", "team")["Accepted"] == "True"
    assert gateway.ask(gateway.first, "team.example.org").status == 500
    leave = {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}]}
    gateway.apply(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "ReferenceGrant",
            "metadata": {"name": "edge", "namespace": "team"},
            "spec": {**leave, "to": [{"group": "", "kind": "Service"}]},
        }
    )
    gateway.first.wait_until("it is resolved", lambda: resolved() == "True", FOLLOWED_SECONDS)
    gateway.wait("reaches it", lambda node: gateway.ask(node, "team.example.org"), served_by("green"))


def test_a_load_balancer_gives_it_an_address(gateway: Web) -> None:
    def told(wanted: list[str]) -> bool:
        found = gateway.first.get("ingress", "shop")["status"]["loadBalancer"].get("ingress", ())
        return sorted(each["ip"] for each in found) == wanted

    span = f"features.load-balancer.cidrs=[{BALANCED}]"
    gateway.settings(span, "features.load-balancer.l2-mode=true", "features.load-balancer.enabled=true")
    gateway.first.wait_until("the address is told", partial(told, [BALANCED]), FOLLOWED_SECONDS)
    page = partial(ask, gateway.clients[STRANGER], Question(BALANCED, "shop.example.org"))
    gateway.first.wait_until("it is served there", lambda: served_by("blue")(page()), FOLLOWED_SECONDS)
    assert page().seen["headers"]["x-forwarded-for"] == STRANGER
    gateway.first.run("basalt disable load-balancer")
    nodes = sorted(node.address for node in gateway.cluster.nodes.values())
    gateway.first.wait_until("those of the nodes are told", partial(told, nodes), FOLLOWED_SECONDS)
    gateway.cluster.wait_whole()


def test_it_serves_while_no_api_server_does(gateway: Web) -> None:
    worker = gateway.cluster.nodes[WORKER]
    gateway.first.run("systemctl kill --signal=STOP kube-apiserver")
    try:
        assert served_by("blue")(gateway.ask(worker, "shop.example.org"))
        worker.run("systemctl kill --signal=KILL traefik")
        # It does not know any more what to serve, and waits for who does.
        assert gateway.ask(worker, "shop.example.org").status != 200
    finally:
        gateway.first.run("systemctl kill --signal=CONT kube-apiserver")
    gateway.wait("serves again", lambda node: gateway.ask(node, "shop.example.org"), served_by("blue"))
    gateway.cluster.wait_whole()


def test_switched_off_it_leaves_nothing(gateway: Web) -> None:
    refused = gateway.first.run("basalt disable ingress gateway", check=False)
    assert refused.code == 1 and "feature-in-use" in refused.stderr
    assert "Ingress default/shop" in refused.stderr and "Gateway default/edge" in refused.stderr
    gateway.first.run("basalt disable ingress gateway --force")
    for node in gateway.cluster.nodes.values():
        node.wait_until("Traefik has stopped", partial(succeeds, node, STOPPED), FOLLOWED_SECONDS)
        assert gateway.ask(node, "shop.example.org").status == 0
    kinds = "services,endpointslices,clusterroles,clusterrolebindings,ingressclasses,gatewayclasses"

    def left() -> list[str]:
        names = gateway.first.kubectl("get", kinds, "--all-namespaces", "--output=name").stdout.split()
        ours = ("/ingress", "/basalt:ingress", "/basalt:gateway", "class.networking.k8s.io/basalt")
        return [
            name for name in names if name.endswith((*ours, "gatewayclass.gateway.networking.k8s.io/basalt"))
        ]

    gateway.first.wait_until("nothing of it is left", lambda: not left(), FOLLOWED_SECONDS)
    # What is the user's stays: switched on again, it is served again.
    assert gateway.first.get("gateway", "edge") and gateway.first.get("ingress", "shop")
    gateway.cluster.wait_whole()
    status = gateway.first.wait_for_phase(Phase.READY, JOINED_SECONDS)
    assert (status.features["ingress"].state, status.features["gateway"].state) == (State.OFF, State.OFF)
