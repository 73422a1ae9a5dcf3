# SPDX-License-Identifier: Apache-2.0
"""The units of the image: systemd understands them, and ours have no more rights than they need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from image.vm.place import ROOT
from tests.image import units
from tests.image.built import tool

OVERLAY = ROOT / "overlays" / units.FOLDER

# What every service of ours is under.
CONFINED = {
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}
# What a service is not under, and why.
WAIVED: dict[str, tuple[frozenset[str], str]] = {
    "basalt.service": (
        frozenset({
            *("PrivateDevices", "ProtectHostname", "ProtectKernelTunables", "ProtectProc", "ProtectSystem"),
            "SystemCallFilter",
        }),
        "writes /etc, the host name, the consoles and an EFI variable, and looks at the processes of all services",
    ),
    "basalt-images.service": (
        frozenset(CONFINED) - {"NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectSystem"},
        "runs for seconds, as root because containerd listens to root alone, with no capability and one socket",
    ),
    "flanneld.service": (frozenset({"ProtectKernelTunables"}), "sets how the kernel forwards packets"),
    "kube-proxy.service": (frozenset({"ProtectKernelTunables"}), "sets how the kernel forwards packets"),
    "local-storage.service": (frozenset({"SystemCallFilter"}), "sets quotas"),
    "virtual-address.service": (frozenset({"ProtectProc"}), "reads the name of process 1, to know whom to notify"),
}  # fmt: skip
# Services to which the above does not apply at all.
UNCONFINED = {
    "basalt-etc.service": "systemd's own program, which links what the image has for /etc before anything else runs",
    "containerd.service": "what it starts inherits all of it: containers, some of which administer the machine",
    "kubelet.service": "mounts volumes into every pod's namespace and administers the machine's cgroups",
    "systemd-boot-random-seed.service": "systemd's own, which only starts at another moment",
}
CAPABILITIES: dict[str, frozenset[str]] = {
    "basalt.service": frozenset({
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_KILL", "CAP_SYS_ADMIN"),
        *("CAP_LINUX_IMMUTABLE", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_TTY_CONFIG"),
    }),
    "coredns.service": frozenset({"CAP_NET_BIND_SERVICE"}),
    "flanneld.service": frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"}),
    "kube-proxy.service": frozenset({"CAP_NET_ADMIN"}),
    "traefik.service": frozenset({"CAP_NET_BIND_SERVICE"}),
    "network-policy.service": frozenset({"CAP_NET_ADMIN"}),
    "local-storage.service": frozenset({"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SYS_ADMIN"}),
    "load-balancer-bgp.service": frozenset({"CAP_NET_BIND_SERVICE"}),
    "load-balancer-l2.service": frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"}),
    "virtual-address.service": frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"}),
}  # fmt: skip
FAMILIES = frozenset(("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"))
ROOT_SERVICES = {
    "basalt-etc.service": "writes /etc",
    "basalt.service": "writes /etc and other users' keys",
    "basalt-images.service": "containerd listens to root alone",
    "containerd.service": "makes namespaces, cgroups and mounts of containers",
    "kubelet.service": "the same for pods",
    "systemd-boot-random-seed.service": "writes the ESP",
}
# Commands that systemd runs as root although the service is somebody else's: the prefix + or !.
ROOT_COMMANDS = {"coredns.service": "makes the interface that pods ask, with ip(8)"}


def ours() -> list[str]:
    """Return the services that this project adds to Debian's or puts in the place of one of them."""
    return sorted(path.name for path in OVERLAY.glob("*.service") if not path.is_symlink())


@pytest.fixture(scope="module")
def users(root: Path) -> frozenset[str]:
    """The accounts of the image."""
    lines = [
        line
        for path in (root / "usr/lib/sysusers.d").glob("*.conf")
        for line in path.read_text().splitlines()
    ]
    return frozenset(line.split()[1] for line in lines if re.match(r"u!?\s", line))


def test_systemd_understands_what_it_starts(root: Path) -> None:
    # Programs are looked for only in units that are named, so all are. Silence is consent.
    names = sorted(
        name for name in units.started(root, "default.target") if (root / units.FOLDER / name).is_file()
    )
    assert "basalt.service" in names
    assert verify(root, *names) == ""


def test_systemd_understands_every_unit_of_ours(root: Path) -> None:
    names = [path.name for path in OVERLAY.iterdir() if path.is_file() and not path.is_symlink()]
    assert set(ours()) <= set(names)
    assert verify(root, *names) == ""


def verify(root: Path, *names: str) -> str:
    """Return what systemd has to say about units; CommandError for what it cannot load."""
    return tool("sh", "-c", 'exec systemd-analyze verify --man=no "$@" 2>&1', "sh", f"--root={root}", *names)


@pytest.mark.parametrize("name", ours())
def test_a_service_is_confined(root: Path, name: str) -> None:
    if name in UNCONFINED:
        return
    unit, (waived, _) = units.load(root, name), WAIVED.get(name, (frozenset(), ""))
    found = {key: unit.last(key) for key in CONFINED}
    assert {key: value for key, value in found.items() if key not in waived} == {
        key: value for key, value in CONFINED.items() if key not in waived
    }
    # What was waived once and is not needed any more goes from the list.
    assert not [key for key in waived if found[key] == CONFINED[key]]


@pytest.mark.parametrize("name", ours())
def test_a_service_has_the_capabilities_it_needs(root: Path, name: str) -> None:
    if name in UNCONFINED:
        return
    unit, known = units.load(root, name), CAPABILITIES.get(name, frozenset())
    assert "CapabilityBoundingSet" in unit.settings, "without it a service keeps all of root's"
    assert unit.words("CapabilityBoundingSet") == known
    assert unit.words("AmbientCapabilities") == (frozenset() if name in ROOT_SERVICES else known)


@pytest.mark.parametrize("name", ours())
def test_a_service_has_the_sockets_it_needs(root: Path, name: str) -> None:
    if name in UNCONFINED:
        return
    families = units.load(root, name).words("RestrictAddressFamilies")
    assert families and families <= FAMILIES


@pytest.mark.parametrize("name", ours())
def test_a_service_is_not_root(root: Path, name: str, users: frozenset[str]) -> None:
    unit = units.load(root, name)
    if name in ROOT_SERVICES:
        assert unit.last("User") in ("", "root"), "is not root, so it goes from the list"
    else:
        assert unit.last("User") in users - {"root"}
        assert unit.last("Group") == unit.last("User")
    raised = [line for line in unit.commands if re.match(r"[-@:|]*[+!]", line)]
    assert bool(raised) == (name in ROOT_COMMANDS), raised


def test_lists_name_services_that_exist() -> None:
    named = (
        WAIVED.keys() | UNCONFINED.keys() | CAPABILITIES.keys() | ROOT_SERVICES.keys() | ROOT_COMMANDS.keys()
    )
    assert named <= set(ours())


def test_every_service_can_run(root: Path) -> None:
    for name in ours():
        assert units.load(root, name).commands, f"{name} runs nothing"
