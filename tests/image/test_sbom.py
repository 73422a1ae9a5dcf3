# SPDX-License-Identifier: Apache-2.0
"""The SBOM names everything that is in the image, and the image has the licence of everything the SBOM names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from image import declaration, notices
from tests.image import secrets
from tests.image.built import Built, listed
from tests.image.programs import GoProgram, go_program

DOCUMENTS = Path("usr/share/doc")
COMMON = Path("usr/share/common-licenses")
# What Debian's copyright files say of a text that is elsewhere.
REFERENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])")
RULE = re.compile(r"^={78}$\n", re.MULTILINE)


@pytest.fixture(scope="module")
def purls(bom: dict[str, Any]) -> frozenset[str]:
    """The package URLs in the SBOM, as text without escapes."""
    references = (entry for package in bom["packages"] for entry in package.get("externalRefs", ()))
    return frozenset(
        unquote(entry["referenceLocator"]) for entry in references if entry["referenceType"] == "purl"
    )


@pytest.fixture(scope="module")
def debian(purls: frozenset[str]) -> frozenset[str]:
    """The names of the Debian packages in the SBOM."""
    return frozenset(found[1] for purl in purls if (found := re.match(r"pkg:deb/debian/([^@]+)@\d", purl)))


@pytest.fixture(scope="module")
def programs(root: Path) -> dict[str, GoProgram]:
    """Every Go program of the image with what it says of itself."""
    paths = secrets.files(root / "usr")
    return {path.name: found for path in paths if (found := go_program(secrets.content(path)))}


@pytest.fixture(scope="module")
def modules(programs: dict[str, GoProgram]) -> frozenset[tuple[str, str]]:
    """Every Go module whose code is in the image."""
    return frozenset(module for program in programs.values() for module in program.modules)


def test_every_debian_package_is_named(root: Path, debian: frozenset[str]) -> None:
    # The image has no database of packages, but each leaves its copyright file; libraries may share a folder by links.
    found = {path.parent.name for path in (root / DOCUMENTS).glob("*/copyright")}
    assert len(found) > 100
    assert found <= debian, listed(sorted(found - debian))


def test_every_debian_package_brings_its_licence(root: Path, debian: frozenset[str]) -> None:
    missing = [name for name in sorted(debian) if not (root / DOCUMENTS / name / "copyright").is_file()]
    assert debian and not missing, listed(missing)


def test_licences_that_debian_refers_to_are_there(root: Path) -> None:
    wanted = {
        name
        for path in (root / DOCUMENTS).glob("*/copyright")
        for name in REFERENCE.findall(path.read_text(errors="replace"))
    }
    missing = [name for name in sorted(wanted) if not (root / COMMON / name).is_file()]
    # Written so in the copyright file of some package; the text meant is there under its right name.
    misspelt = {"GPL-2.0": "GPL-2", "GFDL-3": "GFDL-1.3"}
    assert "GPL-2" in wanted
    assert {misspelt.get(name, name) for name in missing} <= {
        path.name for path in (root / COMMON).iterdir()
    }, missing


def test_every_component_is_named(bom: dict[str, Any]) -> None:
    named = {
        (package["name"], package["versionInfo"], package["licenseDeclared"]) for package in bom["packages"]
    }
    wanted = {(part.name, part.version, part.license) for part in declaration.components() if part.in_image}
    assert wanted and wanted <= named, listed(sorted(wanted - named))


def test_no_component_for_tests_is_inside(bom: dict[str, Any], programs: dict[str, GoProgram]) -> None:
    tests = [part for part in declaration.components() if part.test_only]
    names = {part.name for part in tests} | {
        Path(binary.path).name for part in tests for binary in part.binaries
    }
    assert not names & ({package["name"] for package in bom["packages"]} | programs.keys())


def test_every_module_of_every_program_is_named(
    programs: dict[str, GoProgram], modules: frozenset[tuple[str, str]], purls: frozenset[str]
) -> None:
    binaries = {
        Path(binary.path).name
        for part in declaration.components()
        for binary in part.binaries
        if part.in_image and not binary.is_c
    }
    assert binaries <= programs.keys(), "a program of ours that is not there"
    missing = [
        f"{path} {version}" for path, version in modules if f"pkg:golang/{path}@{version}" not in purls
    ]
    assert len(modules) > 100 and not missing, listed(sorted(missing))


def test_every_module_brings_its_licence(root: Path, modules: frozenset[tuple[str, str]]) -> None:
    found = licences((root / notices.PLACE).read_text())
    # The shortest licence in use has seven hundred characters; what is shorter than this only says whose work it is.
    missing = [module for module in sorted(modules) if found.get(module, 0) < 500]
    assert not missing, listed(missing)


def licences(text: str) -> dict[tuple[str, str], int]:
    """Return module -> length of its longest licence."""
    found: dict[tuple[str, str], int] = {}
    for block in RULE.split(text)[1:]:
        heads, _, body = block.partition("\n\n")
        for path, version, name in (line.rsplit(" ", 2) for line in heads.splitlines()):
            if re.match(r"(?i)licen[cs]e|copying|copyright", name):
                found[path, version] = max(found.get((path, version), 0), len(body.strip()))
    return found


def test_the_standard_library_is_named_and_brings_its_licence(
    root: Path, programs: dict[str, GoProgram], purls: frozenset[str]
) -> None:
    toolchains = {program.toolchain.removeprefix("go") for program in programs.values()}
    missing = [version for version in toolchains if f"pkg:golang/stdlib@{version}" not in purls]
    assert toolchains and not missing, listed(missing)
    assert "\nGo's standard library\n" in (root / notices.PLACE).read_text()


def test_the_document_is_whole(bom: dict[str, Any], built: Built) -> None:
    assert (bom["spdxVersion"], bom["name"]) == ("SPDX-2.3", f"basalt-{built.version}")
    names = [package["SPDXID"] for package in bom["packages"]]
    assert len(names) == len(set(names))
    known = {*names, bom["SPDXID"]}
    related = {entry["relatedSpdxElement"] for entry in bom["relationships"]}
    assert {entry["spdxElementId"] for entry in bom["relationships"]} | related <= known
    # Every package is reached from the document, so that none is a mere mention.
    assert set(names) <= related
