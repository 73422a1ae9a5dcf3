# SPDX-License-Identifier: Apache-2.0
"""Backups of a cluster's datastore: everything a new control plane needs to be the cluster, in one sealed file.

header      the readable beginning of the file
locks       how its key is made: of a passphrase, or for who has a private key
sealed      the encrypted rest, chunk by chunk, and the check sum at the end
archive     what is inside: settings, authorities, the datastore's snapshot
making      taking one on a node that runs
judging     whether one may become this node's cluster; nothing is touched until it may
building    a datastore of a snapshot, beside the one that runs
kept        backups that a control plane takes by itself
routine     when it does
recovering  the same with what is left on one member of a datastore that has lost the others
places      where a restore keeps what it needs, and the record that it is decided

docs/backup.md describes the format.
"""
