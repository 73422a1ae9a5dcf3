# SPDX-License-Identifier: Apache-2.0
"""The datastore of a cluster becomes one of the other kind, dqlite or etcd, with all that is in it.

records    what a node writes down: that it takes part in a move, and what its datastore is since
messages   what control planes say to each other meanwhile
mover      the side of the control plane that is asked: it fences, copies, builds and decides
partaker   the side of the others: their datastore rests until they are told what has come of it

The last part, on either side, is firstboot.steps.moving. docs/datastore.md describes the whole.
"""
