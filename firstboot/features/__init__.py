# SPDX-License-Identifier: Apache-2.0
"""What the cluster offers beyond the bare API: one file each, all of them services of the image."""
