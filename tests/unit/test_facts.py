# SPDX-License-Identifier: Apache-2.0
"""Facts out of a made-up machine, and what a document needs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firstboot.codes import Code
from firstboot.config import Config
from firstboot.facts import Facts
from firstboot.run import RunError
from firstboot.validate import check_facts


def link(name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    infos = [
        {"local": ip, "prefixlen": int(prefix), "scope": "host" if name == "lo" else "global", **more}
        for ip, _, prefix in (address.partition("/") for address in addresses)
    ]
    return {"ifname": name, "addr_info": infos}


LINKS = [
    link("lo", "127.0.0.1/8"),
    link("eth0", "192.0.2.10/24"),
    {**link("eth1", "198.51.100.7/25", "2001:db8::7/64"), "mtu": 9000},
    link("eth4", "198.51.100.100/32", protocol="keepalived"),
    link("eth2", "203.0.113.9/24", tentative=True),
    link("cni0", "10.1.0.1/24"),
    link("flannel.1", "10.1.0.0/32"),
    link("basalt-dns", "10.152.183.10/32"),
    {"ifname": "eth3", "addr_info": [{"local": "fe80::1", "prefixlen": 64, "scope": "link"}]},
    {},
]
ROUTES = [
    {"dst": "default", "gateway": "198.51.100.1", "dev": "eth1", "protocol": "dhcp", "metric": 2048},
    {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "dhcp", "metric": 1024},
    {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link"},
    {"dst": "10.0.0.0/8", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "static"},
    {"dst": "10.1.0.0/24", "dev": "cni0", "protocol": "kernel"},
    {"dst": "10.1.7.0/24", "gateway": "192.0.2.17", "dev": "eth0", "protocol": "boot"},
    {"type": "unreachable", "dst": "10.77.0.0/24", "dev": "lo", "protocol": "static"},
]
ROUTES_6 = [{"dst": "fe80::/64", "dev": "eth0", "protocol": "kernel"}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's files; /usr lies on the second slot."""
    contents = {
        "proc/sys/kernel/hostname": "node-1\n",
        "proc/sys/kernel/random/boot_id": "b007\n",
        "proc/meminfo": "MemFree: 1 kB\nMemTotal:        2048000 kB\n",
        "proc/self/mountinfo": "20 1 254:1 / / rw - ext4 x rw\n21 20 254:0 / /usr ro - erofs y ro\n",
        "sys/devices/system/cpu/online": "0-2,5\n",
        "sys/dev/block/254:0/slaves/vda6/partition": "6\n",
        "sys/dev/block/254:0/slaves/vda7/partition": "7\n",
        "etc/machine-id": "abc\n",
        "usr/lib/os-release": 'NAME="Basalt"\n# no\nIMAGE_VERSION="0.1.0"\n',
    }
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `ip` that answers with the files of the folder it returns."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ip"
    script.write_text(f'#!/bin/sh\nexec cat "{folder}/$(echo "$*" | tr -d " ")"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    answer(folder, LINKS, ROUTES, ROUTES_6)
    return folder


def answer(folder: Path, links: Any, routes: Any, routes6: Any = ()) -> None:
    (folder / "-jsonaddressshow").write_text(json.dumps(links) + "\n")
    (folder / "-jsonrouteshow").write_text(json.dumps(routes) + "\n")
    # `ip` prints nothing at all when there is nothing.
    (folder / "-json-6routeshow").write_text(json.dumps(routes6) + "\n" if routes6 else "")


def test_gather(root: Path, ip: Path) -> None:
    assert Facts.gather(root) == Facts(
        hostname="node-1",
        addresses={"eth0": ("192.0.2.10/24",), "eth1": ("198.51.100.7/25", "2001:db8::7/64")},
        routes=(("192.0.2.0/24", "eth0"), ("10.0.0.0/8", "eth0")),
        default_address="192.0.2.10",
        memory=2048000 * 1024,
        cpus=4,
        boot_id="b007",
        machine_id="abc",
        image_version="0.1.0",
        image_slot="B",
        links=("eth0", "eth1", "eth4", "eth2", "eth3"),
        mtus={"eth1": 9000},
    )


@pytest.mark.parametrize(
    ("links", "routes", "expected"),
    [
        ([link("lo", "127.0.0.1/8")], [], None),
        ([link("eth0", "192.0.2.10/24"), link("eth1", "198.51.100.7/24")], [], "192.0.2.10"),
        ([link("cni0", "10.1.0.1/24"), link("eth0", "192.0.2.10/24")], [], "192.0.2.10"),
        ([link("eth0", "2001:db8::7/64")], [], None),
        (
            [link("eth0", "192.0.2.10/24", "192.0.2.11/24")],
            [{"dst": "default", "dev": "eth0", "prefsrc": "192.0.2.11"}],
            "192.0.2.11",
        ),
        ([link("eth0"), link("eth1", "192.0.2.10/24")], [{"dst": "default", "dev": "eth0"}], "192.0.2.10"),
    ],
)
def test_default_address(root: Path, ip: Path, links: Any, routes: Any, expected: str | None) -> None:
    answer(ip, links, routes)
    assert Facts.gather(root).default_address == expected


def test_a_failing_ip_is_told(root: Path, ip: Path) -> None:
    (ip / "-jsonaddressshow").unlink()
    with pytest.raises(RunError, match="ip -json address show"):
        Facts.gather(root)


def test_gather_on_a_machine_that_is_no_node(tmp_path: Path, ip: Path) -> None:
    facts = Facts.gather(tmp_path)
    assert (facts.image_version, facts.image_slot, facts.memory) == ("", "", 0)


FACTS = Facts(
    hostname="node-1",
    addresses={"eth0": ("192.0.2.10/24",), "eth1": ("10.1.9.9/24",)},
    routes=(("10.0.0.0/8", "eth0"), ("10.152.183.128/25", "eth0")),
    default_address="192.0.2.10",
    memory=4 * 1024**3,
)
CLEAR = {"pod-cidr": "172.16.0.0/16", "service-cidr": "172.17.0.0/24"}


@pytest.mark.parametrize(
    ("document", "facts", "expected"),
    [
        ({"cluster": CLEAR}, FACTS, []),
        ({"cluster": CLEAR, "node": {"ip": "10.1.9.9"}}, FACTS, []),
        (
            {"cluster": CLEAR, "node": {"ip": "192.0.2.99"}},
            FACTS,
            [(Code.NOT_ON_NODE, "basalt.node.ip", "192.0.2.10 (eth0), 10.1.9.9 (eth1)")],
        ),
        ({"cluster": CLEAR, "status": {"listen": "127.0.0.1:9180"}}, FACTS, []),
        (
            {"cluster": CLEAR, "status": {"listen": "192.0.2.99:9180"}},
            FACTS,
            [(Code.NOT_ON_NODE, "basalt.status.listen", "192.0.2.99")],
        ),
        ({"cluster": {**CLEAR, "virtual-address": "192.0.2.100"}}, FACTS, []),
        (
            {"cluster": {**CLEAR, "virtual-address": "10.1.9.9"}},
            FACTS,
            [(Code.BAD_ADDRESS, "basalt.cluster.virtual-address", "this machine's own")],
        ),
        (
            {"cluster": {**CLEAR, "virtual-address": "198.51.100.1"}},
            FACTS,
            [(Code.NOT_CONNECTED, "basalt.cluster.virtual-address", "192.0.2.0/24 (eth0), 10.1.9.0/24")],
        ),
        (
            {"cluster": {**CLEAR, "virtual-address": "192.0.2.255"}},
            FACTS,
            [(Code.NOT_CONNECTED, "basalt.cluster.virtual-address", "no host of a network")],
        ),
        (
            {"role": "worker", "cluster": {**CLEAR, "virtual-address": "198.51.100.1"}},
            FACTS,
            [],
        ),
        (
            {"role": "worker", "cluster": {**CLEAR, "virtual-address": "10.1.9.9"}},
            FACTS,
            [(Code.BAD_ADDRESS, "basalt.cluster.virtual-address", "this machine's own")],
        ),
        (
            {},
            FACTS,
            [
                (Code.NETWORK_TAKEN, "basalt.cluster.pod-cidr", "10.1.9.0/24 on eth1"),
                (Code.NETWORK_TAKEN, "basalt.cluster.service-cidr", "10.152.183.128/25 by eth0"),
            ],
        ),
        (
            {"cluster": CLEAR},
            Facts(hostname="x", memory=1024**3),
            [
                (Code.NO_ADDRESS, "basalt.node.ip", "no IPv4 address"),
                (Code.LITTLE_MEMORY, "basalt.role", "1024 MiB"),
            ],
        ),
        (
            {"cluster": CLEAR, "node": {"ip": "192.0.2.1"}},
            Facts(hostname="x", memory=4 * 1024**3),
            [(Code.NOT_ON_NODE, "basalt.node.ip", "the node has none")],
        ),
    ],
)
def test_document_and_node(
    document: dict[str, Any], facts: Facts, expected: list[tuple[str, str, str]]
) -> None:
    found = check_facts(Config.from_dict({"role": "control-plane", **document}), facts)
    assert [(each.code, each.path) for each in found] == [(code, path) for code, path, _ in expected]
    for failure, (_, _, words) in zip(found, expected, strict=True):
        assert words in failure.found


def test_a_worker_needs_less_memory() -> None:
    facts = Facts(hostname="x", default_address="192.0.2.10", memory=1024**3)
    assert check_facts(Config.from_dict({"role": "worker"}), facts) == []
