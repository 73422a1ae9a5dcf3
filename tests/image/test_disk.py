# SPDX-License-Identifier: Apache-2.0
"""The disk as it is flashed, and the artefacts beside it: slots, names, sizes, check sums."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from image import artefacts, keys
from tests.image.built import Built, listed, tool
from tests.image.gpt import Kind, Table

MB = 1000 * 1000
LIMIT = 400 * MB
READ_ONLY = 1 << 60
SLOT = (Kind.USR_VERITY_SIG, Kind.USR_VERITY, Kind.USR)
SPLIT = {Kind.USR_VERITY_SIG: "usr-sig", Kind.USR_VERITY: "usr-verity", Kind.USR: "usr"}
SUFFIX = {Kind.USR_VERITY_SIG: "_sig", Kind.USR_VERITY: "_verity", Kind.USR: ""}


def test_the_disk_has_an_esp_and_two_slots(disk: Table, built: Built) -> None:
    name = f"basalt_{built.version}"
    assert [(entry.type, entry.label) for entry in disk.partitions] == [
        (Kind.ESP, "esp"),
        *((kind, name + SUFFIX[kind]) for kind in SLOT),
        *((kind, "_empty") for kind in SLOT),
    ]


def test_the_slots_are_equally_large(disk: Table, built: Built) -> None:
    sizes = {
        label: [disk.find(kind, label + suffix).size for kind, suffix in zip(SLOT, suffixes, strict=True)]
        for label, suffixes in ((f"basalt_{built.version}", SUFFIX.values()), ("_empty", ("", "", "")))
    }
    first, second = sizes.values()
    assert first == second


def test_nothing_overlaps(disk: Table) -> None:
    entries = sorted(disk.partitions, key=lambda entry: entry.offset)
    for before, after in zip(entries, entries[1:], strict=False):
        assert before.offset + before.size <= after.offset
    assert entries[-1].offset + entries[-1].size <= disk.path.stat().st_size


def test_nothing_mounts_usr_for_writing(disk: Table, built: Built) -> None:
    for kind in (Kind.USR, Kind.USR_VERITY):
        assert disk.find(kind, f"basalt_{built.version}{SUFFIX[kind]}").flags & READ_ONLY


def test_the_second_slot_is_empty(disk: Table) -> None:
    # repart leaves what it does not format alone, and the disk is new: an old image's data would be a leftover.
    for kind in SLOT:
        assert not any(disk.read(disk.find(kind, "_empty"), 1 << 20)), kind.name


def test_an_update_brings_what_the_disk_has(disk: Table, built: Built, scratch: Path) -> None:
    for kind in SLOT:
        partition = disk.find(kind, f"basalt_{built.version}{SUFFIX[kind]}")
        # The transfer files of sysupdate take the new partition's UUID out of this name.
        packed = built.only(f"basalt_{built.version}.{SPLIT[kind]}.{partition.uuid.hex}.raw.zst")
        unpacked = scratch / packed.stem
        tool("zstd", "-q", "-d", packed, "-o", unpacked)
        assert unpacked.stat().st_size == partition.size
        tool(
            "cmp", f"--ignore-initial={partition.offset}:0", f"--bytes={partition.size}", disk.path, unpacked
        )
        unpacked.unlink()


def test_the_esp_boots_the_uki_of_the_update(esp: Path, built: Built) -> None:
    (uki,) = (esp / "EFI/Linux").iterdir()
    # Three attempts, counted by systemd-boot in the name.
    assert uki.name == f"basalt_{built.version}+3.efi"
    assert uki.read_bytes() == built.only("basalt_*.efi").read_bytes()


def test_usr_and_uki_fit_an_update(disk: Table, built: Built) -> None:
    with built.disk.open("rb") as file:
        file.seek(disk.find(Kind.USR, f"basalt_{built.version}").offset + 1024)
        block = file.read(128)
    usr = int.from_bytes(block[36:40], "little") << block[12]
    uki = built.only("basalt_*.efi").stat().st_size
    assert usr + uki <= LIMIT, f"/usr {usr / MB:.1f} MB + UKI {uki / MB:.1f} MB"
    # What the build printed was true.
    assert json.loads((built.folder / "sizes.json").read_text()) == {"usr": usr, "uki": uki}


def test_check_sums_are_of_all_artefacts(built: Built) -> None:
    lines = dict(line.split("  ")[::-1] for line in (built.folder / artefacts.SUMS).read_text().splitlines())
    assert lines.keys() == {path.name for path in built.folder.glob("basalt*")}
    wrong = [name for name, digest in lines.items() if sha256(built.folder / name) != digest]
    assert not wrong, listed(wrong)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_nodes_trust_the_check_sums(built: Built, root: Path) -> None:
    sums = built.folder / artefacts.SUMS
    with keys.gpg_home() as home:
        # As systemd-pull asks gpg, with the keyring it finds on a node.
        keyring = root / "usr/lib/systemd/import-pubring.gpg"
        trust = ["--no-options", "--no-default-keyring", "--trust-model=always", f"--keyring={keyring}"]
        keys.gpg(home, [*trust, "--verify", f"{sums}.gpg", str(sums)])


@pytest.mark.parametrize("name", ["VERSION_ID", "IMAGE_VERSION"])
def test_version_orders_images(built: Built, root: Path, name: str) -> None:
    lines = (root / "usr/lib/os-release").read_text().splitlines()
    fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    assert fields[name] == built.version
    assert re.fullmatch(r"\d+\.\d+\.\d{8}\.\d{6}", built.version)
