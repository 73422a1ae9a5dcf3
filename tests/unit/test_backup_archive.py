# SPDX-License-Identifier: Apache-2.0
"""What is inside: who has only the public key can seal anything, so nothing in it is believed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot.backup import archive
from firstboot.backup.archive import BLOCK, pack, unpack
from firstboot.failure import BasaltError, Refused

SETTINGS = {"cluster": {"name": "basalt"}}
PKI = {"ca.key": "key", "dqlite/ca.crt": "certificate"}


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    snapshot = tmp_path / "original"
    snapshot.write_bytes(b"data" * 1001)
    return b"".join(pack(SETTINGS, PKI, snapshot))


def unpacked(data: bytes, folder: Path, size: int = 777) -> archive.Contents:
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return unpack(pieces, folder, frozenset(PKI))


@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_it_comes_out_as_it_went_in(packed: bytes, tmp_path: Path, size: int) -> None:
    found = unpacked(packed, tmp_path, size)
    assert (found.settings, found.pki) == (SETTINGS, PKI)
    assert found.snapshot.read_bytes() == b"data" * 1001
    assert found.snapshot.stat().st_mode & 0o777 == 0o600
    assert "key" not in repr(found).replace("snapshot", "")


def test_any_tar_reads_it(packed: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == [
            "manifest.json",
            "settings.json",
            "pki/ca.key",
            "pki/dqlite/ca.crt",
            "snapshot",
        ]


def rewritten(
    data: bytes, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]
) -> bytes:
    """Return the archive with its members changed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for info in old:
            content = old.extractfile(info)
            assert content
            changed, text = change(info, content.read())
            changed.size = len(text) if changed.isreg() else 0
            new.addfile(changed, io.BytesIO(text))
    return out.getvalue()


def hostile(
    name: str, attributes: dict[str, object]
) -> Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]:
    def change(info: tarfile.TarInfo, text: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if info.name == name:
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
        return info, text

    return change


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "../../etc/shadow"},
        {"name": "/etc/shadow"},
        {"name": "x" * 300},
        {"name": "ä" * 200},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.DIRTYPE},
        {"pax_headers": {"comment": "x" * 10_000}},
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "pki/ca.key", "snapshot"])
def test_only_plain_files_of_known_names_are_read(
    packed: bytes, tmp_path: Path, name: str, attributes: dict[str, object]
) -> None:
    place = tmp_path / "inside"
    place.mkdir()
    with pytest.raises(Refused) as error:
        unpacked(rewritten(packed, hostile(name, attributes)), place)
    assert error.value.failures[0].code == "backup-damaged"
    assert [path.name for path in place.iterdir()] in ([], ["snapshot"])


def manifest(packed: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """Return the archive with another manifest."""

    def rewrite(info: tarfile.TarInfo, text: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if info.name != "manifest.json":
            return info, text
        data = json.loads(text)["parts"]
        return info, json.dumps({"parts": change(data) or data}).encode()

    return rewritten(packed, rewrite)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("snapshot") and None,
        lambda parts: parts.update({"pki/other": {"sha256": "", "size": 1}}),
        lambda parts: parts["snapshot"].update(size=1),
        lambda parts: parts["snapshot"].update(size=10**15),
        lambda parts: parts["snapshot"].update(size=float("inf")),
        lambda parts: parts["snapshot"].update(sha256="0" * 64),
        lambda parts: parts["pki/ca.key"].update(sha256="0" * 64),
        lambda parts: ["pki"],
        lambda parts: {"snapshot": 1},
    ],
)
def test_the_manifest_is_compared(
    packed: bytes, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    with pytest.raises(Refused):
        unpacked(manifest(packed, change), tmp_path)


def test_it_ends_where_it_ends(packed: bytes, tmp_path: Path) -> None:
    for number, data in enumerate(
        (packed[:-1], packed[:-BLOCK], packed[:2000], packed + b"x", packed + bytes(10_240), b"")
    ):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(Refused):
            unpacked(data, place)


def test_a_disk_without_room_is_not_filled(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "RESERVE", 2**60)
    with pytest.raises(BasaltError, match="MiB are free"):
        unpacked(packed, tmp_path)
    assert not (tmp_path / "snapshot").exists()
