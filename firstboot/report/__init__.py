# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: the status document and its renderings."""
