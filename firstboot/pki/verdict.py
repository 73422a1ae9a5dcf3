# SPDX-License-Identifier: Apache-2.0
"""What an examination of files found, and a ledger that saves examining them again.

A file that has not changed since it was found good need not be read again, so a pass over a steady node costs
a few `stat` calls and no import of `cryptography`, also after a restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from firstboot import files


@dataclass(frozen=True)
class Sound:
    """The files are as they should be, as long as the clock is inside [since, until).

    since, until: seconds of the epoch
    not_after:    when the certificate ends, seconds of the epoch; None for what does not expire
    """

    since: float
    until: float
    not_after: float | None = None


Verdict = Sound | str
"""Sound, or the reason why the files have to be made (again)."""


def reason(verdict: Verdict) -> str | None:
    """Return why the files have to be made again, or None."""
    return verdict if isinstance(verdict, str) else None


def moment(now: datetime | None) -> datetime:
    """Return the given time or, without one, the clock's."""
    return now or datetime.now(UTC)


class Ledger:
    """Sound verdicts by name, each with a stamp of the files and the description it was reached for.

    With a path it outlives the process. It holds nothing that could not be found out again, so one that
    cannot be read counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, tuple[str, Sound]] = {}
        self._saved = True
        if path is not None:
            self._load(path)

    def recall(self, name: str, stamp: str, now: datetime) -> Sound | None:
        """Return the verdict when it was reached for the same stamp and still holds at this time."""
        known, verdict = self._entries.get(name, ("", None))
        if verdict is None or known != stamp or not verdict.since <= now.timestamp() < verdict.until:
            return None
        return verdict

    def note(self, name: str, stamp: str, verdict: Verdict) -> None:
        """Remember a sound verdict; forget the last one otherwise."""
        if isinstance(verdict, Sound):
            changed = self._entries.get(name) != (stamp, verdict)
            self._entries[name] = (stamp, verdict)
        else:
            changed = self._entries.pop(name, None) is not None
        self._saved = self._saved and not changed

    def save(self) -> None:
        """Write to disk what is new since the last time."""
        if self._path is None or self._saved:
            return
        entries = {
            name: {"stamp": stamp, **asdict(verdict)} for name, (stamp, verdict) in self._entries.items()
        }
        files.write(self._path, json.dumps(entries, indent=1, sort_keys=True) + "\n", 0o600)
        self._saved = True

    def _load(self, path: Path) -> None:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            for name, entry in json.loads(files.read_or_none(path) or b"{}").items():
                stamp = str(entry.pop("stamp"))
                self._entries[name] = (stamp, Sound(**entry))


def stamp(description: object, paths: Iterable[Path]) -> str:
    """Digest of a description (by its repr) and of everything `stat` knows about the files' state."""
    digest = hashlib.sha256(repr(description).encode())
    for path in paths:
        try:
            found = path.lstat()
        except OSError:
            digest.update(b"\0none")
            continue
        # The change time cannot be set back by hand, so a file edited in place never looks the same.
        state = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)
        digest.update(repr((*state, found.st_uid, found.st_gid)).encode())
    return digest.hexdigest()
