# SPDX-License-Identifier: Apache-2.0
"""The entry point of local-storage.service."""

from firstboot.storage.service import main

main()
