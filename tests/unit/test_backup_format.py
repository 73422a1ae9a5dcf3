# SPDX-License-Identifier: Apache-2.0
"""The file: what was sealed comes out again, and nothing else ever does."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from firstboot.backup import locks
from firstboot.backup.header import Agreement, Header, Scrypt
from firstboot.backup.locks import Opener, Passphrase, PrivateKey, Recipient, Sealer
from firstboot.backup.sealed import CHUNK, TAG, TRAILER_BYTES, Sealed, seal, trailer
from firstboot.failure import BasaltError, Refused

PLAIN = bytes(range(256)) * 1000
HEADER = Header("2026-11-23T09:00:00Z", "basalt", "1.2.3", "v1.37.2", "dqlite", 4711, Scrypt(2, 1, 1, b""))
PASSPHRASE = Passphrase("correct horse battery")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make keys of passphrases in no time."""
    monkeypatch.setattr(locks, "N", 2**4)
    monkeypatch.setattr(locks, "P", 1)


def pair() -> tuple[str, str]:
    """Return a private key and its public one, PEM."""
    key = X25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


PRIVATE, PUBLIC = pair()


def sealed(plain: bytes = PLAIN, sealer: Sealer = PASSPHRASE) -> bytes:
    lock, key = sealer.lock()
    return b"".join(seal(replace(HEADER, lock=lock), key, [plain]))


def opened(data: bytes, opener: Opener = PASSPHRASE) -> bytes:
    found = Sealed.look(io.BytesIO(data))
    return b"".join(found.plain(opener.open(found.header.lock)))


def refused(data: bytes, opener: Opener = PASSPHRASE) -> str:
    """Return the code of why it is not opened."""
    with pytest.raises(Refused) as error:
        opened(data, opener)
    (failure,) = error.value.failures
    assert failure.path == "backup" and failure.found and failure.remedy
    return failure.code


def with_new_sum(data: bytes) -> bytes:
    """Return what somebody would make who changes a file and its check sum."""
    body = data[:-TRAILER_BYTES]
    return body + trailer(hashlib.sha256(body).hexdigest())


def parts(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the head and the chunks of a file."""
    head = b"".join(io.BytesIO(data).readlines()[:2])
    body = data[len(head) : -TRAILER_BYTES]
    return head, [body[at : at + CHUNK + TAG] for at in range(0, len(body), CHUNK + TAG)]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 40 * CHUNK + 5])
def test_what_was_sealed_comes_out_again(size: int) -> None:
    plain = (PLAIN * (size // len(PLAIN) + 1))[:size]
    data = sealed(plain)
    assert opened(data) == plain
    assert len(parts(data)[1]) == max(1, -(-size // CHUNK))


@pytest.mark.parametrize(
    ("sealer", "opener"), [(PASSPHRASE, PASSPHRASE), (Recipient.of(PUBLIC), PrivateKey.of(PRIVATE))]
)
def test_both_kinds_of_locks(sealer: Sealer, opener: Opener) -> None:
    first, second = sealed(sealer=sealer), sealed(sealer=sealer)
    assert opened(first, opener) == opened(second, opener) == PLAIN
    assert parts(first)[1][0] != parts(second)[1][0], "each file has a key of its own"
    assert PLAIN[:64] not in first


def test_pieces_of_any_size_give_the_same_file() -> None:
    lock, key = PASSPHRASE.lock()
    header = replace(HEADER, lock=lock)

    def cut(size: int) -> Iterator[bytes]:
        return (PLAIN[at : at + size] for at in range(0, len(PLAIN), size))

    assert len({b"".join(seal(header, key, cut(size))) for size in (1000, 4096, CHUNK, len(PLAIN))}) == 1


def test_the_header_is_read_without_a_key_and_the_sum_by_anybodys_tools() -> None:
    data = sealed()
    magic, line, *_ = data.splitlines()
    assert magic == b"basalt-backup"
    told = json.loads(line)
    assert (told["format"], told["cluster"], told["revision"], told["datastore"]) == (
        1,
        "basalt",
        4711,
        "dqlite",
    )
    assert data.endswith(b"\nsha256 " + hashlib.sha256(data[:-73]).hexdigest().encode() + b"\n")


def test_only_the_right_secret_opens() -> None:
    other, _ = pair()
    for_key = sealed(sealer=Recipient.of(PUBLIC))
    assert refused(sealed(), Passphrase("another passphrase")) == "backup-key"
    assert refused(sealed(), PrivateKey.of(PRIVATE)) == "backup-key"
    assert refused(for_key, PrivateKey.of(other)) == "backup-key"
    assert refused(for_key, PASSPHRASE) == "backup-key"


def test_a_file_that_is_cut_off_anywhere_is_not_opened() -> None:
    data = sealed(PLAIN[: CHUNK + 100])
    head, chunks = parts(data)
    edges = [
        0,
        5,
        14,
        20,
        len(head) - 1,
        len(head),
        len(head) + 10,
        len(head) + len(chunks[0]),
        len(data) - 1,
    ]
    for length in edges + list(range(len(head), len(data), 9973)):
        assert refused(data[:length]) in ("backup-damaged", "backup-format"), length


def test_a_bit_that_flips_anywhere_is_noticed() -> None:
    data = sealed(PLAIN[: CHUNK + 100])
    for at in [*range(0, 400, 7), *range(400, len(data) - 100, 9973), *range(len(data) - 100, len(data))]:
        changed = bytearray(data)
        changed[at] ^= 1
        assert refused(bytes(changed)) in ("backup-damaged", "backup-format"), at


def test_a_check_sum_that_fits_makes_no_genuine_file() -> None:
    head, chunks = parts(sealed())
    swapped = [chunks[1], chunks[0], *chunks[2:]]
    later = [chunks[0], chunks[2], chunks[1], *chunks[3:]]
    cases = {
        "first two chunks swapped": (head, swapped, "backup-key"),
        "later chunks swapped": (head, later, "backup-damaged"),
        "last chunk missing": (head, chunks[:-1], "backup-damaged"),
        "a chunk twice": (head, [*chunks[:2], chunks[1], *chunks[2:]], "backup-damaged"),
        "something behind the last": (head, [*chunks, bytes(50)], "backup-damaged"),
        "another header": (head.replace(b"4711", b"4712"), chunks, "backup-key"),
        "chunks of another file": (head, parts(sealed())[1], "backup-key"),
    }
    for name, (front, body, code) in cases.items():
        assert refused(with_new_sum(front + b"".join(body) + bytes(TRAILER_BYTES))) == code, name


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"basalt-backup", b"basalt-Backup", "backup-format"),
        (b'"format": 1', b'"format": 2', "backup-format"),
        (b'"format": 1', b'"form": 1', "backup-damaged"),
        (b'"n": 16', b'"n": 1073741824', "backup-damaged"),
        (b'"n": 16', b'"n": 17', "backup-damaged"),
        (b'"n": 16', b'"n": true', "backup-damaged"),
        (b'"p": 1', b'"p": 1000000', "backup-damaged"),
        (b'"kind": "scrypt"', b'"kind": "none"', "backup-damaged"),
        (b'"cluster": "basalt"', b'"cluster": ["basalt"]', "backup-damaged"),
        (b'"cluster": "basalt"', b'"cluster": "\\u001b[2J"', "backup-damaged"),
        (b'"revision": 4711', b'"revision": {}', "backup-damaged"),
        (b'{"format"', b"[" * 5000 + b'{"format"', "backup-damaged"),
    ],
)
def test_a_header_of_another_form_is_refused_before_it_costs_anything(
    old: bytes, new: bytes, code: str
) -> None:
    data = sealed()
    assert old in data
    assert refused(with_new_sum(data.replace(old, new, 1))) == code


def test_a_newer_format_says_which_image_it_needs() -> None:
    with pytest.raises(Refused, match="has format 2, and this image knows 1"):
        opened(with_new_sum(sealed().replace(b'"format": 1', b'"format": 2', 1)))


@pytest.mark.parametrize("text", ["", "elevencharsx"[:11], "x" * 1025])
def test_short_passphrases_are_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(BasaltError, match=f"has {len(text)} characters") as error:
        Passphrase(text)
    assert not text or text not in str(error.value)
    assert "correct" not in repr(PASSPHRASE)


def test_keys_of_other_kinds_are_refused() -> None:
    encrypted = X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for read, text, message in (
        (Recipient.of, "no key", "no public key in PEM form"),
        (Recipient.of, PRIVATE, "no public key in PEM form"),
        (Recipient.of, pem, "another kind than X25519"),
        (PrivateKey.of, PUBLIC, "no private key in PEM form"),
        (PrivateKey.of, encrypted.decode(), "is encrypted"),
    ):
        with pytest.raises(BasaltError, match=message):
            read(text)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys(tmp_path: Path) -> None:
    private = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "x25519", "-out", str(private)], check=True, timeout=20
    )
    asked = ["openssl", "pkey", "-in", str(private), "-pubout"]
    public = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=20).stdout
    assert opened(sealed(sealer=Recipient.of(public)), PrivateKey.of(private.read_text())) == PLAIN


def test_a_key_that_agrees_with_nobody_is_refused() -> None:
    lock, _ = Recipient.of(PUBLIC).lock()
    assert isinstance(lock, Agreement)
    with pytest.raises(Refused, match="nobody can use"):
        PrivateKey.of(PRIVATE).open(replace(lock, ephemeral=bytes(32)))
