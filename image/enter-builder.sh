#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Enter the builder tree, in this mount and process namespace: the tree read-only, what is lent to it under /basalt.
# usage: unshare --mount --propagation private --pid --fork sh enter-builder.sh \
#            TREE [SOURCE TARGET ro|rw]... -- FOLDER NAME=VALUE... PROGRAM...
set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
tree=$1
shift
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
mount -t tmpfs -o mode=0755 basalt "$tree/basalt"
mount -t tmpfs -o mode=1777 tmp "$tree/tmp"
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
for file in resolv.conf hosts; do
    test ! -e "/etc/$file" || mount --bind "/etc/$file" "$tree/etc/$file"
done
while test "$1" != --; do
    if test -d "$1"; then
        mkdir -p "$tree$2"
    else
        mkdir -p "$(dirname "$tree$2")"
        : >"$tree$2"
    fi
    mount --bind "$1" "$tree$2"
    test "$3" = rw || mount -o remount,bind,ro "$tree$2"
    shift 3
done
folder=$2
shift 2
exec chroot "$tree" /usr/bin/env -i --chdir="$folder" "$@"
