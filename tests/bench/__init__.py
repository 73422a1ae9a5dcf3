# SPDX-License-Identifier: Apache-2.0
"""`make bench`: how long and how much, beside the same programs started by hand on the same machine.

by-hand/      the cluster by hand: a shell script and its static configuration
baseline.py   gives a machine that script, the configuration and keys made beforehand
observe.py    looks at a cluster from outside and notes when it has got how far
boots.py      boots both, one after the other        memory.py         what an idle node uses
builds.py     sizes of the image, times of its build
clusters.py   clusters in containers                 writes.py         writers through API servers
                                                     availability.py   what their journals tell
results.py    what was measured, as JSON
tables.py     the same for people                    cluster_tables.py, markdown.py
"""
