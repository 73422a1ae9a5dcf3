# SPDX-License-Identifier: Apache-2.0
"""How machines become one cluster.

tokens      what lets a machine in, and the proof that both sides know it
settings    what all nodes have in common, and what a document has to do with it
changes     which of it can be changed, and whether what comes out is right
versions    the object in the cluster that has it, with the versions before
followed    a node's own record of the version it follows
steward     what administrators ask about it
orphans     objects of users that a change of it would orphan
noticed     a node's own record that its cluster has network policies
rotation    the rotation of the cluster's CA, an object in it
rotator     what administrators ask about that
records     what control planes remember: tokens given out, machines let in
membership  a joined node's own record of it
messages    what the two sides say to each other
joiner      when it tries
joining     the side of the machine that wants in
partners    a datastore that opens itself to another control plane
credentials how control planes reach an etcd that somebody else runs
fence       what keeps control planes that a recovery left behind from running
admission   the side of the control plane that lets it in
quorum      whether the datastore can do without a member
voters      who its members are and who of them works
drain       the pods of a node that leaves
volumes     what local storage keeps on the disk of such a node
removal     the side of the control plane that takes a node out
leaving     the side of the machine that leaves
"""
