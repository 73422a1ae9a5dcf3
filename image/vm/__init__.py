# SPDX-License-Identifier: Apache-2.0
"""Virtual machines in QEMU: what `make run` and the tests both build on.

arguments:   descriptions of a machine and the argument list they become; pure functions
accelerator: KVM where it really works, emulation elsewhere
seed:        user-data as the clouds hand it over: NoCloud and ConfigDrive disks
disks:       overlays, firmware variables, digests
qmp:         QEMU's control socket
process:     a running QEMU
status:      the node's status document over HTTP
"""
