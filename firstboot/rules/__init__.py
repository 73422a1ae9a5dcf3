# SPDX-License-Identifier: Apache-2.0
"""Rules that no schema can say: what values mean, and how they go together.

model         a document under the rules: what it says, where something is wrong
order         all rules, one after the other
networks      those of pods and Services
features      cluster DNS and ingress; the load balancer's rules are beside it, in firstboot.loadbalancer.rules
addresses     the node's and the API's
joining       how a machine comes to its cluster
node          labels and taints
services      where they listen, what arguments they take, whom they ask
certificates  those that the document brings, for the cluster and for who administers it
datastore     backups, and an etcd that somebody else runs
"""
