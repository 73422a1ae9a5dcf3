# SPDX-License-Identifier: Apache-2.0
"""Turn an installed Debian tree into one whose /usr is all that is shipped: called by mkosi.finalize.

    python3 -m image.rootfs ROOT OUTPUT

OUTPUT gets licences.json for the SBOM.

/etc      goes to /usr/share/factory/etc; systemd-tmpfiles links it back, so that a file nobody changed is always the
          image's own, and a file put in the link's place is the machine's and stays through updates
units     enabled by presets become links under /usr, so that an update enables what it brings
kernel    leaves /usr, because the UKI has it
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from . import cloudinit, licences

FACTORY = Path("usr/share/factory/etc")
UNITS = Path("usr/lib/systemd/system")
TMPFILES = Path("usr/lib/tmpfiles.d/etc.conf")

# Machine's own, made by systemd or the agent, or of no use on a node.
DROPPED = frozenset(
    """
    .pwd.lock .resolv.conf.systemd-resolved.bak .updated
    X11 adduser.conf apt bash_completion.d bindresvport.blacklist cron.d cron.daily cron.hourly cron.monthly cron.weekly
    cron.yearly crypttab debconf.conf debian_version deluser.conf dhcp dhcpcd.conf dpkg e2scrub.conf fstab
    group group- gshadow gshadow- hostname init.d initramfs initramfs-tools issue issue.net kernel kernel-img.conf
    locale.alias locale.gen logcheck logrotate.d machine-id modprobe.d modules motd mtab network opt os-release
    passwd passwd- perl python3 python3.13 rc0.d rc1.d rc2.d rc3.d rc4.d rc5.d rc6.d rcS.d resolv.conf rmt rsyslog.d
    selinux shadow shadow- skel ssh subgid subgid- subuid subuid- terminfo update-motd.d vconsole.conf
    """.split()
)
# Folders in which machines have files of their own beside the image's: linked entry by entry. Not /etc/ssl/certs:
# its three hundred links cost an emulated machine ten seconds at every boot. A machine with other certificates puts a
# folder in the place of that one link.
MIXED = frozenset(("cloud", "cloud/cloud.cfg.d", "default", "ssl", "sysctl.d", "systemd", "udev"))

_OS_RELEASE = """\
NAME="Basalt"
PRETTY_NAME="Basalt {version}"
ID=basalt
ID_LIKE=debian
VERSION="{version}"
VERSION_ID="{version}"
VARIANT="{variant}"
VARIANT_ID={variant_id}
IMAGE_ID="basalt"
IMAGE_VERSION="{version}"
DEFAULT_HOSTNAME="basalt"
ANSI_COLOR="38;5;66"
DEBIAN_VERSION_ID="{debian}"
"""


def finalize(root: Path, *, dev: bool) -> None:
    """Do all of it to a tree."""
    version = read_release(root)["IMAGE_VERSION"]
    debian = read_release(root).get("VERSION_ID", "")
    write_release(root, version, debian, dev=dev)
    cloudinit.install(root)
    cloudinit.release_boot(root)
    enable_units(root)
    make_factory(root)
    write_tmpfiles(root)
    move_kernels(root)


def read_release(root: Path) -> dict[str, str]:
    """Return the fields of os-release."""
    lines = (root / "usr/lib/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines) if name}


def write_release(root: Path, version: str, debian: str, *, dev: bool) -> None:
    """Give the image its own name; Debian's version stays beside it for tools that look up its packages."""
    variant, variant_id = ("Development", "dev") if dev else ("Node", "node")
    text = _OS_RELEASE.format(version=version, variant=variant, variant_id=variant_id, debian=debian)
    (root / "usr/lib/os-release").write_text(text)


def enable_units(root: Path) -> None:
    """Move what presets enabled from /etc to /usr and leave one preset: nothing.

    Links in /etc are written once, on first boot: they would stay what they were when an update enables a new unit.
    """
    source = root / "etc/systemd/system"
    for path in sorted(source.rglob("*")):
        target = root / UNITS / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
        elif path.is_symlink():
            _link_unit(path, target)
        else:
            shutil.copy2(path, target)
    shutil.rmtree(source)
    presets = root / "usr/lib/systemd/system-preset"
    for preset in presets.glob("*.preset"):
        preset.unlink()
    (presets / "00-basalt.preset").write_text(
        "# Units are enabled by links in /usr/lib/systemd/system.\ndisable *\n"
    )


def _link_unit(link: Path, target: Path) -> None:
    name = os.readlink(link)
    target.unlink(missing_ok=True)
    if name == "/dev/null":
        target.symlink_to(name)
        return
    folder = ".." if target.parent.suffix in (".wants", ".requires", ".upholds") else ""
    target.symlink_to(Path(folder, Path(name).name))


def make_factory(root: Path) -> None:
    """Move /etc, without what is not the image's, to the factory."""
    factory = root / FACTORY
    shutil.rmtree(factory, ignore_errors=True)
    factory.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "etc", factory, symlinks=True)
    for name in DROPPED:
        path = factory / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    for folder in sorted((path for path in factory.rglob("*") if path.is_dir()), reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def write_tmpfiles(root: Path) -> None:
    """Write the tmpfiles.d file that brings the factory's files to /etc."""
    lines = ["# Made with the image by image/rootfs.py.", *tmpfiles_lines(root / FACTORY)]
    (root / TMPFILES).write_text("\n".join(lines) + "\n")


def tmpfiles_lines(factory: Path) -> Iterator[str]:
    """Yield a link for each entry of the factory, and a folder for each that machines add to."""
    yield "L /etc/os-release - - - - ../usr/lib/os-release"
    yield "L+ /etc/mtab - - - - ../proc/self/mounts"
    yield from _entries(factory, factory)


def _entries(folder: Path, factory: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(factory)
        if str(name) in MIXED and path.is_dir():
            yield f"d /etc/{name} 0755 root root -"
            yield from _entries(path, factory)
        else:
            up = "../" * len(name.parts)
            yield f"L /etc/{name} - - - - {up}{FACTORY}/{name}"


def move_kernels(root: Path) -> None:
    """Put the kernels where no partition is filled from; mkosi follows the link when it makes the UKI."""
    for kernel in sorted((root / "usr/lib/modules").glob("*/vmlinuz*")):
        target = root / "kernels" / kernel.parent.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(kernel, target)
        kernel.symlink_to(os.path.relpath(target, kernel.parent))


def main() -> int:
    """Run the command line described above; the profile comes from mkosi's environment."""
    root, output = map(Path, sys.argv[1:])
    (output / "licences.json").write_text(json.dumps(licences.collect(root)))
    finalize(root, dev="dev" in os.environ.get("PROFILES", "").split())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
