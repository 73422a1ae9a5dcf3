# SPDX-License-Identifier: Apache-2.0
"""Where a node's document comes from: a file, a credential or cloud-init, in this order.

`find` looks at the machine anew each time, parses no YAML and remembers nothing: the caller compares digests.
The first source that exists decides, even when its document is wrong; merging sources would make a document
nobody wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from firstboot import files, schema
from firstboot.codes import Code
from firstboot.config import Config
from firstboot.document import KEY, MAX_BYTES, Format
from firstboot.failure import DocumentError, Failure
from firstboot.strictyaml import short

FILE = "etc/basalt/config.yaml"
CREDENTIAL = "basalt.config"
USER_DATA = "var/lib/cloud/instance/user-data.txt"
UNPACKED = "var/lib/cloud/instance/user-data.txt.i"
COMBINED = "run/cloud-init/combined-cloud-config.json"
STATUS = "run/cloud-init/status.json"
CACHE = "var/lib/basalt/document.json"

PATIENCE = 300
"""Seconds that a stage of cloud-init may take; the slowest datasource asks its network for two minutes."""

MAX_COMBINED_BYTES = 16 * 1024 * 1024

# A top-level key of block YAML or of a flow mapping; whether it really is one is the parser's to say.
HAS_KEY = re.compile(rb"""(?m)^(?:\{\s*)?["']?basalt["']?\s*:""")

NO_DATASOURCE = "No instance datasource found."
NOT_CONSUMED = "Consuming user data failed!"
"""How cloud-init 25.1 puts that there is no cloud, and that it did not get through the user-data."""

LEVELS = ("CRITICAL", "ERROR", "WARNING")

WAYS = (
    "Give it as cloud-init user-data (`#cloud-config` with `basalt:`), as /etc/basalt/config.yaml, or as the "
    f"systemd credential `{CREDENTIAL}`."
)


@dataclass(frozen=True)
class Found:
    """A source has a document, right or wrong.

    origin:  the source, for people
    content: the file's bytes; None when cloud-init has merged the document from several parts
    data:    the value of ``basalt`` in that case
    """

    origin: str
    content: bytes | None = None
    data: Any = None

    @cached_property
    def digest(self) -> str:
        """Return a name of the content; another one means that the document was changed."""
        content = json.dumps(self.data, sort_keys=True).encode() if self.content is None else self.content
        return hashlib.sha256(self.origin.encode() + b"\0" + content).hexdigest()


@dataclass(frozen=True)
class Waiting:
    """No source has a document yet, but one may still get it. reason: what is waited for."""

    reason: str


@dataclass(frozen=True)
class Absent:
    """No source has a document, and none will without somebody's help. failure: why, and what to do."""

    failure: Failure


@dataclass(frozen=True)
class Accepted:
    """A document that passed the check. data: the value of ``basalt``."""

    origin: str
    digest: str
    data: Mapping[str, Any]

    @cached_property
    def config(self) -> Config:
        """Return the document as a Config."""
        return Config.from_dict(self.data)


def find(root: Path = Path("/"), credentials: Path | None = None) -> Found | Waiting | Absent:
    """Look for the document.

    credentials: folder of the unit's credentials, by default $CREDENTIALS_DIRECTORY
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    folder = credentials or (Path(given) if given else None)
    candidates = [(root / FILE, f"/{FILE}")]
    if folder is not None:
        candidates.append((folder / CREDENTIAL, f"credential {CREDENTIAL}"))
    for path, origin in candidates:
        found = _look(path, origin)
        if found is not None:
            return found
    return _cloud_init(root)


def accept(found: Found) -> Accepted:
    """Check a document. Raises DocumentError."""
    # YAML and the rules cost a third of a second on an emulated node; a restart with a known document needs
    # neither.
    from firstboot import validate

    if found.content is None:
        data = validate.check_data(found.data)
    else:
        data = validate.check_bytes(found.content, found.origin)
    return Accepted(found.origin, found.digest, data)


def remember(accepted: Accepted, root: Path = Path("/")) -> None:
    """Keep the document, durably, so that the next boot need not wait for its source. Raises BasaltError."""
    record = {
        "schema": _schema_digest(),
        "origin": accepted.origin,
        "digest": accepted.digest,
        "document": accepted.data,
    }
    files.write(root / CACHE, json.dumps(record, indent=1) + "\n", 0o600)


def recall(root: Path = Path("/")) -> Accepted | None:
    """Return the document accepted last, None when there is none or this image would not accept it."""
    try:
        record = json.loads((root / CACHE).read_bytes())
        accepted = Accepted(record["origin"], record["digest"], record["document"])
        if record["schema"] != _schema_digest():
            from firstboot import validate

            # A certificate in it that has ended since is no reason not to start any more.
            validate.check_data(accepted.data, datetime.min.replace(tzinfo=UTC))
    except (OSError, ValueError, KeyError, TypeError, DocumentError):
        return None
    return accepted


def _schema_digest() -> str:
    return hashlib.sha256(schema.path("user-data").read_bytes()).hexdigest()


def _read(path: Path, limit: int) -> bytes:
    """Return at most one byte more than the limit."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def _look(path: Path, origin: str) -> Found | Absent | None:
    """Return what a file holds, None when there is none."""
    try:
        return Found(origin, _read(path, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        remedy = "Make it a file that root can read."
        return Absent(Failure(Code.UNREADABLE, origin, f"cannot be read: {error.strerror}", remedy))


def _cloud_init(root: Path) -> Found | Waiting | Absent:
    """Return what cloud-init of this boot has."""
    disabled = _disabled(root)
    if disabled:
        return _nothing(f"cloud-init is switched off: {disabled}")
    stages = _json(root / STATUS).get("v1")
    stages = stages if isinstance(stages, dict) else {}
    merged, ended = (root / COMBINED).exists(), _ended(stages, "init")
    written = merged or NOT_CONSUMED in _errors(stages)[0] or _just_written(root)
    raw = _look(root / USER_DATA, "cloud-init user-data") if written else None
    if isinstance(raw, Absent):
        return raw
    if raw is not None and _is_document(raw):
        return raw
    return _merged(root, stages, raw) if merged or ended else _not_yet(root, stages)


def _just_written(root: Path) -> bool:
    """Whether the user-data is whole and of this boot although cloud-init is still busy with it.

    It lies where the last boot's lay, so only times tell: a stage begins by writing its status, then writes
    the user-data, then what it has unpacked from it. Not to wait for the rest saves seconds, and answers
    user-data that cloud-init chokes on, such as an alias bomb.
    """
    try:
        begun, raw, unpacked = ((root / name).stat().st_mtime_ns for name in (STATUS, USER_DATA, UNPACKED))
    except OSError:
        return False
    return begun <= raw <= unpacked


def _is_document(raw: Found) -> bool:
    content = raw.content or b""
    return Format.of(content) is Format.DOCUMENT and HAS_KEY.search(content) is not None


def _not_yet(root: Path, stages: Mapping[str, Any]) -> Waiting | Absent:
    """Return what is waited for, or that it has taken too long."""
    starts = (stage.get("start") for stage in stages.values() if isinstance(stage, dict))
    begun = max((start for start in starts if isinstance(start, int | float)), default=0.0)
    what = "cloud-init has not read the user-data yet" if begun else "cloud-init has not started yet"
    if _uptime(root) - begun < PATIENCE:
        return Waiting(what)
    return Absent(
        Failure(
            Code.CLOUD_INIT_FAILED,
            "cloud-init user-data",
            f"{what}, after more than {PATIENCE // 60} minutes",
            f"`systemctl status cloud-init-main` says why. {WAYS}",
        )
    )


def _uptime(root: Path) -> float:
    """Return seconds since the kernel started, the clock of cloud-init's status."""
    try:
        return float((root / "proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0


def _merged(root: Path, stages: Mapping[str, Any], raw: Found | None) -> Found | Absent:
    """Return what cloud-init made of all it was given, or why that holds no document."""
    content = raw.content if raw and raw.content else b""
    kind = Format.of(content)
    merged = _json(root / COMBINED)
    if KEY in merged:
        return Found("cloud-init's merged configuration", data=merged[KEY])
    grave, slight = _errors(stages)
    if NO_DATASOURCE in grave:
        return _nothing("cloud-init found neither a cloud nor a seed")
    errors = grave if kind is Format.EMPTY else [*grave, *slight]
    if errors and kind is not Format.DOCUMENT:
        return Absent(
            Failure(
                Code.CLOUD_INIT_FAILED,
                "cloud-init user-data",
                f"cloud-init reports: {short(errors[0], 160)}",
                "Correct the user-data and reboot, or give the document another way. "
                "`journalctl -u cloud-init-main` says more.",
            )
        )
    if kind is Format.DOCUMENT and raw is not None:
        return raw
    if kind is Format.EMPTY:
        return _nothing("cloud-init found no user-data")
    return _nothing(f"the user-data is {kind} in which cloud-init found no key `{KEY}`", Code.NO_BASALT_KEY)


def _nothing(found: str, code: Code = Code.NO_USER_DATA) -> Absent:
    return Absent(Failure(code, "document", found, WAYS))


def _disabled(root: Path) -> str | None:
    """Return why cloud-init does not run in this boot, None when it does or will."""
    if not (root / "usr/bin/cloud-init").exists():
        return "it is not installed"
    if (root / "etc/cloud/cloud-init.disabled").exists():
        return "/etc/cloud/cloud-init.disabled exists"
    try:
        if "cloud-init=disabled" in (root / "proc/cmdline").read_text().split():
            return "the kernel command line says so"
    except OSError:
        pass
    if (root / "run/cloud-init/disabled").exists():
        return "it knows no cloud this machine could be in, and found no seed"
    return None


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an unreadable one, as while it is being written, counts as empty."""
    try:
        found = json.loads(_read(path, MAX_COMBINED_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ended(stages: Mapping[str, Any], name: str) -> bool:
    stage = stages.get(name)
    return isinstance(stage, dict) and bool(stage.get("finished"))


def _errors(stages: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what ended one of the two stages that look for user-data, and what they went on after."""
    grave: list[str] = []
    slight: list[str] = []
    early = [stage for name in ("init-local", "init") if isinstance(stage := stages.get(name), dict)]
    for stage in early:
        grave += [str(error) for error in stage.get("errors") or ()]
        recoverable = stage.get("recoverable_errors") or {}
        slight += [str(error) for level in LEVELS for error in recoverable.get(level, ())]
    return grave, slight
