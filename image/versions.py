# SPDX-License-Identifier: Apache-2.0
"""Prints what the image is made of: component, version, licence, and size where it is built.

python3 -m image.versions
"""

from __future__ import annotations

from collections.abc import Sequence

from firstboot.text import table

from . import components, declaration, host
from .declaration import Component

_HEAD = ("component", "version", "licence", "size", "summary")


def row(component: Component) -> tuple[str, ...]:
    """Return a component's cells; the size is that of its programs and a dash before they are built."""
    result = components.cached(component)
    size = f"{result.size / 1e6:.1f} MB" if result else "–"
    summary = f"{component.summary} (tests only)" if component.test_only else component.summary
    return component.name, component.version, component.license, size, summary


def main(args: Sequence[str]) -> int:
    """Print the table; takes no arguments."""
    print(table([_HEAD, *(row(component) for component in declaration.components())]))
    return 0


if __name__ == "__main__":
    raise SystemExit(host.command_line(main))
