# SPDX-License-Identifier: Apache-2.0
"""What is in /usr, and what is not: nobody's password, no way to log in, no key, nothing that gives rights away."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest

from image import build, declaration, host, versions
from tests.image import secrets, units
from tests.image.built import listed, tool
from tests.image.programs import elf_sections, go_program

PASSWORD_FIELD = 1
# Rights given by a file's mode. None is of use on a node, where only root and services with NoNewPrivileges= run; the
# packages that bring them are needed for something else.
SETUID = {
    "usr/bin/chage": "passwd",
    "usr/bin/chfn": "passwd",
    "usr/bin/chsh": "passwd",
    "usr/bin/expiry": "passwd",
    "usr/bin/gpasswd": "passwd",
    "usr/bin/mount": "mount",
    "usr/bin/passwd": "passwd",
    "usr/bin/su": "util-linux",
    "usr/bin/umount": "mount",
    "usr/sbin/unix_chkpwd": "libpam-modules-bin",
}
# Keys that are in everybody's copy of a file and so are no secret.
PUBLISHED_KEYS = {"libgnutls.so.*": "those of its self test"}


@pytest.fixture(scope="module")
def initrd(uki: dict[str, bytes], scratch: Path) -> dict[str, bytes]:
    """The files of the initrd."""
    return secrets.initrd_files(uki[".initrd"], scratch)


@pytest.fixture(scope="module")
def accounts(root: Path, scratch: Path) -> Path:
    """The folder /etc with the accounts that systemd makes on the first boot."""
    folder = scratch / "accounts"
    (folder / "etc").mkdir(parents=True)
    shutil.copytree(root / "usr/lib/sysusers.d", folder / "usr/lib/sysusers.d")
    tool("systemd-sysusers", f"--root={folder}")
    return folder / "etc"


def entries(path: Path) -> dict[str, list[str]]:
    """Return the lines of a file of accounts by name."""
    return {line.split(":")[0]: line.split(":") for line in path.read_text().splitlines()}


def test_no_password_opens_any_account(accounts: Path) -> None:
    shadow, passwd = entries(accounts / "shadow"), entries(accounts / "passwd")
    assert "root" in shadow and shadow.keys() == passwd.keys()
    assert not [name for name, fields in shadow.items() if fields[PASSWORD_FIELD][:1] not in ("!", "*")]
    assert {fields[PASSWORD_FIELD] for fields in passwd.values()} == {"x"}


def test_only_root_is_root(accounts: Path) -> None:
    assert [name for name, fields in entries(accounts / "passwd").items() if fields[2] == "0"] == ["root"]


def test_the_image_brings_no_accounts_and_no_passwords(root: Path) -> None:
    names = re.compile(r"(passwd|shadow|group|gshadow|subuid|subgid|machine-id)-?")
    found = [path for path in (root / "usr/share/factory/etc").iterdir() if names.fullmatch(path.name)]
    found += [path for path in (root / "usr/lib").glob("credstore*/*")]
    assert not found, listed(found)


def test_no_password_opens_the_initrd(initrd: dict[str, bytes]) -> None:
    for name in ("etc/passwd", "etc/shadow"):
        for line in initrd.get(name, b"").decode().splitlines():
            assert line.split(":")[PASSWORD_FIELD][:1] in ("!", "*", "x"), f"{name}: {line}"


def test_there_is_no_way_in(root: Path) -> None:
    servers = re.compile(r"(sshd|sshd-session|dropbear|telnetd|in\.\w+d|ssh(d)?(@.*)?\.(service|socket))$")
    found = [path for path in (root / "usr").rglob("*") if servers.match(path.name)]
    assert not found, listed(found)


def test_no_login_prompt_is_started(root: Path) -> None:
    prompts = re.compile(
        r"(.*getty.*|debug-shell.*|autovt.*|console-shell.*|systemd-homed.*|machine-login.*)"
    )
    pulled = [
        f"{name} by {by}"
        for name, by in units.started(root, "default.target").items()
        if prompts.match(name) and name != "getty-pre.target"
    ]
    assert not pulled, listed(pulled)
    generators = [path.name for path in (root / "usr/lib/systemd/system-generators").iterdir()]
    assert "systemd-getty-generator" not in generators


def test_logging_in_is_forced_nowhere(root: Path) -> None:
    found = [
        path
        for path in (root / units.FOLDER).rglob("*")
        if path.is_file() and b"SYSTEMD_SULOGIN_FORCE=1" in path.read_bytes()
    ]
    assert not found, listed(found)


def test_files_that_give_rights_away_are_known(root: Path) -> None:
    found = {
        path.relative_to(root).as_posix()
        for path in (root / "usr").rglob("*")
        if not path.is_symlink() and path.is_file() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    }
    assert found <= SETUID.keys(), listed(sorted(found - SETUID.keys()))


def test_everything_is_roots_and_nobody_else_may_write(root: Path) -> None:
    wrong = [
        f"{path.relative_to(root)} {stat.filemode(found.st_mode)} {found.st_uid}"
        for path in (root / "usr").rglob("*")
        if not stat.S_ISLNK((found := path.lstat()).st_mode) and (found.st_uid or found.st_mode & 0o022)
    ]
    assert not wrong, listed(wrong)


def test_no_private_key_in_usr(root: Path) -> None:
    found = [path for path in secrets.files(root / "usr") if secrets.has_key(secrets.content(path))]
    found = [path for path in found if not any(fnmatch(path.name, name) for name in PUBLISHED_KEYS)]
    assert not found, listed(found)


def test_no_private_key_before_usr(initrd: dict[str, bytes], esp: Path) -> None:
    found = [name for name, data in initrd.items() if secrets.has_key(data)]
    found += [path.name for path in secrets.files(esp) if secrets.has_key(secrets.content(path))]
    assert len(initrd) > 100
    assert not found, listed(found)


def test_no_symbols_for_debuggers(root: Path) -> None:
    names = re.compile(r"(System\.map|vmlinux)(-.*)?$|.*\.debug$")
    found = [path for path in (root / "usr").rglob("*") if names.match(path.name)]
    assert not found and not any((root / "usr/lib/debug").rglob("*")), listed(found)
    with ThreadPoolExecutor() as pool:
        paths = list(secrets.files(root / "usr"))
        found = [path for path, debug in zip(paths, pool.map(has_debug, paths), strict=True) if debug]
    assert not found, listed(found)


def has_debug(path: Path) -> bool:
    """Tell whether a program, a library or a kernel module, packed or not, has what debuggers read."""
    data = lzma.decompress(path.read_bytes()) if path.name.endswith(".ko.xz") else secrets.content(path)
    return any(section.name.startswith((".debug", ".zdebug")) for section in elf_sections(data))


def test_programs_of_ours_have_no_symbols(root: Path) -> None:
    programs = [path for path in secrets.files(root / "usr") if go_program(secrets.content(path))]
    found = [
        path
        for path in programs
        if ".symtab" in {section.name for section in elf_sections(secrets.content(path))}
    ]
    assert programs and not found, listed(found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ID", "basalt"),
        ("ID_LIKE", "debian"),
        ("IMAGE_ID", "basalt"),
        ("VARIANT_ID", "node"),
        ("NAME", "Basalt"),
    ],
)
def test_release(root: Path, field: str, value: str) -> None:
    lines = (root / "usr/lib/os-release").read_text().splitlines()
    assert f'{field}="{value}"' in lines or f"{field}={value}" in lines


def test_kubernetes_is_the_version_that_everybody_names(root: Path) -> None:
    component = declaration.load("kubernetes")
    said = (root / build.KUBERNETES_VERSION).read_text()
    assert said == f"v{component.version}\n"
    assert versions.row(component)[:2] == ("kubernetes", said.strip().removeprefix("v"))
    client = json.loads(
        host.run([root / "usr/bin/kubectl", "version", "--client", "--output=json"], timeout=60)
    )
    assert client["clientVersion"]["gitVersion"] == said.strip()
