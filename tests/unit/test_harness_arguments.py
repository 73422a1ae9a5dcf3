# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from image.vm.arguments import (
    Accelerator,
    Carrier,
    Credential,
    EmptyNetwork,
    Firmware,
    Forward,
    GuestForward,
    Hardware,
    Network,
    SwitchNetwork,
    UserNetwork,
    mac_address,
    qemu_arguments,
)
from image.vm.qmp import parse_forwards

MACHINE = Hardware(
    name="one",
    disk=Path("/vm/disk.qcow2"),
    firmware=Firmware("/fw/code.fd", Path("/vm/vars.qcow2")),
    console=Path("/vm/console"),
    monitor=Path("/vm/monitor"),
)


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in zip(arguments, arguments[1:], strict=False) if name == option]


def test_every_writable_drive_can_be_saved() -> None:
    drives = values(qemu_arguments(replace(MACHINE, extra=(Path("/vm/seed.iso"),))), "-drive")
    assert len(drives) == 4
    assert all("format=qcow2" in drive or "readonly=on" in drive for drive in drives)


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        (Accelerator.KVM, ["-accel", "kvm", "-cpu", "host"]),
        (
            Accelerator.TCG,
            [
                "-accel",
                "tcg,thread=multi,tb-size=1024",
                "-cpu",
                "Opteron_G3,-misalignsse,+ssse3,+sse4.1,+sse4.2",
            ],
        ),
    ],
)
def test_accelerator(accelerator: Accelerator, expected: list[str]) -> None:
    arguments = qemu_arguments(replace(MACHINE, accelerator=accelerator))
    start = arguments.index("-accel")
    assert arguments[start : start + 4] == expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (UserNetwork(), "user,id=net0,restrict=on"),
        (UserNetwork(open=True), "user,id=net0"),
        (
            UserNetwork((Forward(9180), Forward(6443, 16443))),
            "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:9180,hostfwd=tcp:127.0.0.1:16443-:6443",
        ),
        (
            UserNetwork(guest_forwards=(GuestForward("10.0.2.9", 80, "serve a,b"),)),
            "user,id=net0,restrict=on,guestfwd=tcp:10.0.2.9:80-cmd:serve a,,b",
        ),
        (SwitchNetwork(Path("/s,1")), "stream,id=net0,server=off,addr.type=unix,addr.path=/s,,1"),
    ],
)
def test_network(network: Network, expected: str) -> None:
    arguments = qemu_arguments(replace(MACHINE, networks=(network,)))
    assert values(arguments, "-netdev") == [expected]
    assert f"mac={mac_address('one', 0)},netdev=net0" in arguments[arguments.index(expected) + 2]


def test_a_card_with_nothing_behind_it() -> None:
    arguments = qemu_arguments(replace(MACHINE, networks=(UserNetwork(), EmptyNetwork())))
    assert len(values(arguments, "-netdev")) == 1
    assert f"virtio-net-pci,id=card1,mac={mac_address('one', 1)}" in values(arguments, "-device")


def test_mac_addresses_are_local_stable_and_different() -> None:
    addresses = {mac_address(name, index) for name in ("one", "two") for index in (0, 1)}
    assert len(addresses) == 4
    assert all(int(address[:2], 16) & 3 == 2 for address in addresses)
    assert mac_address("one", 0) == mac_address("one", 0)


def test_credential_with_any_content_travels_in_smbios() -> None:
    content = "role: control-plane, # ä\n\nnode: {}\n"
    [option, value] = Credential("basalt.config", content).arguments
    prefix, _, encoded = value.partition("basalt.config=")
    assert (option, prefix) == ("-smbios", "type=11,value=io.systemd.credential.binary:")
    assert base64.b64decode(encoded).decode() == content
    assert "," not in encoded


def test_credential_in_fw_cfg_keeps_its_commas() -> None:
    arguments = Credential("basalt.config", "a,b", Carrier.FW_CFG).arguments
    assert arguments == ("-fw_cfg", "name=opt/io.systemd.credentials/basalt.config,string=a,,b")


def test_credential_name_too_long_for_fw_cfg() -> None:
    with pytest.raises(ValueError, match="longer than the 55 characters"):
        _ = Credential("x" * 29, "", Carrier.FW_CFG).arguments


def test_channel_and_memory_only_where_asked_for() -> None:
    without = qemu_arguments(MACHINE)
    assert "virtio-serial-pci" not in without and "-incoming" not in without
    both = qemu_arguments(replace(MACHINE, channel=Path("/vm/channel"), wait=True))
    assert values(both, "-incoming") == ["defer"]
    assert "virtserialport,chardev=channel,name=basalt.test" in values(both, "-device")


def test_forwards_are_read_from_the_monitor() -> None:
    text = (
        "Hub -1 (net0):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[HOST_FORWARD]  15       127.0.0.1 37603       10.0.2.15  9180     0     0\r\n"
        "  TCP[ESTABLISHED]   19       127.0.0.1 37603       10.0.2.15  9180     0     0\r\n"
        "  TCP[HOST_FORWARD]  14       127.0.0.1 43469       10.0.2.15  6443     0     0\r\n"
    )
    assert parse_forwards(text) == {9180: 37603, 6443: 43469}
