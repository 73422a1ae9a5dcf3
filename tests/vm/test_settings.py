# SPDX-License-Identifier: Apache-2.0
"""The cluster's settings as an administrator changes them, and what the node's services have of it.

That they outlive a loss of power is in test_workers.py.
"""

from __future__ import annotations

import json
from typing import Any

from firstboot.report.status import Phase

from . import states
from .machine import Machine

KEY = "features.dns.upstream-nameservers"
COREFILE = "/etc/kubernetes/Corefile"
FILE = "/etc/basalt/config.yaml"
FOLLOWED_SECONDS = 240.0
"""From a new version to services that run with it."""


def test_settings_are_set_followed_refused_and_reverted(ready_machine: Machine) -> None:
    machine = ready_machine
    told = json.loads(machine.run("basalt get --json").stdout)
    assert (told["version"], told["author"], told["settings"][KEY]) == (1, "document of node-1", [])
    before = machine.run(f"cat {COREFILE}").stdout

    made = machine.run(f"basalt set {KEY}='[192.0.2.53, 192.0.2.54:5353]' --if-version 1").stdout
    assert made.startswith("version 2\n")
    wait_followed(machine, 2, "forward . 192.0.2.53 192.0.2.54:5353")

    refused = machine.run(f"basalt set cluster.pod-cidr=10.9.0.0/16 {KEY}=[nonsense]", check=False)
    assert refused.code == 2 and "Traceback" not in refused.stderr
    assert "cluster.pod-cidr" in refused.stderr and "[fixed-setting]" in refused.stderr
    assert f"{KEY}[0]" in refused.stderr and "[bad-address]" in refused.stderr
    late = machine.run(f"basalt set {KEY}=[192.0.2.99] --if-version 1", check=False)
    assert late.code == 1 and "[settings-changed]" in late.stderr
    assert machine.run(f"basalt get {KEY}").stdout == '["192.0.2.53", "192.0.2.54:5353"]\n'

    # A single node's document still decides, when somebody edits it.
    accepted = json.loads(machine.run("cat /var/lib/basalt/document.json").stdout)["document"]
    edited = {**accepted, "features": {"dns": {"upstream-nameservers": ["192.0.2.77"]}}}
    machine.write(FILE, json.dumps({"basalt": edited}), mode="0600")
    wait_followed(machine, 3, "forward . 192.0.2.77")

    assert machine.run("basalt set --revert 1").stdout.startswith("version 4\n")
    wait_followed(machine, 4)
    assert machine.run(f"cat {COREFILE}").stdout == before
    history = json.loads(machine.run("basalt get --history --json").stdout)["versions"]
    assert [(each["version"], each["author"]) for each in history] == [
        (4, "root"),
        (3, "document of node-1"),
        (2, "root"),
        (1, "document of node-1"),
    ]

    states.check_furniture(machine)
    assert machine.failed_units() == []


def wait_followed(machine: Machine, version: int, line: str = "") -> None:
    """Wait until the node says that it follows a version, on its Node object too, and CoreDNS runs with the line."""

    def followed() -> bool:
        status = machine.status()
        settings = status.settings if status else None
        return settings is not None and settings.version == version

    def runs() -> bool:
        return line in machine.run(f"cat {COREFILE}").stdout and is_current(machine)

    machine.wait_until(f"version {version} is followed", followed, FOLLOWED_SECONDS)
    machine.wait_until(f"CoreDNS runs with {line!r}", runs, FOLLOWED_SECONDS)
    machine.wait_for_phase(Phase.READY)
    machine.wait_until(
        f"the Node says that it follows {version}",
        lambda: nodes(machine) == {"node-1": version},
        FOLLOWED_SECONDS,
    )


def is_current(machine: Machine) -> bool:
    """Whether CoreDNS runs, with the arguments and files that the agent has written last."""
    shown = machine.run("systemctl show -p ActiveState -p MainPID coredns.service").stdout
    facts = dict(line.split("=", 1) for line in shown.splitlines())
    if facts["ActiveState"] != "active":
        return False
    running = machine.run(f"tr '\\0' '\\n' < /proc/{facts['MainPID']}/environ", check=False).stdout
    written = machine.run("grep ^BASALT_REVISION= /run/basalt/args/coredns.env").stdout.strip()
    return written in running.splitlines()


def nodes(machine: Machine) -> dict[str, Any]:
    """Return which version each node says that it follows."""
    told = json.loads(machine.run("basalt get --nodes --json").stdout)
    return {each["name"]: each["version"] for each in told["nodes"]}
