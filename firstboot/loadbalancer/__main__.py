# SPDX-License-Identifier: Apache-2.0
"""The service load-balancer: ``python3 -m firstboot.loadbalancer``."""

from firstboot.loadbalancer.process import main

if __name__ == "__main__":
    main()
