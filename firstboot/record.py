# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of itself for its life: a frozen dataclass in a JSON file of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from firstboot import files
from firstboot.failure import BasaltError


@dataclass(frozen=True)
class Record:
    """A dataclass whose fields are the file's keys; REMEDY: what to do when the file is damaged."""

    REMEDY: ClassVar[str]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the record, None where there is none. Raises BasaltError when it is damaged."""
        text = files.read_or_none(path)
        if text is None:
            return None
        try:
            return cls.read(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise BasaltError(f"{path} is damaged: {error!r}", cls.REMEDY) from error

    @classmethod
    def read(cls, data: Any) -> Self:
        """Return the record of JSON data. Raises ValueError, KeyError or TypeError for what is none."""
        return cls(**data)

    def save(self, path: Path) -> None:
        """Write it, durably; from now on the node is this."""
        files.write(path, json.dumps(asdict(self), indent=2) + "\n", 0o600)
