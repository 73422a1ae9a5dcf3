# SPDX-License-Identifier: Apache-2.0
"""Container images of a few files, made without a container engine: the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_archive(
    path: Path, name: str, files: Mapping[str, Path], entrypoint: Sequence[str], user: str, *, version: str
) -> None:
    """Write an OCI image of one uncompressed layer as a tar archive, to be read by ``ctr images import``.

    files: path in the container to the program on this host
    """
    layer = _tar({inner.lstrip("/"): (source.read_bytes(), 0o755) for inner, source in files.items()})
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "User": user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "basalt"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["platform"] = {"architecture": "amd64", "os": "linux"}
    # containerd reads the full name from its own annotation; the standard one is for other tools.
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        "org.opencontainers.image.version": version,
    }
    index = _json(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    )
    blobs = {
        f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (config, layer, manifest)
    }
    members = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **blobs}
    path.write_bytes(_tar({member: (content, 0o644) for member, content in members.items()}))


def _tar(members: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Pack files, with the folders above them, in a fixed order and with no trace of owner or time."""
    folders = {str(parent) for member in members for parent in Path(member).parents if str(parent) != "."}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for member, (content, mode) in sorted(members.items()):
            info = tarfile.TarInfo(member)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
