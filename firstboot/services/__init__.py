# SPDX-License-Identifier: Apache-2.0
"""The services of the image: one file each says what a service needs on this node."""
