# SPDX-License-Identifier: Apache-2.0
"""Basalt's program on the node: agent, API and command line."""
