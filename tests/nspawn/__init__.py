# SPDX-License-Identifier: Apache-2.0
"""Clusters of the image's own /usr in containers of systemd-nspawn, at the speed of the host.

They have no kernel, firmware, disk or pods of their own: what has to do with these is tested on machines (tests/vm).
All the rest is the image's: systemd, cloud-init, agent, datastore, API server, kubelet.
"""
