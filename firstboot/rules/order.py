# SPDX-License-Identifier: Apache-2.0
"""All rules in their order, which decides what is shown where a place breaks several: the first one counts."""

from __future__ import annotations

from firstboot.failure import Failure
from firstboot.loadbalancer import rules as balanced
from firstboot.rules import addresses, certificates, datastore, features, joining, networks, node, services
from firstboot.rules.model import Rules


def check(rules: Rules) -> list[Failure]:
    """Return what breaks a rule, at most one failure per place."""
    networks.check(rules)
    features.check(rules)
    addresses.check(rules)
    balanced.check(rules)
    joining.check(rules)
    node.check(rules)
    services.check(rules)
    certificates.check(rules)
    datastore.check(rules)
    return rules.failures
