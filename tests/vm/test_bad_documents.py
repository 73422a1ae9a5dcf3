# SPDX-License-Identifier: Apache-2.0
"""Documents that cannot be used: said on every screen, harmless, and forgotten once they are corrected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from firstboot.codes import Code
from firstboot.report.status import Phase, State
from image.vm.seed import document_text

from .conftest import Boot
from .documents import control_plane
from .machine import BOOT_SECONDS, Machine, Setup

FILE = "/etc/basalt/config.yaml"
NOTICED_SECONDS = 60.0
DATASTORE_SECONDS = 180.0
GOOD = "basalt:\n  role: control-plane\n"


@dataclass(frozen=True)
class Bad:
    """A document's text, the code of its failure and the path it is said at."""

    text: str
    code: Code
    path: str


BAD = {
    "unknown key": Bad(GOOD + "  rolle: worker\n", Code.UNKNOWN_KEY, "rolle"),
    "no role": Bad("basalt:\n  version: 1\n", Code.MISSING_KEY, "role"),
    "wrong type": Bad(GOOD + "  cluster:\n    name: [a]\n", Code.WRONG_TYPE, "cluster.name"),
    "overlap": Bad(
        GOOD + "  cluster:\n    pod-cidr: 10.1.0.0/16\n    service-cidr: 10.1.4.0/24\n",
        Code.OVERLAP,
        "cluster.",
    ),
    "address of another": Bad(GOOD + "  node:\n    ip: 192.0.2.99\n", Code.NOT_ON_NODE, "node.ip"),
    "network the node is in": Bad(
        GOOD + "  cluster:\n    pod-cidr: 10.0.0.0/16\n", Code.NETWORK_TAKEN, "cluster.pod-cidr"
    ),
    "country no": Bad(
        GOOD + "  node:\n    labels:\n      country: no\n", Code.QUOTE_IT, "node.labels.country"
    ),
    "duplicate": Bad(GOOD + "  role: worker\n", Code.DUPLICATE_KEY, "role"),
    "tab": Bad("basalt:\n\trole: control-plane\n", Code.TAB, ""),
    "alias bomb": Bad(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n"
            for below, name in zip("abcdefgh", "bcdefghi", strict=True)
        )
        + "basalt: *i\n",
        Code.ALIAS_BOMB,
        "",
    ),
    "worker without a cluster": Bad("basalt:\n  role: worker\n", Code.MISSING_KEY, "cluster.token"),
    "empty": Bad("", Code.EMPTY, ""),
}


def said(machine: Machine, bad: Bad) -> bool:
    """Whether the status has exactly this failure."""
    status = machine.status()
    return status is not None and [failure.code for failure in status.failures] == [bad.code]


def test_bad_documents_then_a_good_one(boot: Boot) -> None:
    """One boot for all: the machine is the same throughout, which is the point."""
    machine = boot(Setup())
    machine.wait_until("no document", lambda: _asks_for_document(machine), BOOT_SECONDS)
    before = machine.boot_id()
    for name, bad in BAD.items():
        printed = len(machine.console.text())
        machine.write(FILE, bad.text)
        machine.wait_until(f"{name}: {bad.code}", partial(said, machine, bad), NOTICED_SECONDS)
        status = machine.status()
        assert status and status.phase is Phase.DOCUMENT_INVALID, name
        [failure] = status.failures
        assert bad.path in failure.path and failure.found and failure.remedy, name
        machine.wait_until(
            f"{name}: {bad.code} on the serial console",
            partial(_printed, machine, printed, bad.code),
            NOTICED_SECONDS,
        )
        screen = machine.run("cat /dev/vcs1").stdout
        assert bad.code in screen or failure.found[:40] in screen, f"{name}:\n{screen}"
    assert machine.boot_id() == before
    made = machine.run("find /etc/kubernetes /var/lib/etcd /var/lib/k8s-dqlite -type f", check=False)
    assert made.stdout == ""
    machine.write(FILE, document_text(control_plane()))
    machine.wait_until("the corrected document is followed", lambda: _accepted(machine), NOTICED_SECONDS)
    # What comes after is a first boot like any other: test_first_boot.py.
    machine.wait_until("its datastore works", lambda: _has_datastore(machine), DATASTORE_SECONDS)
    status = machine.status()
    assert status and status.document.origin == FILE and not status.failures


def test_a_bad_document_leaves_a_ready_node_as_it_is(ready_machine: Machine) -> None:
    machine = ready_machine
    bad = BAD["unknown key"]
    machine.write(FILE, bad.text)
    machine.wait_until("the failure is told", partial(said, machine, bad), NOTICED_SECONDS)
    assert machine.kubectl("get", "--raw", "/readyz").stdout == "ok"
    machine.run(f"rm {FILE}")
    machine.wait_until("the failure is gone", partial(_is_well, machine), NOTICED_SECONDS)


def _asks_for_document(machine: Machine) -> bool:
    status = machine.status()
    return bool(status and status.phase.needs_document and status.failures)


def _is_well(machine: Machine) -> bool:
    status = machine.status()
    return bool(status and status.phase is Phase.READY and not status.failures)


def _printed(machine: Machine, since: int, words: str) -> bool:
    return words in machine.console.text()[since:]


def _has_datastore(machine: Machine) -> bool:
    status = machine.status()
    part = status.components.get("k8s-dqlite") if status else None
    return part is not None and part.state is State.HEALTHY


def _accepted(machine: Machine) -> bool:
    status = machine.status()
    return bool(status and not status.failures and not status.phase.needs_document)
