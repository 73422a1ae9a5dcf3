# SPDX-License-Identifier: Apache-2.0
"""A datastore is built of a snapshot beside the one that runs, before anything is decided."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from firstboot import files
from firstboot.backup.places import built, remove_tree, replaced, settle
from firstboot.datastores.store import Store
from firstboot.failure import BasaltError
from firstboot.services.model import Node


@asynccontextmanager
async def building(
    store: Store, node: Node, snapshot: Path, owner: files.Owner | None, decision: Path
) -> AsyncIterator[None]:
    """Build beside the store's folder; what goes wrong within undoes it, and that it is decided.

    owner:    of the data
    decision: the record that may be written within
    Raises BasaltError.
    """
    new = built(store.folder)
    try:
        # What an earlier one has left would look like the end of this one.
        for left in (new, replaced(store.folder)):
            await asyncio.to_thread(remove_tree, left)
        await store.build(node, snapshot, new)
        await asyncio.to_thread(settle, new, owner)
        yield
    except BaseException:
        await asyncio.to_thread(_undo, new, decision)
        raise


def _undo(new: Path, decision: Path) -> None:
    """Remove what was built, but never from under a record that says it is the node's."""
    files.remove(decision)
    remove_tree(new)


def refuse_mount(folder: Path) -> None:
    """Raise BasaltError for a folder that cannot be renamed."""
    if os.path.ismount(folder):
        raise BasaltError(
            f"{folder} is a file system of its own and cannot be exchanged",
            "Restore on a node whose state is on one file system.",
        )
