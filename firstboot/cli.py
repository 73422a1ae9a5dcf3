# SPDX-License-Identifier: Apache-2.0
"""The command line. On a node, as root, it talks to the agent over a unix socket; elsewhere over HTTPS.

Exit codes: 0 all is well; 1 it failed; 2 the document or the command line is wrong; 3 the node is not in the
wanted phase and will not get there by itself; 4 time is over; 130 interrupted.
Each command imports what it needs when it runs: starting Python is what a slow machine waits for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot import cli_certificates, cli_datastore, cli_settings
from firstboot.failure import BasaltError, DocumentError
from firstboot.text import clean, table

if TYPE_CHECKING:
    from firstboot.client import Client
    from firstboot.report.status import Phase, Status

EXIT_PHASE = 3
EXIT_TIME = 4
EXIT_USAGE = 2
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
POLL = 2.0
"""Seconds between two looks of --watch and --wait."""
REMOVAL_SILENCE = 300.0
"""Seconds without a word about a removal; the datastore may need its time for one step."""
LOST = """A reset removes everything that this machine holds, at its next start: its certificates, its part of the
datastore, images, pods and their local volumes. On the only control plane that is the whole cluster.
The image stays. The machine powers off; started again, it looks for a document as a new one does.
Say --yes to do it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        arguments = parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
        return code
    except DocumentError as error:
        for failure in error.failures:
            print(f"basalt: {failure}", file=sys.stderr)
        return error.exit_code
    except BasaltError as error:
        print(f"basalt: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, e.g. `head`, has enough. Nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the chosen one is in the namespace as ``command``."""
    top = argparse.ArgumentParser(
        prog="basalt",
        description="Look after a Basalt node: as root on the node itself, elsewhere with --endpoint.",
    )
    remote = top.add_argument_group("a node elsewhere")
    remote.add_argument("--endpoint", metavar="URL", help="the node's API, e.g. https://192.0.2.7:6400")
    remote.add_argument(
        "--cert", type=Path, metavar="FILE", help="client certificate signed by access.client-ca"
    )
    remote.add_argument("--key", type=Path, metavar="FILE", help="its key")
    remote.add_argument("--cacert", type=Path, metavar="FILE", help="CA of the cluster")
    remote.add_argument("--insecure", action="store_true", help="do not check who the node is")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_status(commands)
    planning = _add(commands, "plan", plan, "show what the agent would do now")
    planning.add_argument("--json", action="store_true", help="print JSON, with all steps")
    planning.add_argument("--all", action="store_true", help="also show steps that have nothing to do")
    validating = _add(commands, "validate", validate, "check a document; needs no node")
    validating.add_argument("file", metavar="FILE", help='the document, or "-" for standard input')
    validating.add_argument("--json", action="store_true", help="print the failures as JSON")
    kube = _add(commands, "kubeconfig", kubeconfig, "print an administrator's kubeconfig")
    kube.add_argument("--server", metavar="URL", help="address of the API server in it")
    cli_certificates.add(commands, _client)
    logs_ = _add(commands, "logs", logs, "print the journal of one component")
    logs_.add_argument("component", metavar="COMPONENT", help="e.g. basalt, kubelet, kube-apiserver")
    logs_.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="newest lines, default 100")
    logs_.add_argument("-f", "--follow", action="store_true", help="go on with lines to come")
    joining = _add(commands, "get-join-token", get_join_token, "make a token that lets one machine join")
    joining.add_argument("--role", metavar="ROLE", help="only for a worker or a control-plane")
    joining.add_argument("--lifetime", default="1h", metavar="TIME", help="e.g. 30m, 12h, 7d; default 1h")
    joining.add_argument("--json", action="store_true", help="print JSON, with the time when it expires")
    cli_settings.add(commands, _client)
    cli_datastore.add(commands, _client)
    _add_leaving(commands)
    _add(commands, "version", version, "print versions; without a node only that of this program")
    _add(commands, "agent", agent, "run the node's agent; systemd does this")
    return top


Commands = argparse._SubParsersAction  # argparse has no public name for it
Command = Callable[[argparse.Namespace], int]


def _add(
    commands: Commands[argparse.ArgumentParser], name: str, command: Command, help: str
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help.capitalize() + ".")
    added.set_defaults(command=command)
    return added


def _add_status(commands: Commands[argparse.ArgumentParser]) -> None:
    added = _add(commands, "status", status, "show how the node stands")
    how = added.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="go on showing it")
    how.add_argument("--wait", metavar="PHASE", help="wait until the node is in this phase, e.g. ready")
    added.add_argument("--json", action="store_true", help="print the status document")
    added.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds to --wait, default 600"
    )


def _add_leaving(commands: Commands[argparse.ArgumentParser]) -> None:
    removing = _add(
        commands, "remove-node", remove_node, "take a node out of its cluster and reset its machine"
    )
    removing.add_argument("name", metavar="NAME", help="the node; ask another control plane than that")
    removing.add_argument("--force", action="store_true", help="the machine is lost: wait for nothing on it")
    removing.add_argument(
        "--timeout", default="10m", metavar="TIME", help="for its pods to go, e.g. 30m; default 10m"
    )
    resetting = _add(commands, "reset", reset, "remove everything from a machine and power it off")
    resetting.add_argument("--yes", action="store_true", help="really do it")
    resetting.add_argument(
        "--force", action="store_true", help="even if it has a cluster with other machines"
    )


def status(arguments: argparse.Namespace) -> int:
    """Show the status, once, again and again, or when a phase is reached."""
    client = _client(arguments)
    if arguments.wait:
        return _wait(client, arguments)
    while True:
        document = client.get_json("/v1/status")
        _show(document, as_json=arguments.json, clear=arguments.watch and sys.stdout.isatty())
        if not arguments.watch:
            return 0
        time.sleep(POLL)


def plan(arguments: argparse.Namespace) -> int:
    """Show the steps that the agent would take."""
    data = _client(arguments).get_json("/v1/plan")
    if arguments.json:
        print(json.dumps(data, indent=2))
        return 0
    steps = [step for step in data["steps"] if arguments.all or step["action"] != "none"]
    if not steps:
        print("Nothing to do: the node is as its document wants it.")
        return 0
    rows = [[clean(step[key]) for key in ("step", "action", "path", "reason")] for step in steps]
    print(table([["STEP", "ACTION", "PATH", "REASON"], *rows]))
    return 0


def validate(arguments: argparse.Namespace) -> int:
    """Check a document where it lies."""
    from firstboot.validate import check_bytes, validate_file

    try:
        if arguments.file == "-":
            check_bytes(sys.stdin.buffer.read(), "standard input")
        else:
            validate_file(Path(arguments.file))
    except DocumentError as error:
        if not arguments.json:
            raise
        print(json.dumps({"failures": [failure.to_dict() for failure in error.failures]}, indent=2))
        return error.exit_code
    print(json.dumps({"failures": []}) if arguments.json else f"{arguments.file}: valid")
    return 0


def kubeconfig(arguments: argparse.Namespace) -> int:
    """Print a kubeconfig."""
    query = {"server": arguments.server} if arguments.server else None
    sys.stdout.write(_client(arguments).get("/v1/kubeconfig", query))
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Print the journal of a component as it comes."""
    query = {
        "component": arguments.component,
        "lines": str(arguments.lines),
        "follow": "true" if arguments.follow else "false",
    }
    pieces = _client(arguments).stream("/v1/logs", query, timeout=None if arguments.follow else 60)
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return 0


def get_join_token(arguments: argparse.Namespace) -> int:
    """Print a one-time token."""
    query = {"lifetime": str(_seconds(arguments.lifetime))}
    if arguments.role:
        query["role"] = arguments.role
    made = _client(arguments).post_json("/v1/join-tokens", "", query)
    print(json.dumps(made, indent=2) if arguments.json else made["token"])
    return 0


def remove_node(arguments: argparse.Namespace) -> int:
    """Take a node out of its cluster, and say how it goes."""
    from firstboot.client import read_failures

    query = {
        "name": arguments.name,
        "force": "true" if arguments.force else "false",
        "timeout": str(_seconds(arguments.timeout)),
    }
    for line in _client(arguments).post_lines("/v1/remove-node", query, REMOVAL_SILENCE):
        if "failures" in line:
            first = read_failures(line)[0]
            raise BasaltError(clean(first.found), clean(first.remedy))
        if line.get("done"):
            return 0
        print(clean(str(line.get("text", ""))), flush=True)
    raise BasaltError(
        "the node stopped answering in the middle", "Run it again: it goes on where it stopped."
    )


def reset(arguments: argparse.Namespace) -> int:
    """Reset a machine, or say what that would mean."""
    if not arguments.yes:
        print(LOST, file=sys.stderr)
        return EXIT_USAGE
    query = {"force": "true" if arguments.force else "false"}
    made = _client(arguments).post_json("/v1/reset", "", query)
    print(
        f"{made['node'] or 'The machine'} stops its services and powers off; it is reset at its next start."
    )
    return 0


def _seconds(text: str) -> int:
    """Return the seconds of a time such as 90, 30m, 12h or 7d."""
    number, unit = (text, "s") if text[-1:].isdigit() else (text[:-1], text[-1:])
    if not (number.isascii() and number.isdigit() and len(number) < 9 and unit in UNITS):
        raise BasaltError(f"{text!r} is no time", "Write a number and s, m, h or d, e.g. 12h.")
    return int(number) * UNITS[unit]


def version(arguments: argparse.Namespace) -> int:
    """Print the program's version and, where there is a node, what runs on it."""
    from firstboot.client import Unreachable

    print(f"basalt {own_version()}")
    try:
        data = _client(arguments).get_json("/v1/version")
    except Unreachable:
        if arguments.endpoint:
            raise
        return 0
    print(f"node: basalt {data['basalt'] or 'unknown'}, kubernetes {data['kubernetes'] or 'unknown'}")
    return 0


def agent(_arguments: argparse.Namespace) -> int:
    """Run the agent."""
    # Nearly all that it imports stays: to look for garbage among it every 700 objects is a tenth of its start.
    gc.set_threshold(50_000)
    from firstboot.agent.process import main as run

    return run()


def own_version() -> str:
    """Return the version of this program: the image's on a node, the package's elsewhere."""
    for line in _lines(Path("/usr/lib/os-release")):
        if line.startswith("IMAGE_VERSION="):
            return line.partition("=")[2].strip("\"'")
    from importlib import metadata

    try:
        return metadata.version("basalt")
    except metadata.PackageNotFoundError:
        return "unknown"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _client(arguments: argparse.Namespace) -> Client:
    from firstboot.client import Client, Endpoint

    given = (arguments.cert, arguments.key, arguments.cacert)
    if arguments.endpoint is None and (any(given) or arguments.insecure):
        raise BasaltError(
            "--cert, --key, --cacert and --insecure are for a node elsewhere", "Give --endpoint too."
        )
    return Client(Endpoint(arguments.endpoint, *given, arguments.insecure))


def _show(document: dict[str, object], *, as_json: bool, clear: bool) -> None:
    from firstboot.report import screen
    from firstboot.report.status import Status

    if as_json:
        text = json.dumps(document, indent=2)
    else:
        width = max(60, os.get_terminal_size().columns) if sys.stdout.isatty() else 80
        view = screen.View(width=width, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        text = "\n".join(screen.block(Status.from_dict(document), view))
    print(("\033[H\033[2J" if clear else "") + text, flush=True)


def _wait(client: Client, arguments: argparse.Namespace) -> int:
    """Wait for a phase; stop at once where only somebody else can change anything."""
    from firstboot.client import Unreachable
    from firstboot.report.status import Status

    wanted, last = _phase(arguments.wait), ""
    deadline = time.monotonic() + arguments.timeout
    while True:
        try:
            document = client.get_json("/v1/status")
            now = Status.from_dict(document)
            last = "; ".join(now.unready) or f"phase is {now.phase}"
            if now.phase is wanted:
                _show(document, as_json=arguments.json, clear=False)
                return 0
            if _hopeless(now, wanted):
                print(f"basalt: the node will not become {wanted} by itself: {last}", file=sys.stderr)
                return EXIT_PHASE
        except Unreachable as error:
            last = str(error)
        if time.monotonic() + POLL > deadline:
            print(f"basalt: not {wanted} within {arguments.timeout:g} seconds: {last}", file=sys.stderr)
            return EXIT_TIME
        time.sleep(POLL)


def _phase(name: str) -> Phase:
    from firstboot.report.status import Phase

    try:
        return Phase(name)
    except ValueError:
        raise BasaltError(f"there is no phase {name!r}", f"Use one of {', '.join(Phase)}.") from None


def _hopeless(now: Status, wanted: Phase) -> bool:
    """Whether waiting is in vain; a node without a document may still be given one."""
    from firstboot.report.status import Phase

    return now.phase is Phase.DOCUMENT_INVALID and not wanted.needs_document


if __name__ == "__main__":
    sys.exit(main())
