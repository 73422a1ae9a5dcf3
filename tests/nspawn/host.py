# SPDX-License-Identifier: Apache-2.0
"""What clusters in containers need of the host: an image, a kernel that can, and a place."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from image import components, declaration, host
from image.vm import disks
from image.vm.place import built_image
from tests.image import gpt

from .cluster import Cluster
from .container import Tree
from .wires import Wires, ip


def built_tree() -> Tree:
    """Return the /usr of the built image."""
    disk = disks.pinned(built_image())
    table = gpt.read(disk)
    [usr] = [each for each in table.partitions if each.type == gpt.Kind.USR and each.label != "_empty"]
    return Tree(disk, usr.offset)


PROGRAMS = {
    "/usr/bin/ip": "iproute2",
    "/usr/bin/nsenter": "util-linux",
    "/usr/bin/setpriv": "util-linux",
}
"""Programs of the host -> package that brings them; systemd-nspawn is the build's own."""


def lacking() -> str | None:
    """Return what the kernel lacks for containers of the image, None where it has all.

    Raises BasaltError for programs that it cannot install.
    """
    host.require_packages(PROGRAMS)
    # A kernel lists a file system of a module only once that is there.
    if modprobe := shutil.which("modprobe", path="/usr/sbin:/sbin"):
        subprocess.run([modprobe, "--quiet", "erofs"], check=False, timeout=60)
    if "erofs" not in Path("/proc/filesystems").read_text():
        return "this kernel does not know erofs"
    probe = ("link", "add", "basalt-probe", "type", "veth", "peer", "name", "basalt-probe1")
    if not ip(*probe, check=False):
        return "this kernel has no pairs of virtual cards"
    ip("link", "delete", "basalt-probe")
    return None


@contextmanager
def empty(datastore: str, tree: Tree) -> Iterator[Cluster]:
    """Make a cluster without a node."""
    program = components.build(declaration.load("torture")).folder / "etcd-torture"
    folder = Path(tempfile.mkdtemp(prefix="basalt-nspawn-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        wires = stack.enter_context(Wires())
        yield Cluster(datastore, tree, folder, wires, program, stack)
