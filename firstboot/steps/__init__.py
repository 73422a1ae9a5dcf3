# SPDX-License-Identifier: Apache-2.0
"""Units of work: each knows whether it is done, and does it when it is not."""
