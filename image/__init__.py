# SPDX-License-Identifier: Apache-2.0
"""Building the image: trees of tools, components and the image itself.

Runs on the host as it is: needs Python's own library only.
"""
