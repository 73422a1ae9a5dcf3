# SPDX-License-Identifier: Apache-2.0
"""Builds the disk image: tools, components, mkosi, artefacts.

    python3 -m image.build [--profile dev] [--refresh]

An image whose inputs did not change is not built again: it is already in build/, or in the cache.
--refresh takes the newest Debian packages instead of those installed by an earlier build.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from . import artefacts, components, host, inputs, keys, notices, sbom, trees
from .artefacts import Sizes
from .components import Result
from .inputs import ROOT, Inputs

BUILD = ROOT / "build"
KEPT = 3
# Where the parts of the checkout beside overlays/ go in the image.
STAGED = {
    "firstboot": "usr/lib/python3/dist-packages/firstboot",
    "schemas": "usr/share/basalt/schemas",
}
# systemd-pull looks here for the keys it trusts; Debian's own file names people who do not sign Basalt.
UPDATE_KEYRING = "usr/lib/systemd/import-pubring.gpg"
# Where the node reads which Kubernetes it is: firstboot/agent/standing.py.
KUBERNETES_VERSION = "usr/share/basalt/kubernetes-version"


def main(args: Sequence[str]) -> int:
    """Run the command line described above."""
    parser = argparse.ArgumentParser(prog="image.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--profile", default="", choices=("", "dev"), help="dev: root shell on the consoles, tools"
    )
    parser.add_argument("--refresh", action="store_true", help="take the newest Debian packages")
    options = parser.parse_args(args)
    build(options.profile, refresh=options.refresh)
    return 0


def build(profile: str = "", *, refresh: bool = False) -> Path:
    """Bring build/ up to date and return the disk image."""
    signer = keys.ensure()
    found = inputs.collect(profile, signer)
    if not refresh and current(BUILD, found.key):
        print(f"image: {_version_in(BUILD)} is current; {load_sizes(BUILD)}")
        return BUILD / artefacts.DISK
    host.require_root()
    host.require_packages()
    with host.locked("image"):
        cached = host.cache() / "finished" / found.key
        if refresh:
            shutil.rmtree(_mkosi_cache(profile), ignore_errors=True)
            shutil.rmtree(cached, ignore_errors=True)
        if not current(cached, found.key):
            _make(found, profile, signer, cached)
        artefacts.touch(cached)
        artefacts.copy(cached, BUILD)
        artefacts.prune(cached.parent, KEPT)
    print(f"image: {_version_in(BUILD)} in build/; {load_sizes(BUILD)}")
    return BUILD / artefacts.DISK


def current(folder: Path, key: str) -> bool:
    """Tell whether a folder has the complete image of this key."""
    path = folder / artefacts.KEY_FILE
    return path.is_file() and path.read_text().strip() == key and bool(artefacts.names(folder))


def _version_in(folder: Path) -> str:
    return next(
        path.name.removeprefix("basalt_").removesuffix(".efi") for path in folder.glob("basalt_*.efi")
    )


def load_sizes(folder: Path) -> Sizes:
    """Return the sizes a build wrote down."""
    return Sizes(**json.loads((folder / "sizes.json").read_text()))


def _make(found: Inputs, profile: str, signer: keys.Keys, target: Path) -> None:
    started = time.monotonic()
    trees.tools_tree()
    results = components.build_all(components.image_components())
    work = target.with_name(f".{target.name}")
    shutil.rmtree(work, ignore_errors=True)
    source, output = work / "source", work / "output"
    output.mkdir(parents=True)
    found = inputs.snapshot(found, profile, signer, source)
    stage(source, signer, results)
    log = host.cache() / "logs/image.log"
    log.unlink(missing_ok=True)
    warm = any(_mkosi_cache(profile).glob("*.cache"))
    print(f"image: {found.version} with mkosi, about {40 if warm else 150} s; log {log}", flush=True)
    extra = [result.tree for result in results if result.tree]
    trees.mkosi(mkosi_options(found, profile, signer, work, extra), source, log=log, timeout=3600)
    sizes = artefacts.arrange(output, found.version)
    sizes.check()
    (output / "sizes.json").write_text(json.dumps(asdict(sizes)) + "\n")
    sbom.write(output, found.version, found.stamp, results)
    artefacts.write_sums(output, signer)
    (output / artefacts.KEY_FILE).write_text(f"{found.key}\n")
    shutil.rmtree(target, ignore_errors=True)
    output.rename(target)
    shutil.rmtree(work)
    print(f"image: made in {time.monotonic() - started:.0f} s", flush=True)


def stage(source: Path, signer: keys.Keys, results: Sequence[Result]) -> None:
    """Complete the folder of a copied checkout that mkosi copies into the image at /."""
    root = source / "overlays"
    for name, place in STAGED.items():
        shutil.copytree(source / name, root / place)
    kubernetes = next(result.component for result in results if result.component.name == "kubernetes")
    _write(root / KUBERNETES_VERSION, f"v{kubernetes.version}\n".encode())
    _write(root / notices.PLACE, notices.text(results).encode())
    _write(root / UPDATE_KEYRING, signer.update_keyring.read_bytes())


def _write(path: Path, content: bytes) -> None:
    """Write a file of the image, with the modes of one whatever the umask of this host."""
    for folder in reversed(path.parents):
        if not folder.is_dir():
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
    path.write_bytes(content)
    path.chmod(0o644)


def mkosi_options(
    found: Inputs, profile: str, signer: keys.Keys, work: Path, extra: Sequence[Path]
) -> list[str]:
    """Return what mkosi is told beyond its configuration: everything that depends on the host or on the build."""
    cache = _mkosi_cache(profile)
    cache.mkdir(parents=True, exist_ok=True)
    return [
        f"--tools-tree={trees.tools_tree()}",
        f"--sandbox-tree={host.write_sandbox(host.cache() / 'trees')}",
        f"--cache-directory={cache}",
        f"--output-directory={work / 'output'}",
        f"--image-version={found.version}",
        f"--source-date-epoch={found.stamp}",
        *(f"--extra-tree={tree}" for tree in (*extra, work / "source/overlays")),
        f"--secure-boot-key={signer.key}",
        f"--secure-boot-certificate={signer.certificate}",
        f"--verity-key={signer.key}",
        f"--verity-certificate={signer.certificate}",
        *([f"--profile={profile}"] if profile else []),
        "--force",
        "build",
    ]


def _mkosi_cache(profile: str) -> Path:
    """Return mkosi's own cache, one for each profile: it keeps a tree of installed packages, and they differ."""
    return host.cache() / "images" / (profile or "node")


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
