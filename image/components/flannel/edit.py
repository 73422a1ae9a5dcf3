# SPDX-License-Identifier: Apache-2.0
"""Leave in flannel what a node uses: three backends, and subnets from the Kubernetes API.

Two of the other backends need modules of clouds that cannot be fetched from everywhere, one needs a C
compiler; flannel's client of etcd, which no node uses, costs size and memory. Packets are filtered by nftables
only.
"""

import re
import shutil
import sys
from pathlib import Path

UNUSED_BACKENDS = ("alloc", "extension", "ipip", "ipsec", "tencentvpc", "udp")
PACKAGES = "github.com/flannel-io/flannel/pkg"


def remove(text: str, pattern: str, replacement: str = "") -> str:
    """Replace what the pattern matches; exactly once, or upstream has changed and this file must follow."""
    result, count = re.subn(pattern, replacement, text, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise SystemExit(f"edit.py: {pattern!r} matches {count} times, expected once")
    return result


def edit(module: Path) -> None:
    """Edit the copy of the module in this folder."""
    main = module / "main.go"
    text = main.read_text()
    for backend in UNUSED_BACKENDS:
        text = remove(text, rf'^\t_ "{PACKAGES}/backend/{backend}"\n')
        shutil.rmtree(module / "pkg/backend" / backend)
    text = remove(text, rf'^\tetcd "{PACKAGES}/subnet/etcd"\n')
    text = remove(
        text,
        r"^\tcfg := &etcd\.EtcdConfig\{.*?return etcd\.NewLocalManager\([^\n]*\n",
        '\treturn nil, errors.New("this build gets subnets from Kubernetes only: set --kube-subnet-mgr")\n',
    )
    shutil.rmtree(module / "pkg/subnet/etcd")
    # It would clean up after an earlier start with iptables, for which it needs a program that the image lacks.
    text = remove(text, r"^\tcleanupMngr := newTrafficManager\(!.*?^\t\}\n")
    main.write_text(text)


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
