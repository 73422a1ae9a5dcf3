# SPDX-License-Identifier: Apache-2.0
"""The status as one HTML page that needs nothing else: no script, no picture, no other host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape

from firstboot.failure import Failure
from firstboot.report.screen import ROLES
from firstboot.report.status import Part, Phase, Status
from firstboot.text import clean

REFRESH = 10
"""Seconds after which a browser asks again."""

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin: 0 } h2 { margin: 2rem 0 .5rem }
.phase { font-size: 2rem; font-weight: 700; padding: .5rem 1rem; border-radius: .5rem; color: #fff }
.good { background: #1a6b35 } .busy { background: #7a5200 } .bad { background: #a3211f }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886 }
caption { text-align: left; font-weight: 700; font-size: 1.3rem; padding: 1.5rem 0 .5rem }
dt { font-weight: 700 } dd { margin: 0 0 .5rem }
.failure { border-left: .4rem solid #a3211f; padding-left: 1rem; margin: 1rem 0; overflow-wrap: anywhere }
"""

STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""Lets the content security policy allow this style and no other."""

POLICY = (
    f"default-src 'none'; style-src '{STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(status: Status) -> str:
    """Return the page."""
    title = _text(f"{status.node.name or 'Basalt'}: {_words(status.phase)}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(status.node.name or "Basalt")}</h1>
<p class="phase {_colour(status.phase)}">{_text(_words(status.phase))}</p>
<p>{_text(status.phase.meaning)}</p>
{_failures(status.failures)}
{_facts(status)}
{_parts("Components", status.components)}
{_parts("Features", status.features)}
{_table("Certificates", ("Name", "Valid until"), status.certificates.items())}
{_table("Milestones", ("Name", "Seconds since kernel start"), _timings(status))}
<p>The same as data: <a href="v1/status">status document</a>, <a href="metrics">metrics</a>.
As of {_text(status.updated)}; the page asks again every {REFRESH} seconds.</p>
</main>
</body>
</html>
"""


def _text(text: str) -> str:
    return escape(clean(text))


def _words(phase: Phase) -> str:
    return phase.value.replace("-", " ")


def _colour(phase: Phase) -> str:
    return "good" if phase.ready else "bad" if phase.bad else "busy"


def _failures(failures: tuple[Failure, ...]) -> str:
    if not failures:
        return ""
    return "<h2>Failures</h2>\n" + "\n".join(
        f'<dl class="failure"><dt>Where</dt><dd><code>{_text(failure.path)}</code></dd>'
        f"<dt>Found</dt><dd>{_text(failure.found)}</dd>"
        f"<dt>What to do</dt><dd>{_text(failure.remedy)}</dd>"
        f"<dt>Code</dt><dd><code>{_text(failure.code)}</code></dd></dl>"
        for failure in failures
    )


def _facts(status: Status) -> str:
    image = status.image.version or "unknown"
    rows = (
        ("Role", ROLES.get(status.node.role) or status.node.role or ""),
        ("Addresses", ", ".join(status.node.addresses) or "none yet"),
        ("Basalt", image + (f", slot {status.image.slot}" if status.image.slot else "")),
        ("Kubernetes", status.kubernetes or "unknown"),
        ("Document", status.document.origin or "none yet"),
        ("Cluster's settings", f"version {status.settings.version}" if status.settings else "none yet"),
        *((("Cluster's CA", f"being replaced: stage {status.rotation.stage}"),) if status.rotation else ()),
        ("Document's digest", status.document.digest or "none yet"),
    )
    return _table("Node", ("Fact", "Value"), rows)


def _parts(title: str, parts: Mapping[str, Part]) -> str:
    rows = ((name, part.state.value, part.detail, part.version or "") for name, part in parts.items())
    return _table(title, ("Name", "State", "Detail", "Version"), rows)


def _timings(status: Status) -> Iterable[tuple[str, str]]:
    return ((name, f"{seconds:.1f}") for name, seconds in status.timings.items())


def _table(title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    body = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    if not body:
        return ""
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in heads)
    return (
        f"<table><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
