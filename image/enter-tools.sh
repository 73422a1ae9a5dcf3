#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Put the tools tree's /usr in the place of the host's, in this mount namespace, and become the program. The program
# replaces this shell, so that it is the caller's own child: a signal reaches QEMU, not a wrapper.
# usage: unshare --mount --propagation private sh enter-tools.sh TREE PROGRAM...
set -e
tree=$1
shift
mount --bind "$tree/usr" /usr
test ! -e /etc/ld.so.cache || mount --bind "$tree/etc/ld.so.cache" /etc/ld.so.cache
exec "$@"
