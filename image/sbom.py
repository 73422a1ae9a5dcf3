# SPDX-License-Identifier: Apache-2.0
"""The image's bill of materials, SPDX 2.3 JSON: Debian packages, components, and the Go modules inside them.

Debian packages come from mkosi's manifests (image and initrd), their licences from the copyright files that are in
the image (image/licences.py), components and modules from what their builds recorded.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import components
from .components import Module, Result

LICENCES = "licences.json"
_NAMESPACE = uuid.UUID("9c9e6e1f-5a0c-4b8e-9a43-2f4f5d8f7a11")
_NONE = "NOASSERTION"


@dataclass(frozen=True)
class Package:
    """One entry: purl is its package URL, licence an SPDX expression or NOASSERTION."""

    identifier: str
    name: str
    version: str
    purl: str
    licence: str = _NONE
    comment: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as SPDX has it."""
        entry: dict[str, Any] = {
            "SPDXID": self.identifier,
            "name": self.name,
            "versionInfo": self.version,
            "downloadLocation": _NONE,
            "filesAnalyzed": False,
            "licenseConcluded": _NONE,
            "licenseDeclared": self.licence,
            "copyrightText": _NONE,
        }
        if self.purl:
            reference = {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": self.purl,
            }
            entry["externalRefs"] = [reference]
        return entry | ({"comment": self.comment} if self.comment else {})


def identifier(*parts: str) -> str:
    """Return an SPDX identifier: letters, digits, dots and dashes only."""
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(parts))


def debian(manifest: Mapping[str, Any], licences: Mapping[str, str]) -> Iterator[Package]:
    """Yield the Debian packages of a manifest."""
    for entry in manifest["packages"]:
        name, version = entry["name"], entry["version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={entry['architecture']}&distro=trixie"
        comment = f"Licences by name as Debian records them: {licences[name]}" if licences.get(name) else ""
        yield Package(identifier("deb", name, entry["architecture"]), name, version, purl, comment=comment)


def component(result: Result) -> Package:
    """Return the entry of a component."""
    found = result.component
    purl = f"pkg:golang/{found.module}@{quote('v' + found.version, safe='')}" if found.module else ""
    return Package(identifier("component", found.name), found.name, found.version, purl, found.license)


def module(found: Module) -> Package:
    """Return the entry of a Go module: of the one whose code it is, which is what its flaws are known by."""
    path, version = found.source
    purl = f"pkg:golang/{quote(path)}@{quote(version, safe='')}"
    if found.replaced_by not in ("", f"{path} {version}"):
        comment = f"Built from {found.replaced_by} in its place"
    else:
        comment = f"In the place of {found.path}" if path != found.path else ""
    return Package(identifier("go", path, version), path, version, purl, comment=comment)


def library(toolchain: str) -> Package:
    """Return the entry of Go's standard library, under the name by which its flaws are listed."""
    return Package(
        identifier("go", "stdlib", toolchain),
        "stdlib",
        toolchain,
        f"pkg:golang/stdlib@{toolchain}",
        "BSD-3-Clause",
    )


def document(
    version: str,
    stamp: int,
    system: Iterable[Package],
    initrd: Iterable[Package],
    results: Iterable[tuple[Result, str]],
) -> dict[str, Any]:
    """Return the whole document; the image describes itself as the package that contains all others.

    results: components, each with the version of Go that it was made with
    """
    image = Package(
        identifier("image"), "basalt", version, "", "Apache-2.0", "Basalt's own code; see what it contains"
    )
    packages = {image.identifier: image}
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", image.identifier)]
    for package in (*system, *initrd):
        packages.setdefault(package.identifier, package)
    relations += [(image.identifier, "CONTAINS", name) for name in packages if name != image.identifier]
    for result, toolchain in results:
        entry = component(result)
        packages[entry.identifier] = entry
        relations.append((image.identifier, "CONTAINS", entry.identifier))
        for part in (*([library(toolchain)] if toolchain else []), *map(module, result.modules)):
            packages.setdefault(part.identifier, part)
            relations.append((entry.identifier, "STATIC_LINK", part.identifier))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"basalt-{version}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(_NAMESPACE, version)}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp)),
            "creators": [f"Tool: basalt-image-{version}"],
        },
        "packages": [package.to_dict() for package in packages.values()],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }


def write(output: Path, version: str, stamp: int, results: Iterable[Result]) -> None:
    """Turn mkosi's manifests and the licence list in a folder into the SBOM beside them."""
    licences = json.loads((output / LICENCES).read_text())
    system, initrd = output / f"basalt_{version}.manifest", output / "initrd.manifest"
    text = document(
        version,
        stamp,
        debian(json.loads(system.read_text()), licences),
        debian(json.loads(initrd.read_text()), licences),
        [(result, components.toolchain(result)) for result in results],
    )
    (output / f"basalt_{version}.spdx.json").write_text(json.dumps(text, indent=1) + "\n")
    for path in (system, initrd, output / LICENCES):
        path.unlink()
