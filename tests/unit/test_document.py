# SPDX-License-Identifier: Apache-2.0
"""A document's values: each mistake gets one failure, at its place, in plain words."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import jsonschema
import pytest
import yaml

from firstboot import schema, schemacheck
from firstboot.codes import Code
from firstboot.config import Config, NetworkBackend, Role
from firstboot.failure import DocumentError, Failure
from firstboot.validate import check_document, check_text, validate_file

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def document(body: str, role: str = "role: control-plane\n") -> str:
    return "#cloud-config\nbasalt:\n" + indent(role + dedent(body), "  ")


def failures(text: str) -> tuple[Failure, ...]:
    with pytest.raises(DocumentError) as caught:
        check_text(text, "FILE")
    return caught.value.failures


TOKEN = "0123456789abcdef0123456789abcdef"

BAD = [
    # body below `role: control-plane`, code, path below basalt, words of finding and remedy
    ("nod:\n  name: a\n", Code.UNKNOWN_KEY, "nod", ["line 4", "`nod`", "Write `node`"]),
    ("cluster: {pod_cidr: 10.0.0.0/16}", Code.UNKNOWN_KEY, "cluster.pod_cidr", ["Write `pod-cidr`"]),
    ("pod-cidr: 10.0.0.0/16", Code.UNKNOWN_KEY, "pod-cidr", ["Write it as `basalt.cluster.pod-cidr`"]),
    ("cluster: {zzz: 1}", Code.UNKNOWN_KEY, "cluster.zzz", ["Possible here", "`api-address`"]),
    ("services: {kubelets: {}}", Code.UNKNOWN_KEY, "services.kubelets", ["`kubelet`"]),
    ("version: 2", Code.NOT_A_CHOICE, "version", ["`2`", "Write `1`"]),
    ('version: "1"', Code.WRONG_TYPE, "version", ["whole number"]),
    ("version: true", Code.WRONG_TYPE, "version", ["truth value"]),
    ("version: 1.0", Code.WRONG_TYPE, "version", ["1.0"]),
    ("node:", Code.NO_VALUE, "node", ["nothing"]),
    ("node: {name: }", Code.NO_VALUE, "node.name", ["remove the key"]),
    ("node: []", Code.WRONG_TYPE, "node", ["a list", "keys with values"]),
    ("node: {name: [a]}", Code.WRONG_TYPE, "node.name", ["a list", "text"]),
    ("node: {name: Node_1}", Code.BAD_VALUE, "node.name", ["`Node_1`", "lower-case"]),
    ("node: {name: " + "a" * 64 + "}", Code.BAD_VALUE, "node.name", ["64 characters", "at most 63"]),
    ("node: {name: |\n    a\n  }", Code.YAML_SYNTAX, None, []),
    ("node:\n  name: |\n    a\n", Code.LINE_BREAK, "node.name", ["one line"]),
    ("node: {ip: 192.0.2.1/24}", Code.BAD_ADDRESS, "node.ip", ["without a prefix"]),
    ("node: {ip: 192.0.2.01}", Code.BAD_ADDRESS, "node.ip", ["leading zeros"]),
    ('node: {ip: "2001:db8::1"}', Code.WRONG_FAMILY, "node.ip", ["IPv6"]),
    ("node: {ip: 127.0.0.1}", Code.BAD_ADDRESS, "node.ip", ["reached"]),
    ("node: {ip: 10.1.2.3}", Code.INSIDE_NETWORK, "node.ip", ["`pod-cidr` 10.1.0.0/16"]),
    ("node: {ip: 10.152.183.9}", Code.INSIDE_NETWORK, "node.ip", ["`service-cidr`"]),
    # what YAML 1.1 reads where text is wanted
    ("node: {labels: {country: no}}", Code.QUOTE_IT, "node.labels.country", ["`no`", "false", '"no"']),
    ("node: {labels: {a: on}}", Code.QUOTE_IT, "node.labels.a", ["true", '"on"']),
    ("node: {labels: {a: Yes}}", Code.QUOTE_IT, "node.labels.a", ['"Yes"']),
    ("node: {labels: {a: 1.10}}", Code.QUOTE_IT, "node.labels.a", ["number 1.1", '"1.10"']),
    ("node: {labels: {a: 010}}", Code.QUOTE_IT, "node.labels.a", ["number 8", '"010"']),
    ("node: {labels: {a: 0x1f}}", Code.QUOTE_IT, "node.labels.a", ["number 31"]),
    ("node: {labels: {a: 12:30:45}}", Code.QUOTE_IT, "node.labels.a", ["number 45045", '"12:30:45"']),
    ("node: {labels: {a: 2026-11-23}}", Code.QUOTE_IT, "node.labels.a", ["date", '"2026-11-23"']),
    ("node: {labels: {a: ~}}", Code.QUOTE_IT, "node.labels.a", ["`~`", "nothing"]),
    ("node: {labels: {a: .nan}}", Code.QUOTE_IT, "node.labels.a", ["`.nan`"]),
    ("node: {labels: {a: " + "9" * 5000 + "}}", Code.BAD_TAG, "node.labels.a", ["quotes"]),
    ("node: {labels: {a: 2026-13-45}}", Code.BAD_TAG, "node.labels.a", ["quotes"]),
    ("services: {kubelet: {extra-args: {v: 4}}}", Code.QUOTE_IT, "services.kubelet.extra-args.v", ['"4"']),
    ("features: {dns: {enabled: 'no'}}", Code.WRONG_TYPE, "features.dns.enabled", ["without quotes"]),
    ("features: {network: {backend: vlan}}", Code.NOT_A_CHOICE, "features.network.backend", ["`vxlan`"]),
    ("datastore: {type: mysql}", Code.NOT_A_CHOICE, "datastore.type", ["`dqlite` or `etcd`"]),
    # joining a cluster
    ("cluster: {token: short}", Code.BAD_TOKEN, "cluster.token", ["guessed", "openssl rand"]),
    ("cluster: {token: 12345678901234567890123456789012345}", Code.QUOTE_IT, "cluster.token", ["in quotes"]),
    ("cluster: {token: a b}", Code.BAD_VALUE, "cluster.token", ["without blanks"]),
    ("cluster: {bootstrap: true}", Code.MISSING_KEY, "cluster.token", ["nobody can join"]),
    (f"cluster: {{token: {TOKEN}}}", Code.MISSING_KEY, "cluster.endpoints", ["`bootstrap: true`"]),
    (
        f"cluster: {{token: {TOKEN}, endpoints: ['https://a:6401']}}",
        Code.BAD_ADDRESS,
        "cluster.endpoints[0]",
        ["without scheme"],
    ),
    (
        f"cluster: {{token: {TOKEN}, endpoints: ['a:0']}}",
        Code.BAD_ADDRESS,
        "cluster.endpoints[0]",
        ["port"],
    ),
    # labels and taints
    ("node: {labels: {-a: b}}", Code.BAD_NAME, "node.labels.-a", ["label key"]),
    ("node: {labels: {a: b/c}}", Code.BAD_VALUE, "node.labels.a", ["`b/c`"]),
    (
        "node: {labels: {node-role.kubernetes.io/worker: ''}}",
        Code.RESTRICTED_LABEL,
        "node.labels[node-role.kubernetes.io/worker]",
        ["kubectl"],
    ),
    (
        "node: {labels: {kubernetes.io/hostname: a}}",
        Code.RESTRICTED_LABEL,
        "node.labels[kubernetes.io/hostname]",
        [],
    ),
    ("node: {taints: a:NoSchedule}", Code.WRONG_TYPE, "node.taints", ["`- `"]),
    ("node: {taints: [a:Never]}", Code.BAD_VALUE, "node.taints[0]", ["`a:Never`", "NoExecute"]),
    ("node: {taints: [a=1:NoExecute, a:NoExecute]}", Code.DUPLICATE_TAINT, "node.taints[1]", ["item 0"]),
    # networks
    ("cluster: {pod-cidr: 10.1.0.0}", Code.BAD_NETWORK, "cluster.pod-cidr", ["`10.1.0.0/16`"]),
    ("cluster: {pod-cidr: pods}", Code.BAD_NETWORK, "cluster.pod-cidr", ["CIDR"]),
    ("cluster: {pod-cidr: 10.1.0.0/255.255.0.0}", Code.BAD_NETWORK, "cluster.pod-cidr", ["prefix length"]),
    ("cluster: {pod-cidr: 10.1.2.3/16}", Code.HOST_BITS, "cluster.pod-cidr", ["Write `10.1.0.0/16`"]),
    ('cluster: {pod-cidr: "fd00::/48"}', Code.WRONG_FAMILY, "cluster.pod-cidr", ["IPv4"]),
    ("cluster: {pod-cidr: 10.1.0.0/25}", Code.NETWORK_SIZE, "cluster.pod-cidr", ["too small", "8 to 24"]),
    ("cluster: {service-cidr: 10.2.0.0/29}", Code.NETWORK_SIZE, "cluster.service-cidr", ["small"]),
    ("cluster: {service-cidr: 10.0.0.0/11}", Code.NETWORK_SIZE, "cluster.service-cidr", ["large"]),
    ("cluster: {pod-cidr: 224.0.0.0/8}", Code.BAD_NETWORK, "cluster.pod-cidr", ["special"]),
    (
        "cluster: {pod-cidr: 10.128.0.0/9}",
        Code.OVERLAP,
        "cluster.pod-cidr",
        ["10.152.183.0/24 (its default)"],
    ),
    ("cluster: {service-cidr: 10.1.4.0/24}", Code.OVERLAP, "cluster.service-cidr", ["`pod-cidr`"]),
    (
        "cluster: {pod-cidr: 10.5.0.0/16, service-cidr: 10.5.1.0/24}",
        Code.OVERLAP,
        "cluster.pod-cidr",
        ["`service-cidr`, which is 10.5.1.0/24"],
    ),
    ("cluster: {domain: Cluster.Local}", Code.BAD_VALUE, "cluster.domain", ["lower case"]),
    (
        "cluster: {api-address: 'https://api:6443'}",
        Code.BAD_ADDRESS,
        "cluster.api-address",
        ["without scheme"],
    ),
    ("cluster: {api-address: 'api:6443'}", Code.BAD_ADDRESS, "cluster.api-address", ["without scheme"]),
    ("cluster: {api-address: 192.0.2.300}", Code.BAD_ADDRESS, "cluster.api-address", []),
    ("cluster: {api-address: 127.0.0.1}", Code.BAD_ADDRESS, "cluster.api-address", ["each client"]),
    ("cluster: {virtual-address: vip}", Code.BAD_ADDRESS, "cluster.virtual-address", ["IPv4"]),
    ("cluster: {virtual-address: '2001:db8::1'}", Code.WRONG_FAMILY, "cluster.virtual-address", []),
    ("cluster: {virtual-address: 169.254.1.1}", Code.BAD_ADDRESS, "cluster.virtual-address", []),
    ("cluster: {virtual-address: 10.1.0.9}", Code.INSIDE_NETWORK, "cluster.virtual-address", ["`pod-cidr`"]),
    (
        "cluster: {virtual-address: 10.152.183.9}",
        Code.INSIDE_NETWORK,
        "cluster.virtual-address",
        ["`service-cidr`", "for the API"],
    ),
    (
        "node: {ip: 192.0.2.9}\ncluster: {virtual-address: 192.0.2.9}",
        Code.BAD_ADDRESS,
        "cluster.virtual-address",
        ["own `node.ip`", "no machine has"],
    ),
    ("cluster: {virtual-router-id: 51}", Code.BAD_VALUE, "cluster.virtual-router-id", ["`virtual-address`"]),
    (
        "cluster: {virtual-address: 192.0.2.9, virtual-router-id: 256}",
        Code.BAD_VALUE,
        "cluster.virtual-router-id",
        ["1 to 255"],
    ),
    (
        "features: {dns: {service-ip: 10.9.9.9}}",
        Code.OUTSIDE_NETWORK,
        "features.dns.service-ip",
        ["10.152.183.10"],
    ),
    (
        "features: {dns: {service-ip: 10.152.183.1}}",
        Code.BAD_ADDRESS,
        "features.dns.service-ip",
        ["`kubernetes`"],
    ),
    (
        "features: {dns: {upstream-nameservers: [192.0.2.53, dns.example.org]}}",
        Code.BAD_ADDRESS,
        "features.dns.upstream-nameservers[1]",
        ["no IP address"],
    ),
    (
        "features: {dns: {upstream-nameservers: [10.152.183.10]}}",
        Code.BAD_ADDRESS,
        "features.dns.upstream-nameservers[0]",
        ["itself"],
    ),
    # the rest
    ("status: {listen: '9180'}", Code.BAD_VALUE, "status.listen", ["`address:port`"]),
    ("status: {listen: '0.0.0.0:6443'}", Code.PORT_IN_USE, "status.listen", ["Kubernetes API"]),
    ("status: {listen: '0.0.0.0:31000'}", Code.PORT_IN_USE, "status.listen", ["NodePort"]),
    ("status: {listen: '0.0.0.0:70000'}", Code.BAD_VALUE, "status.listen", ["65535"]),
    ("status: {listen: '0.0.0.300:9180'}", Code.BAD_ADDRESS, "status.listen", []),
    (
        "services: {kube-apiserver: {extra-args: {etcd-servers: x}}}",
        Code.OWNED_ARGUMENT,
        "services.kube-apiserver.extra-args.etcd-servers",
        ["datastore.type"],
    ),
    (
        "services: {kubelet: {extra-args: {node_ip: x}}}",
        Code.OWNED_ARGUMENT,
        "services.kubelet.extra-args.node_ip",
        ["node.ip"],
    ),
    (
        "services: {etcd: {extra-args: {unsafe-no-fsync: 'true'}}}",
        Code.OWNED_ARGUMENT,
        "services.etcd.extra-args.unsafe-no-fsync",
        ["lost"],
    ),
    (
        "services: {coredns: {extra-args: {version: ''}}}",
        Code.OWNED_ARGUMENT,
        "services.coredns.extra-args.version",
        [],
    ),
    (
        "services: {kubelet: {extra-args: {--v: '4'}}}",
        Code.BAD_NAME,
        "services.kubelet.extra-args.--v",
        ["without leading dashes"],
    ),
    (
        "services: {kubelet: {extra-args: {v: '4 --anonymous-auth'}}}",
        Code.BAD_VALUE,
        "services.kubelet.extra-args.v",
        ["white space"],
    ),
    ("time: {servers: ['ntp://x']}", Code.BAD_VALUE, "time.servers[0]", ["host name"]),
    (
        "registries: {mirrors: {docker.io: []}}",
        Code.BAD_VALUE,
        "registries.mirrors[docker.io]",
        ["at least 1"],
    ),
    (
        "registries: {mirrors: {docker.io: ['ftp://x']}}",
        Code.BAD_VALUE,
        "registries.mirrors[docker.io][0]",
        ["http"],
    ),
    (
        "registries: {mirrors: {'https://docker.io': ['https://x']}}",
        Code.BAD_NAME,
        "registries.mirrors[https://docker.io]",
        ["host"],
    ),
    ("registries: {mirrors: {../x: ['https://x']}}", Code.BAD_NAME, "registries.mirrors[../x]", []),
    (
        "registries: {mirrors: {docker.io: ['https://x:port/']}}",
        Code.BAD_URL,
        "registries.mirrors[docker.io][0]",
        [],
    ),
    ("proxy: {http: proxy:3128}", Code.BAD_VALUE, "proxy.http", ["`http://proxy.example.org:3128`"]),
    ("proxy: {https: 'http://proxy:3128/path'}", Code.BAD_URL, "proxy.https", []),
    ("proxy: {no-proxy: 'a, b'}", Code.WRONG_TYPE, "proxy.no-proxy", ["list"]),
    ("access: {client-ca: x}", Code.BAD_VALUE, "access.client-ca", ["PEM"]),
    (
        "access: {client-ca: '-----BEGIN CERTIFICATE-----'}",
        Code.BAD_CERTIFICATE,
        "access.client-ca",
        ["BEGIN and END"],
    ),
]


@pytest.mark.parametrize(("body", "code", "path", "words"), BAD, ids=lambda value: str(value)[:50])
def test_one_mistake_one_failure(body: str, code: Code, path: str | None, words: list[str]) -> None:
    found = failures(document(body))
    assert [(each.code, each.path) for each in found] == [(code, f"basalt.{path}" if path else "FILE")]
    for word in words:
        assert word in f"{found[0].found} {found[0].remedy}"
    assert "\n" not in str(found[0]) and len(str(found[0])) < 450


@pytest.mark.parametrize(
    ("cluster", "path", "word"),
    [
        ("{}", "basalt.cluster.token", "needs a token"),
        (f"{{token: {TOKEN}}}", "basalt.cluster.endpoints", "does not know where"),
        (
            f"{{token: {TOKEN}, bootstrap: true, endpoints: [a]}}",
            "basalt.cluster.bootstrap",
            "cannot start a cluster",
        ),
    ],
)
def test_a_worker_knows_where_and_by_what_it_joins(cluster: str, path: str, word: str) -> None:
    [found] = failures(document(f"cluster: {cluster}\n", role="role: worker\n"))
    assert (found.path, word in found.found) == (path, True)


def test_a_token_is_never_repeated_in_a_failure() -> None:
    for text in ("hush-hush", "hush hush", "[hush-hush]", "hush-hush: 1", '"hush-hush\\nhush-hush"'):
        for failure in failures(document(f"cluster:\n  token: {text}\n")):
            assert "hush" not in str(failure), text


def test_role_is_required() -> None:
    found = failures(document("node: {name: a}\n", role=""))
    assert [(each.code, each.path) for each in found] == [(Code.MISSING_KEY, "basalt.role")]
    assert "`role: control-plane` or `role: worker`" in found[0].remedy


def test_all_mistakes_at_once_in_the_order_of_the_document() -> None:
    text = document(
        """\
        node:
          ip: 10.9.0.1
          labels: {a: no}
        cluster:
          service-cidr: 10.9.0.0/29
          pod-cidr: 10.9.0.0/16
        sttus: {}
        """
    )
    # The service network is wrong, so nothing is said about how it goes with others.
    assert [(each.code, each.path) for each in failures(text)] == [
        (Code.INSIDE_NETWORK, "basalt.node.ip"),
        (Code.QUOTE_IT, "basalt.node.labels.a"),
        (Code.NETWORK_SIZE, "basalt.cluster.service-cidr"),
        (Code.UNKNOWN_KEY, "basalt.sttus"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        'proxy: {http: "http://user:s3cret@proxy:x"}',
        'proxy: {http: "ftp://user:s3/cret@proxy"}',
        'registries: {mirrors: {docker.io: ["https://user:s3cret@mirror"]}}',
        "proxy:\n  http: http://user:s3cret@proxy\n  https: [\n",
        'node: {name: "-----BEGIN EC PRIVATE KEY-----s3cret"}',
        "access:\n  client-ca: |\n    -----BEGIN EC PRIVATE KEY-----\n    s3cret\n",
    ],
)
def test_secrets_are_not_repeated(body: str) -> None:
    found = failures(document(body))
    assert len(found) == 1
    assert "s3" not in str(found[0])


def test_merged_configuration_is_checked_without_places() -> None:
    found = check_document({"role": "control-plane", "node": {"labels": {"country": False}}, "x": 1})
    assert [(each.code, each.path) for each in found] == [
        (Code.QUOTE_IT, "basalt.node.labels.country"),
        (Code.UNKNOWN_KEY, "basalt.x"),
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    config = validate_file(example)
    assert config.role is (Role.WORKER if example.stem == "worker" else Role.CONTROL_PLANE)


def test_full_example_has_every_key() -> None:
    given = yaml.safe_load((EXAMPLES[0].parent / "full.yaml").read_text())["basalt"]
    for path in schemacheck.property_paths(schema.load("user-data")):
        if path[0] == "certificates" or path[:2] == ("datastore", "external"):
            # It would have a private key in it; and the latter goes with another type of datastore.
            continue
        value: Any = given
        for key in path:
            assert key in value, f"{path} is missing in examples/full.yaml"
            value = value[key]
    assert Config.from_dict(given).features.network.backend is NetworkBackend.WIREGUARD


def schema_values(body: str) -> Any:
    try:
        return yaml.safe_load(document(body))["basalt"]
    except (yaml.YAMLError, ValueError):
        return None


def test_our_schema_check_agrees_with_jsonschema() -> None:
    loaded = schema.load("user-data")
    jsonschema.Draft7Validator.check_schema(loaded)
    # Draft 4 is what cloud-init checks with; to it, as to us, 1.0 is no integer.
    validator = jsonschema.Draft4Validator(loaded)
    ours = schemacheck.Check(loaded, {})
    values = [schema_values(body) for body, *_ in BAD]
    values += [yaml.safe_load(example.read_text())["basalt"] for example in EXAMPLES]
    values += [[], "x", 3, {}, {"role": []}, {"role": None}]
    compared = 0
    for value in values:
        if value is None:
            continue
        theirs = {tuple(error.absolute_path) for error in validator.iter_errors(value)}
        mine = ours.failures(value, ())
        # Ours are stricter about line breaks and private keys only.
        if {failure.code for failure in mine} & {Code.LINE_BREAK, Code.PRIVATE_KEY}:
            continue
        assert bool(mine) == bool(theirs), value
        compared += 1
    assert compared > 80


def test_schema_uses_only_what_our_check_knows() -> None:
    def check(each: dict[str, Any], path: str) -> None:
        unknown = set(each) - schemacheck.KEYWORDS
        assert not unknown, f"{path} uses {unknown}"
        if each.get("type") == "object":
            assert each["additionalProperties"] is False, path
        assert "$ref" in each or {"title", "description", "type"} <= set(each), path
        for keyword in ("properties", "patternProperties", "definitions"):
            for name, inner in each.get(keyword, {}).items():
                check(inner, f"{path}.{name}")
        if "items" in each:
            check(each["items"], f"{path}[]")

    check(schema.load("user-data"), "basalt")


def test_defaults_and_examples_of_the_schema_pass_it() -> None:
    def check(each: dict[str, Any]) -> None:
        values = [each["default"]] if "default" in each else []
        for value in values + each.get("examples", []):
            part = {**each, "definitions": loaded["definitions"]}
            assert not schemacheck.Check(part, {}).failures(value, ("x",))
        for inner in each.get("properties", {}).values():
            check(inner)

    loaded = schema.load("user-data")
    check(loaded)
