# SPDX-License-Identifier: Apache-2.0
"""The chain from the firmware to the last byte of /usr: keys to enrol, boot loader, UKI, root hash, signature of it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from image import keys
from tests.image import verity
from tests.image.built import Built, tool
from tests.image.gpt import Kind, Table

# What the UEFI specification calls EFI_CERT_X509_GUID, as it is in a file.
X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")


@pytest.fixture(scope="module")
def certificate(signer: keys.Keys) -> bytes:
    """Our certificate in DER."""
    return x509.load_pem_x509_certificate(signer.certificate.read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def command_line(uki: dict[str, bytes]) -> dict[str, str]:
    """The kernel's command line in the UKI."""
    words = (word.partition("=") for word in uki[".cmdline"].decode().rstrip("\0").split())
    return {name: value for name, _, value in words}


@pytest.fixture(scope="module")
def root_hash(disk: Table, built: Built) -> bytes:
    """The root hash, of the data as it is and checked against every block of the hash tree."""
    name = f"basalt_{built.version}"
    return verity.root(disk, disk.find(Kind.USR, name), disk.find(Kind.USR_VERITY, f"{name}_verity"))


@pytest.mark.parametrize(
    "pattern", ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi", "EFI/Linux/*.efi"]
)
def test_what_the_firmware_starts_is_signed(esp: Path, signer: keys.Keys, pattern: str) -> None:
    (program,) = esp.glob(pattern)
    assert tool("sbverify", "--cert", signer.certificate, program) == "Signature verification OK\n"


def test_the_esp_has_no_other_program(esp: Path) -> None:
    files = {path.relative_to(esp).as_posix() for path in esp.rglob("*") if path.is_file()}
    others = {name for name in files if not name.startswith("EFI/Linux/")}
    assert others == {
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/systemd/systemd-bootx64.efi",
        "loader/keys/auto/KEK.auth",
        "loader/keys/auto/PK.auth",
        "loader/keys/auto/db.auth",
        "loader/loader.conf",
    }


@pytest.mark.parametrize("variable", ["PK", "KEK", "db"])
def test_a_machine_in_setup_mode_enrols_our_certificate_alone(
    esp: Path, certificate: bytes, variable: str
) -> None:
    assert enrolled((esp / f"loader/keys/auto/{variable}.auth").read_bytes()) == [certificate]


def enrolled(data: bytes) -> list[bytes]:
    """Return the certificates in an authenticated update of a variable (EFI_VARIABLE_AUTHENTICATION_2)."""
    (signature,) = struct.unpack_from("<I", data, 16)
    rest, found = data[16 + signature :], []
    while rest:
        kind, total, head, size = struct.unpack_from("<16sIII", rest)
        assert kind == X509
        # Each entry begins with its owner's identifier.
        found += [rest[start + 16 : start + size] for start in range(28 + head, total, size)]
        rest = rest[total:]
    return found


def test_the_signed_command_line_pins_usr(command_line: dict[str, str], root_hash: bytes) -> None:
    assert command_line["usrhash"] == root_hash.hex()


def test_partitions_are_found_by_the_root_hash(disk: Table, built: Built, root_hash: bytes) -> None:
    name = f"basalt_{built.version}"
    assert disk.find(Kind.USR, name).uuid.bytes == root_hash[:16]
    assert disk.find(Kind.USR_VERITY, f"{name}_verity").uuid.bytes == root_hash[16:]


def test_the_root_hash_is_signed(
    disk: Table, built: Built, root_hash: bytes, certificate: bytes, signer: keys.Keys, scratch: Path
) -> None:
    partition = disk.find(Kind.USR_VERITY_SIG, f"basalt_{built.version}_sig")
    said = json.loads(disk.read(partition).rstrip(b"\0"))
    assert said["rootHash"] == root_hash.hex()
    assert said["certificateFingerprint"] == hashlib.sha256(certificate).hexdigest()
    # The kernel checks a signature of the hash as text.
    (scratch / "root.hash").write_text(root_hash.hex())
    (scratch / "root.hash.p7s").write_bytes(base64.b64decode(said["signature"], validate=True))
    command: list[str | Path] = [
        "openssl",
        "smime",
        "-verify",
        "-binary",
        "-inform",
        "DER",
        "-in",
        scratch / "root.hash.p7s",
    ]
    command += ["-content", scratch / "root.hash", "-nointern", "-noverify", "-certfile", signer.certificate]
    assert tool(*command) == root_hash.hex()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        # Anything that looks for /usr, a root or swap by itself finds what the image is made of and nothing else.
        ("systemd.image_policy", "esp=unprotected:root=unprotected+absent:=ignore"),
        ("mount.usrflags", "ro"),
        ("systemd.firstboot", "no"),
    ],
)
def test_the_command_line_keeps_the_image_whole(command_line: dict[str, str], word: str, value: str) -> None:
    assert command_line[word] == value


def test_the_command_line_opens_no_door(command_line: dict[str, str]) -> None:
    doors = {
        "init",
        "rdinit",
        "single",
        "emergency",
        "rescue",
        "systemd.unit",
        "systemd.debug_shell",
        "rd.break",
    }
    doors |= {
        "rd.systemd.debug_shell",
        "rd.systemd.unit",
        "systemd.run",
        "systemd.mask",
        "systemd.verity",
        "S",
        "1",
    }
    assert not doors & command_line.keys()


def test_the_uki_says_whose_it_is(uki: dict[str, bytes], root: Path) -> None:
    assert uki[".osrel"] == (root / "usr/lib/os-release").read_bytes()
    assert [path.name for path in (root / "usr/lib/modules").iterdir()] == [uki[".uname"].decode()]
