# SPDX-License-Identifier: Apache-2.0
"""Local storage: volumes that are folders of a node's disk, each with a limit that the file system enforces.

`python -m firstboot.storage` is local-storage.service, which every node runs. By data flow: `objects` (what the API
says), `volumes` with `quota` (what the disk says), `decide` (what has to be done; pure), `provisioner` (does it).
"""

from __future__ import annotations

from pathlib import Path

PROVISIONER = "local-storage.basalt.io"
"""In StorageClasses and on PersistentVolumes: whose they are."""
FINALIZER = "basalt.io/local-storage"
"""Keeps a PersistentVolume until its data is gone."""
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
HOSTNAME = "kubernetes.io/hostname"
SYSTEM = Path("/var")
"""Where images, logs and the datastore are."""
LACKS = Path("/run/local-storage/lacks")
"""What the service lacks, empty when nothing."""
DETAIL = Path("/run/local-storage/detail")
"""What it has to say when it works."""
