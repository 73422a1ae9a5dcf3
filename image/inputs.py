# SPDX-License-Identifier: Apache-2.0
"""What an image is made of: its inputs, the key that names their content, and the version that orders images.

The version is VERSION, then the moment (UTC) of the last change of an input: of the last commit that changed one, or,
with changes not committed, of the newest changed file. So the same commit gives the same version everywhere, and a
later state a higher one, which is what systemd-sysupdate goes by.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from firstboot.failure import BasaltError

from . import components, keys, trees

ROOT = Path(__file__).resolve().parents[1]
# Raised when an image must be made anew although no input changed.
FORMAT = 1
# Everything the image is made of but the components, which have keys of their own.
PATHS = (
    *(
        "VERSION",
        "firstboot",
        "mkosi.conf",
        "mkosi.conf.d",
        "mkosi.finalize",
        "mkosi.images",
        "mkosi.postinst.chroot",
    ),
    *("mkosi.profiles", "mkosi.repart", "overlays", "schemas"),
    *("image/__init__.py", "image/artefacts.py", "image/build.py", "image/cloudinit.py", "image/inputs.py"),
    "image/notices.py",
    *("image/initrd.py", "image/kernelmodules.py", "image/keys.py", "image/licences.py", "image/rootfs.py"),
    "image/sbom.py",
)


@dataclass(frozen=True)
class Inputs:
    """The files of the checkout that go into an image, relative to it, and what identifies them."""

    files: tuple[Path, ...]
    key: str
    stamp: int
    version: str


def collect(profile: str, signer: keys.Keys) -> Inputs:
    """Look at the checkout. Raises BasaltError where it is no git checkout."""
    names = _git("ls-files", "-z", "-co", "--exclude-standard", *PATHS)
    files = tuple(sorted(Path(name) for name in names if name and _is_entry(ROOT / name)))
    stamp = moment()
    return Inputs(
        files, key(ROOT, files, profile, signer), stamp, version((ROOT / "VERSION").read_text(), stamp)
    )


def snapshot(found: Inputs, profile: str, signer: keys.Keys, target: Path) -> Inputs:
    """Copy the inputs to a folder and return them as they are there: edits during a build are not in the image.

    Modes are what git would give, whatever the umask of this host.
    """
    for file in found.files:
        path = target / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, path, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode(ROOT / file))
    for path in (target, *target.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return replace(found, key=key(target, found.files, profile, signer))


def key(root: Path, files: Iterable[Path], profile: str, signer: keys.Keys) -> str:
    """Return the hash of all that decides an image's content."""
    digest = hashlib.sha256(f"{FORMAT}\0{profile}\0{trees.tree_key('tools')}\0".encode())
    digest.update(signer.certificate.read_bytes() + signer.update_keyring.read_bytes())
    for component in components.image_components():
        digest.update(f"{component.name}\0{component.key()}\0".encode())
    for file in files:
        digest.update(f"{file}\0{_content(root / file)}\0".encode())
    return digest.hexdigest()[:16]


def _is_entry(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return f"{mode(path):o} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def mode(path: Path) -> int:
    """Return the mode a file has in the image: git keeps only whether it can be executed."""
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def moment() -> int:
    """Return when an input changed last, in seconds since 1970."""
    changed = [
        ROOT / line[3:] for line in _git("status", "--porcelain", "-z", "--no-renames", "--", *PATHS) if line
    ]
    times = [int(path.stat().st_mtime) for path in changed if path.is_file()]
    if changed:
        # A deleted file has no time of its own; the folder it was in has.
        times += [int(_existing_parent(path).stat().st_mtime) for path in changed if not path.exists()]
    committed = "".join(_git("log", "-1", "--format=%ct", "--", *PATHS)).strip()
    times.append(int(committed or 0))
    return min(max(times), int(time.time()))


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def version(base: str, stamp: int) -> str:
    """Return an image's version: ``0.1.20261123.091500``."""
    return f"{base.strip()}.{time.strftime('%Y%m%d.%H%M%S', time.gmtime(stamp))}"


def _git(*arguments: str) -> list[str]:
    # A checkout that belongs to somebody else (a build with sudo) is read, nothing of it is executed.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BasaltError(
            f"{ROOT} is not a git checkout that can be read: {error}",
            "Build from a clone: git tells files from leftovers.",
        ) from error
    return done.stdout.split("\0")
