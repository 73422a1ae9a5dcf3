# SPDX-License-Identifier: Apache-2.0
"""A document's text: everything hostile or careless in YAML gets one plain answer, quickly."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firstboot.codes import Code
from firstboot.document import MAX_BYTES, Format
from firstboot.failure import DocumentError, Failure
from firstboot.strictyaml import MAX_VALUES, show_path
from firstboot.validate import check_bytes, check_text, check_yaml, validate_file

GOOD = "basalt:\n  role: control-plane\n"


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both of PyYAML's parsers: not every build has libyaml's."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not yaml.__with_libyaml__:
        pytest.skip("this PyYAML has no libyaml")
    return str(request.param)


def failures(content: bytes | str) -> tuple[Failure, ...]:
    with pytest.raises(DocumentError) as caught:
        check_bytes(content.encode() if isinstance(content, str) else content, "FILE")
    return caught.value.failures


def bomb(levels: int) -> str:
    """Nine levels of ten aliases each stand for a billion values."""
    names = "abcdefghij"
    lines = [f"a: &a [{', '.join('x' * 10)}]"]
    for below, name in zip(names, names[1 : levels + 1], strict=False):
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]")
    return "\n".join(lines) + "\n"


def merge_bomb(levels: int) -> str:
    names = "abcdefghij"
    lines = ["a: &a {k: v, l: w}"]
    for below, name in zip(names, names[1 : levels + 1], strict=False):
        lines.append(f"{name}: &{name} {{<<: [{', '.join([f'*{below}'] * 10)}]}}")
    return "\n".join(lines) + "\n"


def ladder(steps: int) -> str:
    """Each step is one level deeper than the one before, though none looks deep."""
    return "s0: &s0 [x]\n" + "".join(f"s{n}: &s{n} [*s{n - 1}]\n" for n in range(1, steps))


HOSTILE = [
    # text, code, path, words
    ("", Code.EMPTY, "FILE", ["`basalt:`"]),
    ("#cloud-config\n", Code.EMPTY, "FILE", []),
    ("---\n", Code.EMPTY, "FILE", []),
    ("role: control-plane\n", Code.NO_BASALT_KEY, "FILE", ["`role`", "indent"]),
    ("#cloud-config\nhostname: x\nusers: []\n", Code.NO_BASALT_KEY, "FILE", ["`hostname`, `users`"]),
    ("Basalt:\n  role: control-plane\n", Code.NO_BASALT_KEY, "FILE", ["lower case"]),
    ("bsalt:\n  role: control-plane\n", Code.NO_BASALT_KEY, "FILE", ["instead of `bsalt`"]),
    ("- basalt\n", Code.NO_BASALT_KEY, "FILE", ["a list"]),
    ("basalt\n", Code.NO_BASALT_KEY, "FILE", ["text"]),
    ("basalt:\n", Code.NO_VALUE, "basalt", ["line 1"]),
    ("basalt: worker\n", Code.WRONG_TYPE, "basalt", ["keys with values"]),
    (GOOD + "---\n" + GOOD, Code.SEVERAL_DOCUMENTS, "FILE", ["line 3"]),
    (GOOD + GOOD, Code.DUPLICATE_KEY, "basalt", ["line 3", "line 1"]),
    (GOOD + "  role: control-plane\n", Code.DUPLICATE_KEY, "basalt.role", ["line 3, column 3", "line 2"]),
    (GOOD + "  'role': worker\n", Code.DUPLICATE_KEY, "basalt.role", []),
    (GOOD + "  node: {labels: {a: b, a: b}}\n", Code.DUPLICATE_KEY, "basalt.node.labels.a", []),
    ("basalt:\n\trole: control-plane\n", Code.TAB, "FILE", ["line 2", "spaces"]),
    ("basalt:\n  node:\n  \tname: a\n", Code.TAB, "FILE", ["line 3"]),
    ("basalt: [\n", Code.YAML_SYNTAX, "FILE", ["bracket"]),
    ('basalt: "x\n', Code.YAML_SYNTAX, "FILE", ["quotation mark"]),
    ("basalt:\n  role: control-plane\n node: {}\n", Code.YAML_SYNTAX, "FILE", ["line 3", "column"]),
    ("basalt: a: b\n", Code.YAML_SYNTAX, "FILE", ["line 1, column 10", "Quote"]),
    ("basalt:\n  role: @worker\n", Code.YAML_SYNTAX, "FILE", ["Quote"]),
    (GOOD + "  proxy: {no-proxy: [*.example.org]}\n", Code.ALIAS, "FILE", ["line 3", "in quotes"]),
    (GOOD + "  node: {name: *other}\n", Code.ALIAS, "FILE", ["`*other`", "in quotes"]),
    (GOOD + "  node: &n {labels: *n}\n", Code.ALIAS, "FILE", ["a part of"]),
    (bomb(9) + GOOD, Code.ALIAS_BOMB, "FILE", ["line 5"]),
    (merge_bomb(9) + GOOD, Code.ALIAS_BOMB, "FILE", []),
    (ladder(70) + GOOD, Code.TOO_LARGE, "FILE", ["levels"]),
    ("basalt: " + "[" * 10_000, Code.TOO_LARGE, "FILE", ["levels"]),
    ("basalt: " + "{a: " * 1000, Code.TOO_LARGE, "FILE", ["levels"]),
    ("basalt: [" + "x," * (MAX_VALUES + 1) + "]", Code.TOO_LARGE, "FILE", [f"{MAX_VALUES} values"]),
    (GOOD + "  no: 1\n", Code.KEY_NOT_TEXT, "basalt.no", ["true or false", '"no"']),
    (GOOD + "  node: {labels: {1.0: a}}\n", Code.KEY_NOT_TEXT, "basalt.node.labels[1.0]", ["a number"]),
    (
        GOOD + "  node: {labels: {2026-11-23: a}}\n",
        Code.KEY_NOT_TEXT,
        "basalt.node.labels.2026-11-23",
        ["date"],
    ),
    (GOOD + "  node: {{ name }}\n", Code.KEY_NOT_TEXT, "basalt.node[?]", ["quote `{`"]),
    (GOOD + "  <<: [a]\n", Code.BAD_MERGE, "basalt[<<]", ["`<<: *name`"]),
    (GOOD + "  node: {name: !!python/name:os.system ''}\n", Code.BAD_TAG, "basalt.node.name", ["python"]),
    (GOOD + "  node: !!python/object/apply:os.system [id]\n", Code.BAD_TAG, "basalt.node", ["tag"]),
    (GOOD + "  node: {name: !secret a}\n", Code.BAD_TAG, "basalt.node.name", ["`!secret`"]),
    (GOOD + "  node: {name: !!binary aGk=}\n", Code.BAD_TAG, "basalt.node.name", ["!!binary"]),
    (GOOD + "  node: {name: !!int a}\n", Code.BAD_TAG, "basalt.node.name", ["int"]),
    (GOOD + "  a\0: b\n", Code.NOT_TEXT, "FILE", ["line 3", "NUL"]),
    (GOOD + "  # \x1b[2J\n", Code.NOT_TEXT, "FILE", ["U+001B"]),
    ("## template: jinja\n#cloud-config\n" + GOOD, Code.OTHER_FORMAT, "FILE", ["Jinja"]),
    ("Content-Type: multipart/mixed; boundary=x\n\n", Code.OTHER_FORMAT, "FILE", ["MIME"]),
    ("#!/bin/sh\n", Code.OTHER_FORMAT, "FILE", ["script"]),
    ("#include\nhttp://x\n", Code.OTHER_FORMAT, "FILE", []),
]


@pytest.mark.parametrize(("text", "code", "path", "words"), HOSTILE, ids=lambda value: str(value)[:40])
def test_hostile_text(parser: str, text: str, code: Code, path: str, words: list[str]) -> None:
    started = time.process_time()
    found = [each for each in failures(text) if each.code is not Code.UNKNOWN_KEY or code is Code.UNKNOWN_KEY]
    assert [(each.code, each.path) for each in found] == [(code, path)]
    for word in words:
        assert word in f"{found[0].found} {found[0].remedy}"
    # An emulated node is ten times slower and still must answer.
    assert time.process_time() - started < 3


BYTES = [
    (b"\x1f\x8b\x08\x00rest", Code.OTHER_FORMAT, "gzip"),
    (GOOD.encode("utf-16"), Code.NOT_TEXT, "UTF-16"),
    (GOOD.encode() + b"  node: {name: caf\xe9}\n", Code.NOT_TEXT, "line 3: the byte 0xe9"),
    (GOOD.encode() + b"#" * MAX_BYTES, Code.TOO_LARGE, "1024 KiB"),
    (bytes(range(256)), Code.NOT_TEXT, "UTF-8"),
]


@pytest.mark.parametrize(("content", "code", "words"), BYTES, ids=lambda value: str(value)[:30])
def test_what_is_no_text(content: bytes, code: Code, words: str) -> None:
    found = failures(content)
    assert [(each.code, each.path) for each in found] == [(code, "FILE")]
    assert words in f"{found[0].found} {found[0].remedy}"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "#cloud-config\n" + GOOD,
        "\ufeff#cloud-config\n" + GOOD,
        "#cloud-config\r\nbasalt:\r\n  role: control-plane\r\n",
        "%YAML 1.1\n---\n" + GOOD + "...\n",
        '{"basalt": {"role": "control-plane"}}',
        # What belongs to cloud-init is cloud-init's, even when it is odd.
        "#cloud-config\nusers: []\nusers: []\nno: 1\nx: !!binary aGk=\ny: !odd z\n" + GOOD,
    ],
)
def test_what_is_fine(parser: str, text: str) -> None:
    assert check_yaml(text.removeprefix("\ufeff"), "FILE") == {"role": "control-plane"}
    assert check_bytes(text.encode(), "FILE") == {"role": "control-plane"}


def test_aliases_and_merges_within_reason(parser: str) -> None:
    text = """\
common: &common {max-pods: "100", event-qps: "2"}
basalt:
  role: control-plane
  services:
    kubelet:
      extra-args:
        <<: *common
        event-qps: "4"
    kube-proxy: &proxy
      extra-args: {log-level: debug}
    containerd: *proxy
"""
    services = check_text(text, "FILE").services
    assert services["kubelet"].extra_args == {"max-pods": "100", "event-qps": "4"}
    assert services["containerd"] == services["kube-proxy"]


def test_structure_and_values_are_told_together() -> None:
    found = failures("basalt:\n  role: control-plane\n  role: king\n  node:\n    name: A\n    1: b\n")
    assert [(each.code, each.path) for each in found] == [
        (Code.DUPLICATE_KEY, "basalt.role"),
        (Code.BAD_VALUE, "basalt.node.name"),
        (Code.KEY_NOT_TEXT, "basalt.node.1"),
    ]


def test_the_line_is_that_of_the_key() -> None:
    (failure,) = failures(GOOD + "  nodes:\n\n    name: a\n")
    assert failure.found.startswith("line 3:")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DocumentError) as caught:
            validate_file(path)
        (failure,) = caught.value.failures
        assert (failure.code, failure.path) == (Code.UNREADABLE, str(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\n\n  #cloud-config\n", Format.DOCUMENT),
        (b"#cloud-config-archive\n", Format.OTHER),
        (b"MIME-Version: 1.0\n", Format.MIME),
        (b" \n", Format.EMPTY),
    ],
)
def test_formats(content: bytes, found: Format) -> None:
    assert Format.of(content) is found


def test_paths_as_users_see_them() -> None:
    assert show_path(("basalt", "node", "taints", 0)) == "basalt.node.taints[0]"
    assert show_path(("basalt", "node", "labels", "a.b/c")) == "basalt.node.labels[a.b/c]"
    assert show_path(("basalt", "\x1b[2J" + "x" * 100)).isprintable()


def certificate(*, ca: bool | None, days: int) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone")])
    end = datetime.now(UTC) + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(end - timedelta(days=500))
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


GOOD_CA = certificate(ca=True, days=30)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (GOOD_CA, None),
        (GOOD_CA + certificate(ca=True, days=9), None),
        (certificate(ca=False, days=30), "certificate 1 (CN=someone) is no CA's"),
        (certificate(ca=None, days=30), "is no CA's"),
        (GOOD_CA + certificate(ca=True, days=-1), "certificate 2 (CN=someone) expired"),
        (GOOD_CA.replace("MI", "!!", 1), "not a certificate"),
        (GOOD_CA.replace("-----END", "-----"), "not a certificate"),
    ],
)
def test_client_ca(pem: str, words: str | None) -> None:
    block = "".join(f"      {line}\n" for line in pem.splitlines())
    text = GOOD + "  access:\n    client-ca: |\n" + block
    if words is None:
        assert check_text(text, "FILE").access.client_ca == pem
        return
    (failure,) = failures(text)
    assert (failure.code, failure.path) == (Code.BAD_CERTIFICATE, "basalt.access.client-ca")
    assert words in failure.found
