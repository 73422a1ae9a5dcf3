# SPDX-License-Identifier: Apache-2.0
"""Builds components in the builder tree and keeps the results in the cache, known by their content.

    python3 -m image.components build [NAME...]   build what the cache lacks; without names: for the image
    python3 -m image.components path NAME         print the folder of a built component
    python3 -m image.components tidy NAME         bring go.mod and go.sum in order after a change of versions

A result is a folder: ``tree/`` with the files of the image, ``component.json`` with what they were made of,
and outputs that belong to no image beside them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.failure import BasaltError

from . import declaration, host, oci, trees
from .declaration import Binary, Component, Edit, Files
from .trees import INNER, Bind

OUTPUT = f"{INNER}/output"
GO_CACHE = f"{INNER}/go"
CA_BUNDLE = f"{INNER}/ca/ca-certificates.crt"
BUILD_SECONDS = 3600


@dataclass(frozen=True)
class Module:
    """A Go module inside a program; `replaced_by` is the module or folder its code came from instead."""

    path: str
    version: str
    sum: str = ""
    replaced_by: str = ""

    @property
    def source(self) -> tuple[str, str]:
        """Return path and version of the module whose code it is: the replacement's, unless that is a folder."""
        path, _, version = self.replaced_by.partition(" ")
        return (path, version) if version.startswith("v") else (self.path, self.version)


@dataclass(frozen=True)
class Result:
    """A component in the cache: its folder and what component.json says."""

    component: Component
    folder: Path
    data: Mapping[str, Any]

    @property
    def tree(self) -> Path | None:
        """Return the folder whose content goes into the image at /, None when there is none."""
        tree = self.folder / "tree"
        return tree if tree.is_dir() and self.component.in_image else None

    @property
    def size(self) -> int:
        """Return the bytes of all programs together."""
        return sum(int(entry["size"]) for entry in self.data["binaries"])

    @property
    def modules(self) -> tuple[Module, ...]:
        """Return every module that is inside one of the programs."""
        return tuple(Module(**entry) for entry in self.data["modules"])


def folder_of(component: Component) -> Path:
    """Return where the result of a component is, or will be."""
    return host.cache() / "components" / f"{component.name}-{component.key()}"


def cached(component: Component) -> Result | None:
    """Return a component's result when it is in the cache."""
    folder = folder_of(component)
    description = folder / "component.json"
    return Result(component, folder, json.loads(description.read_text())) if description.is_file() else None


def build(component: Component) -> Result:
    """Return a component's result, building it when it is not in the cache.

    Raises CommandError with the compiler's last lines and the path of the log.
    """
    if found := cached(component):
        return found
    host.require_root()
    builder = trees.builder_tree()
    with host.locked(f"component-{component.name}"):
        return cached(component) or _build(component, builder)


def build_all(components: Sequence[Component]) -> list[Result]:
    """Build several components one after the other and say how far it is."""
    if any(cached(component) is None for component in components):
        host.require_root()
        trees.builder_tree()
    results = []
    for number, component in enumerate(components, 1):
        print(progress(number, len(components), component), end=" ", flush=True)
        started, known = time.monotonic(), cached(component)
        try:
            results.append(known or build(component))
        except BaseException:
            print("failed", flush=True)
            raise
        print("cached" if known else f"built in {time.monotonic() - started:.0f} s", flush=True)
    return results


def progress(number: int, count: int, component: Component) -> str:
    """Return the beginning of a component's line of progress."""
    return f"component {number} of {count}: {component.name} {component.version} …"


def image_components() -> tuple[Component, ...]:
    """Return the components that are part of the image."""
    return tuple(component for component in declaration.components() if component.in_image)


def _build(component: Component, builder: Path) -> Result:
    log = log_of(component)
    log.unlink(missing_ok=True)
    started = time.monotonic()
    result = folder_of(component)
    # One at a time under the component's lock, so what an interrupted build left is found and removed.
    work = result.parent / ".work" / component.name
    shutil.rmtree(work, ignore_errors=True)
    (work / "output").mkdir(parents=True)
    (work / "result").mkdir()
    stage(component, work / "source", builder, log)
    for group in groups(component.binaries):
        _compile(component, group, work, builder, log)
    for binary in component.binaries:
        _install(binary, work)
    for each in component.files:
        _take(component, each, work / "result")
    for image in component.images:
        files = {inner: _target(work / "result", path) for inner, path in image.files}
        target = _target(work / "result", image.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        oci.write_archive(target, image.name, files, image.entrypoint, image.user, version=component.version)
    description = _describe(component, work, builder, time.monotonic() - started)
    (work / "result/component.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
    (work / "result").rename(result)
    shutil.rmtree(work)
    return Result(component, result, description)


def log_of(component: Component) -> Path:
    """Return the file with the output of a component's last build."""
    return host.cache() / "logs" / f"component-{component.name}.log"


def _target(folder: Path, path: str) -> Path:
    """Return where a declared path is: in the tree of the image, or beside it."""
    return folder / "tree" / path.lstrip("/") if path.startswith("/") else folder / path


def stage(component: Component, target: Path, builder: Path, log: Path) -> None:
    """Copy a component's folder and put the edited copies of modules into it, where go.mod replaces them."""
    shutil.copytree(component.folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in component.edits:
        copy = target / "edited" / edit.directory
        shutil.copytree(_download(component, edit, builder), copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
        host.run([sys.executable, "-I", component.folder / "edit.py", copy], log=log, cwd=copy, timeout=60)


def _download(component: Component, edit: Edit, builder: Path) -> Path:
    """Fetch a module's source, refuse it unless its sum is the pinned one, return its folder on this host."""
    argv = ["go", "mod", "download", "-json", f"{edit.module}@{edit.version}"]
    # Outside of any module: inside, the replacement would be looked at instead of the original.
    found = json.loads(host.run(_in_builder(component, argv, (), builder, cwd="/tmp"), timeout=600))
    if found.get("Sum") != edit.sum:
        raise BasaltError(
            f"{component.name}: {edit.module} {edit.version} has sum {found.get('Sum')}, expected {edit.sum}",
            "Either version changed without sum, or the module is not what it was: find out which.",
        )
    return _go_cache() / Path(found["Dir"]).relative_to(GO_CACHE)


def source_folders(component: Component, sources: Sequence[tuple[str, str]]) -> list[Path]:
    """Return where the code of modules (path, version) is on this host; what the cache lost is fetched again."""
    cache = _go_cache() / "mod"
    folders = [cache / f"{_escaped(path)}@{_escaped(version)}" for path, version in sources]
    lost = [
        f"{path}@{version}"
        for (path, version), folder in zip(sources, folders, strict=True)
        if not folder.is_dir()
    ]
    if lost:
        argv = ["go", "mod", "download", *lost]
        host.run(_in_builder(component, argv, (), trees.builder_tree(), cwd="/tmp"), timeout=600)
    return folders


def _escaped(name: str) -> str:
    """Return a module's path or version as Go's cache has it: capitals are marked, for file systems without them."""
    return re.sub(r"[A-Z]", lambda found: f"!{found[0].lower()}", name)


def _go_cache() -> Path:
    path = host.cache() / "go"
    for name in ("mod", "build"):
        (path / name).mkdir(parents=True, exist_ok=True)
    return path


def go_environment(component: Component, *, cgo: bool = False) -> dict[str, str]:
    """Return the variables of every Go command; caches have one path in all checkouts: they are shared."""
    return {
        **host.network_environment(),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": " ".join(declaration.GO_FLAGS),
        "GOPATH": GO_CACHE,
        "GOMODCACHE": f"{GO_CACHE}/mod",
        "GOCACHE": f"{GO_CACHE}/build",
        "SSL_CERT_FILE": CA_BUNDLE,
        "CGO_ENABLED": str(int(cgo)),
        **dict(component.environment),
    }


def _in_builder(
    component: Component,
    argv: Sequence[str],
    binds: Sequence[Bind],
    builder: Path,
    *,
    cwd: str = "",
    cgo: bool = False,
) -> list[str]:
    shared = (Bind(_go_cache(), GO_CACHE, writable=True), Bind(host.ca_bundle(), CA_BUNDLE))
    enter = trees.in_builder(
        argv,
        binds=(*shared, *binds),
        env=go_environment(component, cgo=cgo),
        cwd=cwd or inner_source(component),
        tree=builder,
    )
    # A build that is ended by a signal takes its compilers with it.
    return ["setpriv", "--pdeathsig", "KILL", *enter]


def inner_source(component: Component) -> str:
    """Return where the component's folder is in the builder tree."""
    return f"{INNER}/components/{component.name}"


def groups(binaries: Sequence[Binary]) -> Iterator[tuple[Binary, ...]]:
    """Put together what one command can build: Go links programs of the same flags side by side."""

    def flags(binary: Binary) -> tuple[object, ...]:
        own = binary.path if binary.is_c else ""
        return own, binary.cgo, binary.tags, binary.variables

    for _, group in itertools.groupby(sorted(binaries, key=lambda binary: repr(flags(binary))), flags):
        yield tuple(group)


def compile_command(binaries: Sequence[Binary]) -> list[str]:
    """Return the command that builds a group of programs into the output folder."""
    first = binaries[0]
    if first.is_c:
        return ["gcc", *declaration.C_FLAGS, "-o", f"{OUTPUT}/{first.built_name()}", first.package]
    variables = (f"-X {name}={value}" for name, value in first.variables)
    command = ["go", "build", f"-ldflags={' '.join((*declaration.LINKER_FLAGS, *variables))}"]
    if first.tags:
        command.append(f"-tags={','.join(first.tags)}")
    return [*command, "-o", f"{OUTPUT}/", *(binary.package for binary in binaries)]


def _compile(component: Component, binaries: Sequence[Binary], work: Path, builder: Path, log: Path) -> None:
    binds = (Bind(work / "source", inner_source(component)), Bind(work / "output", OUTPUT, writable=True))
    command = compile_command(binaries)
    argv = _in_builder(component, command, binds, builder, cgo=binaries[0].cgo)
    host.run(argv, log=log, timeout=BUILD_SECONDS, title=f"{component.name}: {shlex.join(command)}")


def _install(binary: Binary, work: Path) -> None:
    """Move a program to its place and make its further names."""
    # Go names the program of a folder's own package after the module, and that is named after the component.
    name = (
        binary.built_name()
        if binary.package != "."
        else _module_name(work / "source/go.mod").rpartition("/")[2]
    )
    target = _target(work / "result", binary.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    (work / "output" / name).rename(target)
    target.chmod(0o755)
    for link in binary.links:
        path = _target(work / "result", link)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(target, path.parent))


def _take(component: Component, wanted: Files, result: Path) -> None:
    """Copy files of a module, whose content go.sum has pinned, to their place."""
    version = declaration.required_version(component.folder / "go.mod", wanted.module)
    [source] = source_folders(component, [(wanted.module, version)])
    found = sorted(source.glob(wanted.pattern))
    if not found:
        raise declaration.DeclarationError(
            f"{component.name}: {wanted.module} {version} has no {wanted.pattern}"
        )
    target = _target(result, wanted.folder)
    target.mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copyfile(path, target / path.name)


def _module_name(go_mod: Path) -> str:
    found = re.search(r"^module\s+(\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise declaration.DeclarationError(f"{go_mod}: no module line")
    return found[1]


def _describe(component: Component, work: Path, builder: Path, seconds: float) -> dict[str, Any]:
    """Return what component.json says: programs with sizes, and the modules inside them."""
    modules = parse_modules(_go_version(component, work / "result", builder, "-m"))
    sizes = {
        binary.path: _target(work / "result", binary.path).stat().st_size for binary in component.binaries
    }
    return {
        "name": component.name,
        "version": component.version,
        "license": component.license,
        "module": component.module,
        "binaries": [{"path": path, "size": size} for path, size in sizes.items()],
        "images": [{"name": image.name, "path": image.path} for image in component.images],
        "modules": [vars(module) for module in modules],
        "seconds": round(seconds, 1),
    }


def _go_version(component: Component, folder: Path, builder: Path, *flags: str) -> str:
    """Return what Go says of a component's programs, nothing where none is Go's."""
    paths = [str(_target(Path(OUTPUT), binary.path)) for binary in component.binaries if not binary.is_c]
    command = ["go", "version", *flags, *paths]
    argv = _in_builder(component, command, (Bind(folder, OUTPUT),), builder, cwd="/tmp")
    return host.run(argv, timeout=60) if paths else ""


def toolchain(result: Result) -> str:
    """Return the version of Go that a component's programs were made with, empty where none is Go's."""
    said = _go_version(result.component, result.folder, trees.builder_tree())
    found = re.search(r": go(\d\S*)", said)
    return found[1] if found else ""


def parse_modules(text: str) -> list[Module]:
    """Return the modules that ``go version -m`` prints, each once, sorted; not our own main ones."""
    found: dict[str, Module] = {}
    last = ""
    for line in text.splitlines():
        match line.strip().split("\t"):
            case ["mod" | "dep", path, version, *rest]:
                last = path
                found[path] = Module(path, version, rest[0] if rest else "")
            case ["=>", path, version, *rest]:
                found[last] = Module(
                    last, found[last].version, rest[0] if rest else "", f"{path} {version}".strip()
                )
    return [found[path] for path in sorted(found) if not path.startswith("basalt.local/")]


def tidy(component: Component) -> None:
    """Let Go bring the module files in order, in the builder tree, and copy them back into the checkout."""
    builder = trees.builder_tree()
    with _scratch(component) as work:
        stage(component, work / "source", builder, log_of(component))
        binds = (Bind(work / "source", inner_source(component), writable=True),)
        argv = ["env", "GOFLAGS=-modcacherw", "go", "mod", "tidy"]
        print(host.run(_in_builder(component, argv, binds, builder), timeout=900), end="")
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(work / "source" / name, component.folder / name)


@contextmanager
def _scratch(component: Component) -> Iterator[Path]:
    work = host.cache() / "components" / f".tidy-{component.name}-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work)


def main(args: Sequence[str]) -> int:
    """Run the command line described above."""
    match list(args):
        case ["build", *wanted]:
            chosen = tuple(declaration.load(name) for name in wanted) or image_components()
            host.require_packages()
            build_all(chosen)
        case ["path", name]:
            print(build(declaration.load(name)).folder)
        case ["tidy", name]:
            host.require_root()
            tidy(declaration.load(name))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
