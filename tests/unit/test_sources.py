# SPDX-License-Identifier: Apache-2.0
"""Where the document is found, in every state that files, credentials and cloud-init can be in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firstboot import sources
from firstboot.codes import Code
from firstboot.config import Role
from firstboot.failure import DocumentError
from firstboot.sources import Absent, Found, Waiting
from tests.unit.support_pki import Company

GOOD = "basalt:\n  role: control-plane\n"
CLOUD = "#cloud-config\n" + GOOD


class Machine:
    """A node's root folder with cloud-init installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("usr/bin/cloud-init", "")
        (root / "var/lib/basalt").mkdir(parents=True)

    def write(self, name: str, content: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def cloud_init(
        self,
        user_data: str | bytes | None = None,
        merged: dict[str, Any] | None = None,
        finished: tuple[str, ...] = ("init-local", "init"),
        **init: Any,
    ) -> None:
        """Write what cloud-init 25.1 leaves: user_data also survives a reboot, the rest is this boot's."""
        stages: dict[str, dict[str, Any]] = {
            name: {
                "errors": [],
                "recoverable_errors": {},
                "start": 1.0,
                "finished": 2.0 if name in finished else None,
            }
            for name in ("init-local", "init")
        }
        stages["init"].update(init)
        self.write(sources.STATUS, json.dumps({"v1": {"datasource": None, "stage": None, **stages}}))
        if user_data is not None:
            self.write(sources.USER_DATA, user_data)
        if merged is not None:
            self.write(sources.COMBINED, json.dumps(merged))

    def find(self) -> Found | Waiting | Absent:
        return sources.find(self.root, self.root / "credentials")

    def found(self) -> Found:
        found = self.find()
        assert isinstance(found, Found), found
        return found

    def absent(self) -> tuple[str, str]:
        absent = self.find()
        assert isinstance(absent, Absent), absent
        return absent.failure.code, f"{absent.failure.found} {absent.failure.remedy}"

    def waiting(self) -> str:
        waiting = self.find()
        assert isinstance(waiting, Waiting), waiting
        return waiting.reason


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_priority(machine: Machine) -> None:
    machine.cloud_init(CLOUD, {"basalt": {"role": "control-plane"}})
    assert machine.found().origin == "cloud-init user-data"
    machine.write("credentials/basalt.config", GOOD)
    assert machine.found().origin == "credential basalt.config"
    machine.write(sources.FILE, "what: ever\n")
    assert machine.found().origin == "/etc/basalt/config.yaml"


def test_credentials_of_the_unit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write("creds/basalt.config", GOOD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(machine.root / "creds"))
    assert isinstance(sources.find(machine.root), Found)


def test_a_file_without_the_key_is_a_wrong_document(machine: Machine) -> None:
    machine.write(sources.FILE, "role: control-plane\n")
    with pytest.raises(DocumentError) as caught:
        sources.accept(machine.found())
    (failure,) = caught.value.failures
    assert (failure.code, failure.path) == (Code.NO_BASALT_KEY, "/etc/basalt/config.yaml")


def test_a_file_that_cannot_be_read(machine: Machine) -> None:
    (machine.root / sources.FILE).mkdir(parents=True)
    assert machine.absent()[0] == Code.UNREADABLE


def test_nothing_before_cloud_init_of_this_boot(machine: Machine) -> None:
    assert "not started" in machine.waiting()
    # User-data of the boot before: this boot may bring another.
    machine.cloud_init(CLOUD, finished=())
    assert "not read" in machine.waiting()
    machine.cloud_init(CLOUD, finished=("init-local",))
    assert "not read" in machine.waiting()
    machine.cloud_init(merged={}, finished=("init-local",))
    assert machine.found().content == CLOUD.encode()


def touch(machine: Machine, **seconds: int) -> None:
    for attribute, when in seconds.items():
        os.utime(machine.root / getattr(sources, attribute), (when, when))


def test_user_data_is_taken_as_soon_as_it_is_whole(machine: Machine) -> None:
    machine.cloud_init(CLOUD, finished=("init-local",))
    machine.write(sources.UNPACKED, "")
    # Left by the boot before, and this boot's stage has only begun.
    touch(machine, USER_DATA=10, UNPACKED=11, STATUS=20)
    assert machine.waiting()
    # Being written.
    touch(machine, USER_DATA=21)
    assert machine.waiting()
    touch(machine, UNPACKED=22)
    assert machine.found().content == CLOUD.encode()
    # What cloud-init must unpack takes until it has.
    machine.write(sources.USER_DATA, "## template: jinja\n" + CLOUD)
    touch(machine, USER_DATA=21)
    assert machine.waiting()


@pytest.mark.parametrize(
    ("uptime", "started", "waits"),
    [(299, 0.0, True), (301, 0.0, False), (400, 101.0, True), (402, 101.0, False)],
)
def test_patience_ends(machine: Machine, uptime: int, started: float, waits: bool) -> None:
    if started:
        machine.cloud_init(finished=("init-local",), start=started)
    machine.write("proc/uptime", f"{uptime}.25 100.0\n")
    if waits:
        assert machine.waiting()
    else:
        code, text = machine.absent()
        assert code == Code.CLOUD_INIT_FAILED
        assert ("not read" if started else "not started") in text and "5 minutes" in text


def test_a_status_that_is_being_written_is_waited_for(machine: Machine) -> None:
    machine.write(sources.STATUS, '{"v1": {')
    assert machine.waiting()
    for text in ("[]", '{"v1": []}'):
        machine.write(sources.STATUS, text)
        assert machine.waiting()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("etc/cloud/cloud-init.disabled", "", "cloud-init.disabled exists"),
        ("proc/cmdline", "quiet cloud-init=disabled ro\n", "kernel command line"),
        ("run/cloud-init/disabled", "", "no seed"),
    ],
)
def test_cloud_init_switched_off(machine: Machine, name: str, content: str, words: str) -> None:
    machine.write(name, content)
    code, text = machine.absent()
    assert code == Code.NO_USER_DATA
    for word in (words, "user-data", "/etc/basalt/config.yaml", "basalt.config"):
        assert word in text


def test_no_cloud_init_at_all(machine: Machine) -> None:
    (machine.root / "usr/bin/cloud-init").unlink()
    assert machine.absent()[0] == Code.NO_USER_DATA


MERGED = {"basalt": {"role": "control-plane"}}
IN_MERGED = {"role": "control-plane"}

USER_DATA: list[tuple[str, str | bytes | None, dict[str, Any] | None, dict[str, Any], Any]] = [
    # what, raw user-data, merged configuration, more of the status, expected
    ("plain", CLOUD, {"basalt": {}}, {}, CLOUD),
    ("no header", GOOD, {}, {}, GOOD),
    ("quoted key", '{"basalt": {"role": "control-plane"}}', {}, {}, '{"basalt": {"role": "control-plane"}}'),
    ("not YAML", CLOUD + "\t- x: [", {}, {"recoverable_errors": {"WARNING": ["bad"]}}, CLOUD + "\t- x: ["),
    ("vendor-data", "#cloud-config\nusers: []\n", MERGED, {}, IN_MERGED),
    ("MIME", "Content-Type: multipart/mixed\n\n" + CLOUD, MERGED, {}, IN_MERGED),
    ("jinja", "## template: jinja\n" + CLOUD, MERGED, {}, IN_MERGED),
    ("gzip", b"\x1f\x8b\x08rest", MERGED, {}, IN_MERGED),
    ("include", "#include\nhttp://x\n", MERGED, {}, IN_MERGED),
    ("archive", "#cloud-config-archive\n- basalt:\n", MERGED, {}, IN_MERGED),
    ("other keys only", "#cloud-config\nusers: []\n", {"users": []}, {}, "#cloud-config\nusers: []\n"),
    ("script", "#!/bin/sh\n", {}, {}, (Code.NO_BASALT_KEY, "a script")),
    ("MIME without", "MIME-Version: 1.0\n", {}, {}, (Code.NO_BASALT_KEY, "MIME")),
    ("empty", "", {}, {}, (Code.NO_USER_DATA, "no user-data")),
    ("only vendor", "", MERGED, {}, IN_MERGED),
    ("warnings only", "", {}, {"recoverable_errors": {"WARNING": ["slow"]}}, (Code.NO_USER_DATA, "no user")),
    (
        "no datasource",
        None,
        None,
        {"errors": ["No instance datasource found."]},
        (Code.NO_USER_DATA, "neither a cloud nor a seed"),
    ),
    ("stale", CLOUD, None, {"errors": ["No instance datasource found."]}, (Code.NO_USER_DATA, "seed")),
    ("choked", CLOUD, None, {"errors": ["Consuming user data failed!"]}, CLOUD),
    ("crash", None, None, {"errors": ["disk\nfull"]}, (Code.CLOUD_INIT_FAILED, "disk")),
    (
        "unreadable part",
        "## template: jinja\n{{",
        {},
        {"recoverable_errors": {"WARNING": ["Failed to render"]}},
        (Code.CLOUD_INIT_FAILED, "Failed to render"),
    ),
]


@pytest.mark.parametrize(
    ("user_data", "merged", "init", "expected"),
    [row[1:] for row in USER_DATA],
    ids=[row[0] for row in USER_DATA],
)
def test_user_data(
    machine: Machine, user_data: Any, merged: Any, init: dict[str, Any], expected: Any
) -> None:
    machine.cloud_init(user_data, merged, **init)
    if isinstance(expected, tuple):
        code, text = machine.absent()
        assert code == expected[0]
        assert expected[1] in text and "\n" not in text
    elif isinstance(expected, str):
        assert machine.found().content == expected.encode()
    else:
        assert (machine.found().content, machine.found().data) == (None, expected)


def test_a_corrected_document_has_another_digest(machine: Machine) -> None:
    machine.cloud_init(CLOUD, {})
    seen = {machine.found().digest}
    assert machine.found().digest in seen
    changes: tuple[Callable[[], None], ...] = (
        lambda: machine.cloud_init(CLOUD + "  time: {}\n", {}),
        lambda: machine.cloud_init("## template: jinja\n", {"basalt": {"role": "control-plane"}}),
        lambda: machine.cloud_init("## template: jinja\n", {"basalt": {"role": "worker"}}),
        lambda: machine.write(sources.FILE, GOOD),
        lambda: machine.write(sources.FILE, CLOUD),
    )
    for change in changes:
        change()
        assert machine.found().digest not in seen
        seen.add(machine.found().digest)


def test_no_yaml_is_parsed_to_look(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(sources.FILE, CLOUD)
    digest = machine.found().digest
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert machine.found().digest == digest


def test_accepted_documents_are_remembered(machine: Machine) -> None:
    assert sources.recall(machine.root) is None
    machine.write(sources.FILE, GOOD)
    accepted = sources.accept(machine.found())
    assert accepted.config.role is Role.CONTROL_PLANE
    sources.remember(accepted, machine.root)
    assert sources.recall(machine.root) == accepted
    path = machine.root / sources.CACHE
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"origin": 1}'])
def test_a_damaged_memory_counts_as_none(machine: Machine, damage: str) -> None:
    machine.write(sources.CACHE, damage)
    assert sources.recall(machine.root) is None


@pytest.mark.parametrize(("role", "good"), [("control-plane", True), ("king", False)])
def test_a_document_of_another_image_is_checked_again(machine: Machine, role: str, good: bool) -> None:
    record = {"schema": "older", "origin": "x", "digest": "y", "document": {"role": role}}
    machine.write(sources.CACHE, json.dumps(record))
    assert (sources.recall(machine.root) is not None) == good


def test_a_known_document_outlives_the_certificates_in_it(machine: Machine) -> None:
    """An image with another schema must start, even if an administrators' CA has ended meanwhile."""
    document = {"role": "control-plane", "access": {"client-ca": Company.make("Admins", days=-1).pem}}
    record = {"schema": "older", "origin": "x", "digest": "y", "document": document}
    machine.write(sources.CACHE, json.dumps(record))
    assert sources.recall(machine.root) is not None


def test_merged_configuration_is_checked(machine: Machine) -> None:
    document = {"role": "control-plane", "node": {"labels": {"a": True}}}
    machine.cloud_init("## template: jinja\n", {"basalt": document})
    with pytest.raises(DocumentError) as caught:
        sources.accept(machine.found())
    assert [each.path for each in caught.value.failures] == ["basalt.node.labels.a"]
