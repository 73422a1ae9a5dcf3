# SPDX-License-Identifier: Apache-2.0
"""mkosi, and the two trees it makes beside the image: tools (build and run images), builder (compile).

Each tree is a folder of the cache named by the hash of its configuration. It is made under another name and
renamed when it is complete.

    python3 -m image.trees tools            print the path of the tools tree, building it when it is missing
    python3 -m image.trees builder          the same for the builder tree
    python3 -m image.trees run PROGRAM...   run a program of the tools tree
    python3 -m image.trees shell            a shell in the builder tree
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstboot.failure import BasaltError

from . import host

MKOSI_VERSION = "25.3"
HERE = Path(__file__).resolve().parent
# What is lent to a program in the builder tree lies under this folder.
INNER = "/basalt"
GO_BIN = "/usr/lib/go-1.26/bin"
_EXPECTED_SECONDS = {"tools": 35, "builder": 45}


@dataclass(frozen=True)
class Bind:
    """A file or folder of the host, seen in the builder tree under /basalt; read-only unless writable."""

    source: Path
    target: str
    writable: bool = False

    def words(self) -> list[str]:
        """Return source, target and mode as the entering script takes them."""
        if not self.target.startswith(f"{INNER}/"):
            raise ValueError(f"{self.target}: binds go under {INNER}")
        return [str(self.source), self.target, "rw" if self.writable else "ro"]


def tree_key(name: str) -> str:
    """Return what a tree is known by: a hash of all that decides its content."""
    configuration = (HERE / name / "mkosi.conf").read_bytes()
    return hashlib.sha256(f"1 {MKOSI_VERSION} ".encode() + configuration).hexdigest()[:16]


def tools_tree() -> Path:
    """Return the tree with what builds and runs images (QEMU, OVMF, repart, ukify); build it when missing."""
    return _tree("tools")


def builder_tree() -> Path:
    """Return the tree with Go, gcc and the libraries components link against; build it when missing."""
    return _tree("builder")


def _tree(name: str) -> Path:
    path = host.cache() / "trees" / f"{name}-{tree_key(name)}"
    if path.is_dir():
        return path
    host.require_root()
    with host.locked(path.name):
        if not path.is_dir():
            _build(name, path)
    return path


def _build(name: str, path: Path) -> None:
    log = host.cache() / "logs" / f"tree-{name}.log"
    # Standard output is for the path alone, so that a shell can take it from `image.trees tools`.
    print(f"{name} tree: building, about {_EXPECTED_SECONDS[name]} s", file=sys.stderr, flush=True)
    started = time.monotonic()
    folder = path.with_name(f".{path.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.unlink(missing_ok=True)
    mkosi(
        [
            f"--sandbox-tree={host.write_sandbox(host.cache() / 'trees')}",
            f"--output-directory={folder}",
            "--output=tree",
            "--force",
            "build",
        ],
        HERE / name,
        log=log,
    )
    for place in (
        folder / "tree" / INNER.strip("/"),
        folder / "tree/etc/resolv.conf",
        folder / "tree/etc/hosts",
    ):
        _mount_point(place)
    (folder / "tree").rename(path)
    shutil.rmtree(folder)
    print(f"{name} tree: built in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _mount_point(path: Path) -> None:
    """Make an empty folder, or a file under etc/, for mounts: the tree is read-only when it is in use."""
    if path.parent.name == "etc":
        path.unlink(missing_ok=True)
        path.touch()
    else:
        path.mkdir(exist_ok=True)


def mkosi_source() -> Path:
    """Return the folder with mkosi's Python package, from Debian's archive: it is on no Python index."""
    path = host.cache() / "mkosi" / MKOSI_VERSION
    packages = path / "usr/lib/python3/dist-packages"
    if packages.is_dir():
        return packages
    host.require_root()
    host.require_packages()
    with host.locked("mkosi-package"):
        if not packages.is_dir():
            _unpack_mkosi(path)
    return packages


def _unpack_mkosi(path: Path) -> None:
    folder = path.with_name(f".{path.name}")
    log = host.cache() / "logs" / "mkosi-package.log"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "preferences.d", "tree"):
        (folder / name).mkdir(parents=True)
    (folder / "debian.sources").write_text(host.mirror().sources())
    apt = ["apt-get", "-q", *_apt_options(folder)]
    host.run([*apt, "update"], log=log, timeout=300, cwd=folder)
    host.run([*apt, "download", f"mkosi={MKOSI_VERSION}-*"], log=log, timeout=300, cwd=folder)
    host.run(["dpkg-deb", "-x", next(folder.glob("mkosi_*.deb")), folder / "tree"])
    found = host.run(
        [sys.executable, "-m", "mkosi", "--version"],
        env=_mkosi_environment(folder / "tree/usr/lib/python3/dist-packages"),
    )
    if found.split() != ["mkosi", MKOSI_VERSION]:
        raise BasaltError(f"the Debian package gave {found.strip()!r}, not mkosi {MKOSI_VERSION}")
    (folder / "tree").rename(path)
    shutil.rmtree(folder)


def _apt_options(folder: Path) -> list[str]:
    """Make apt look at our sources and folders only; the host's proxy settings stay in force."""
    settings = {
        "Dir::Etc::sourcelist": folder / "debian.sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": folder / "preferences.d",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "APT::Sandbox::User": "root",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _mkosi_environment(packages: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(packages)}


def mkosi_command(args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return argument list and environment that run mkosi with this cache's folders."""
    folders = {name: host.cache() / name for name in ("packages", "workspace")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"--package-cache-directory={folders['packages']}",
        f"--workspace-directory={folders['workspace']}",
    ]
    return [sys.executable, "-m", "mkosi", *options, *args], _mkosi_environment(mkosi_source())


def mkosi(args: Sequence[str], cwd: Path, *, log: Path | None = None, timeout: float = 3600) -> str:
    """Run mkosi in the folder of its configuration, alone: two at once spoil each other's caches."""
    argv, environment = mkosi_command(args)
    with host.locked("mkosi"):
        return host.run(argv, cwd=cwd, env=environment, log=log, timeout=timeout)


def with_tools(argv: Sequence[str | Path], tree: Path | None = None) -> list[str]:
    """Return the argument list that runs a program with the tools tree's /usr in the place of the host's.

    The program keeps the process id of the one that is started; needs root.
    """
    enter = ["unshare", "--mount", "--propagation", "private", "sh", str(HERE / "enter-tools.sh")]
    return [*enter, str(tree or tools_tree()), *map(str, argv)]


def in_builder(
    argv: Sequence[str | Path],
    *,
    binds: Sequence[Bind] = (),
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    tree: Path | None = None,
) -> list[str]:
    """Return the argument list that runs a program in the builder tree; of the host it has but the binds.

    Variables are only those of `env` and a PATH; every process ends with the first one. Needs root.
    """
    enter = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
    variables = {"PATH": f"{GO_BIN}:/usr/sbin:/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **(env or {})}
    return [
        *enter,
        *("sh", str(HERE / "enter-builder.sh"), str(tree or builder_tree())),
        *(word for bind in binds for word in bind.words()),
        *("--", cwd),
        *(f"{name}={value}" for name, value in variables.items()),
        *map(str, argv),
    ]


def main(args: Sequence[str]) -> int:
    """Run the command line described above."""
    match list(args):
        case ["tools"]:
            print(tools_tree())
        case ["builder"]:
            print(builder_tree())
        case ["run", *argv] if argv:
            command = with_tools(argv)
            os.execvp(command[0], command)
        case ["shell"]:
            command = in_builder(["bash"], env={"TERM": os.environ.get("TERM", "dumb")})
            os.execvp(command[0], command)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
