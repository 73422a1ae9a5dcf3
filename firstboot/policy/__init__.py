# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy: from the cluster's objects to what nftables lets pass on this node.

The service (service) mirrors policies, pods and namespaces (model, selectors), works out what they mean here (compile)
and has the kernel follow (nft). The agent starts it when the cluster has a policy; see firstboot.steps.policies.
"""
