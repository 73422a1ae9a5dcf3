# SPDX-License-Identifier: Apache-2.0
"""The status as text: a screen of fixed size, a block for a log, and one line for each change.

Everything here is a pure function, and every text that comes from outside passes clean(), so that no document
can move the cursor of somebody's terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from firstboot.failure import Failure
from firstboot.report.status import Part, Phase, State, Status
from firstboot.text import clean

API_PORT = 6400
STATUS_PORT = 9180
MARGIN = 1
COLUMN = 38
"""Characters of one column of parts: two of them fill a terminal of 80."""


class Style(StrEnum):
    """How a piece of text stands out; the value is its SGR code, see console_codes(4)."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    GOOD = "32"
    BUSY = "33"
    BAD = "31"
    GOOD_BAR = "1;37;42"
    BUSY_BAR = "1;30;43"
    BAD_BAR = "1;37;41"


STATE_STYLES: Mapping[State, Style] = {
    State.OFF: Style.DIM,
    State.STARTING: Style.BUSY,
    State.HEALTHY: Style.GOOD,
    State.DEGRADED: Style.BAD,
    State.FAILED: Style.BAD,
}

Piece = tuple[str, Style]
Line = tuple[Piece, ...]

ROLES = {None: "role not known yet", "control-plane": "control plane", "worker": "worker"}


@dataclass(frozen=True)
class View:
    """What the rendering needs besides the status.

    width, height: characters of the terminal
    uptime:        seconds since the kernel started, or None
    status_port:   port of the status page
    """

    width: int = 80
    height: int = 24
    colour: bool = False
    uptime: float | None = None
    status_port: int = STATUS_PORT


@dataclass(frozen=True)
class Section:
    """Lines that belong together: the full form first, then shorter ones for when there is no room.

    stays: sections with a lower number give way first
    """

    forms: tuple[tuple[Line, ...], ...]
    stays: int


def screen(status: Status, view: View) -> list[str]:
    """Return exactly view.height lines of at most view.width characters (colour codes not counted)."""
    lines = _fit(_sections(status, view), view.height)
    painted = [_paint(line, view) for line in lines[: view.height]]
    return painted + [""] * (view.height - len(painted))


def block(status: Status, view: View) -> list[str]:
    """Return everything there is to tell above a rule, without colour: for serial lines and logs."""
    plain = replace(view, colour=False)
    lines = _join([section.forms[0] for section in _sections(status, plain)], gap=True)
    return [*(_paint(line, plain) for line in lines), "=" * view.width]


def changes(before: Status | None, after: Status, uptime: float | None = None) -> list[str]:
    """Return one line for each thing that happened between two statuses; people and tests search for them."""
    lines: list[str] = []
    if before is None or before.phase is not after.phase:
        lines.append(
            f"phase {after.phase}" + ("" if uptime is None else f" ({uptime:.1f} s after kernel start)")
        )
    old = before or Status()
    lines += [
        f"milestone {name} {seconds:.1f} s"
        for name, seconds in after.timings.items()
        if name not in old.timings
    ]
    lines += _part_changes("component", old.components, after.components)
    lines += _part_changes("feature", old.features, after.features)
    lines += [f"failure {_one_line(failure)}" for failure in after.failures if failure not in old.failures]
    lines += [
        f"solved {failure.code}" + (f" at {failure.path}" if failure.path else "")
        for failure in old.failures
        if failure not in after.failures
    ]
    return [clean(f"basalt: {line}") for line in lines]


def status_url(status: Status, port: int = STATUS_PORT) -> str | None:
    """Return the address of the status page, or None where the node has no address yet."""
    return f"http://{_host(status.node.addresses[0])}:{port}/" if status.node.addresses else None


def api_url(status: Status) -> str | None:
    """Return the address of the REST API, or None where the node has no address yet."""
    return f"https://{_host(status.node.addresses[0])}:{API_PORT}" if status.node.addresses else None


def duration(seconds: float) -> str:
    """Return a time span for people: "42 s", "3 min", "5 h 12 min", "8 d 3 h"."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _one_line(failure: Failure) -> str:
    where = f" at {failure.path}" if failure.path else ""
    return f"{failure.code}{where}: {failure.found.rstrip('.')}. {failure.remedy}"


def _part_changes(kind: str, old: Mapping[str, Part], new: Mapping[str, Part]) -> list[str]:
    """Tell only trouble and its end: that parts start and become healthy is what milestones are for."""
    lines = []
    for name, part in new.items():
        was = old[name].state if name in old else State.OFF
        if part.state is not was and (part.state.bad or was.bad):
            lines.append(f"{kind} {name} {part.state}" + (f": {part.detail}" if part.detail else ""))
    return lines


def _sections(status: Status, view: View) -> list[Section]:
    wide = view.width - MARGIN
    return [
        Section(((_header(status, wide), _bar(status.phase, view.width)),), stays=9),
        Section((((_plain(status.phase.meaning)),), ()), stays=3),
        _places(status, view),
        _failures(status, view, wide),
        _parts("Components", status.components, wide, stays=5),
        _parts("Features", status.features, wide, stays=4),
        _timings(status.timings, wide),
    ]


def _fit(sections: Sequence[Section], height: int) -> list[Line]:
    """Shorten sections, the least important first, until they fit; the caller cuts what is still too long."""
    chosen = [section.forms[0] for section in sections]
    lines = _join(chosen, gap=True)
    if len(lines) <= height:
        return lines
    for index in sorted(range(len(sections)), key=lambda index: sections[index].stays):
        for form in sections[index].forms:
            chosen[index] = form
            for gap in (True, False):
                lines = _join(chosen, gap=gap)
                if len(lines) <= height:
                    return lines
    return lines


def _join(forms: Sequence[tuple[Line, ...]], *, gap: bool) -> list[Line]:
    lines: list[Line] = []
    for form in forms:
        if lines and form and gap:
            lines.append(())
        lines += form
    return lines


def _plain(text: str) -> Line:
    return ((text, Style.PLAIN),)


def _header(status: Status, wide: int) -> Line:
    left = "Basalt" + (f" {status.image.version}" if status.image.version else "")
    left += f", slot {status.image.slot}" if status.image.slot else ""
    right = " - ".join(filter(None, (status.node.name, ROLES.get(status.node.role, status.node.role))))
    left, right = clean(left), clean(right)
    return ((left, Style.BOLD), (" " * max(1, wide - MARGIN - len(left) - len(right)) + right, Style.PLAIN))


def _bar(phase: Phase, width: int) -> Line:
    style = Style.GOOD_BAR if phase.ready else Style.BAD_BAR if phase.bad else Style.BUSY_BAR
    words = f"==== {phase.replace('-', ' ').upper()} "
    return ((words.ljust(width - MARGIN, "="), style),)


def _places(status: Status, view: View) -> Section:
    page, api = status_url(status, view.status_port), api_url(status)
    lines = [
        f"Status {page} | API {api}" if page else "Network: no address yet",
        " | ".join(
            filter(
                None,
                (
                    "Also at " + ", ".join(status.node.addresses[1:])
                    if len(status.node.addresses) > 1
                    else "",
                    f"Cluster settings version {status.settings.version}" if status.settings else "",
                    f"New CA: stage {status.rotation.stage}" if status.rotation else "",
                ),
            )
        ),
        ", ".join(
            filter(
                None,
                (
                    f"Kubernetes {status.kubernetes}" if status.kubernetes else "",
                    f"document from {status.document.origin}" if status.document.origin else "",
                    f"up {duration(view.uptime)}" if view.uptime is not None else "",
                ),
            )
        ),
    ]
    full = tuple(_plain(clean(line)) for line in lines if line)
    return Section((full, full[:1]), stays=7)


def _failures(status: Status, view: View, wide: int) -> Section:
    """All failures in full; where there is no room, as many as fit and where to read the others."""
    each = [_failure(failure, wide) for failure in status.failures]
    if not each:
        return Section(((),), stays=8)
    title = ((f"Failures: {len(each)}", Style.BOLD),)
    where = status_url(status, view.status_port) or "`basalt status` on the node"
    forms = []
    for shown in range(len(each), 0, -1):
        left_out = len(each) - shown
        more = (_plain(f"  and {left_out} more: see {where}"),) if left_out else ()
        forms.append((title, *(line for lines in each[:shown] for line in lines), *more))
    return Section(tuple(forms), stays=8)


def _failure(failure: Failure, wide: int) -> list[Line]:
    place = f"{clean(failure.path)}  " if failure.path else ""
    return [
        (("! ", Style.BAD), (f"{place}[{clean(failure.code)}]", Style.BAD)),
        *(_plain(line) for line in _wrap("found: ", failure.found, wide)),
        *(_plain(line) for line in _wrap("do:    ", failure.remedy, wide)),
    ]


def _wrap(label: str, text: str, wide: int) -> list[str]:
    indent = "  " + label
    lines = textwrap.wrap(
        clean(text), max(20, wide - MARGIN), initial_indent=indent, subsequent_indent=" " * len(indent)
    )
    return lines or [indent.rstrip()]


def _parts(title: str, parts: Mapping[str, Part], wide: int, stays: int) -> Section:
    """Parts nobody needs to look at stand side by side, the others have a line each with their detail."""
    if not parts:
        return Section(((),), stays)
    quiet = [(name, part) for name, part in parts.items() if part.state.ok or not part.detail]
    loud = [(name, part) for name, part in parts.items() if not (part.state.ok or not part.detail)]
    columns = max(1, wide // COLUMN)
    rows = [quiet[start : start + columns] for start in range(0, len(quiet), columns)]
    heading = ((title, Style.BOLD),)
    full = (
        heading,
        *(_loud(name, part, wide) for name, part in loud),
        *(tuple(piece for name, part in row for piece in _cell(name, part)) for row in rows),
    )
    return Section((full, (_summary(title, parts, wide),)), stays)


def _cell(name: str, part: Part) -> Line:
    text = clean(name)[: COLUMN - 14]
    state = part.state.value
    return (
        (f"  {text:<{COLUMN - 12}}", Style.PLAIN),
        (state, STATE_STYLES[part.state]),
        (" " * (10 - len(state)), Style.PLAIN),
    )


def _loud(name: str, part: Part, wide: int) -> Line:
    return (*_cell(name, part)[:2], (f": {clean(part.detail)}", Style.PLAIN))


def _summary(title: str, parts: Mapping[str, Part], wide: int) -> Line:
    """One line: names for what is not well, a number for the rest."""
    counts = {state: [name for name, part in parts.items() if part.state is state] for state in State}
    told = [
        f"{len(names)} {state}" + ("" if state.ok else f" ({', '.join(names)})")
        for state, names in counts.items()
        if names
    ]
    return _plain(clean(f"{title}: {'; '.join(told)}"))


def _timings(timings: Mapping[str, float], wide: int) -> Section:
    if not timings:
        return Section(((),), stays=1)
    text = ", ".join(f"{clean(name)} {seconds:.1f}" for name, seconds in timings.items())
    wrapped = textwrap.wrap(f"Seconds since kernel start: {text}", wide - MARGIN, subsequent_indent="  ")
    return Section((tuple(((line, Style.DIM),) for line in wrapped), ()), stays=1)


def _paint(line: Line, view: View) -> str:
    """Return the line cut to the width, with colour codes where the view wants them."""
    room = view.width - MARGIN
    out = [" " * MARGIN] if line else []
    for text, style in line:
        piece = text[:room]
        room -= len(piece)
        out.append(f"\033[{style}m{piece}\033[0m" if view.colour and style and piece else piece)
    return "".join(out).rstrip()
