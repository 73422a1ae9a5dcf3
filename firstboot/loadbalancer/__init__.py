# SPDX-License-Identifier: Apache-2.0
"""Addresses for Services of type LoadBalancer: given by one control plane, carried and announced by all nodes.

addresses   which addresses there are to give
objects     what is kept of Services, nodes and endpoints
allocator   which Service has which address: pure, and the same on every node that looks
lease       one control plane at a time writes it down
writer      in the status of Services, which is the record
speaker     which of the addresses this node may take packets for
keepalived  that as a configuration for layer 2, bird for BGP
process     the service that does all this beside the agent
"""
