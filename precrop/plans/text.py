"""Tables and names as plain text, in a terminal or a string.

Rich is imported only when something is drawn: importing it uses Python's random numbers, which
planning must not do.
"""

import io
from collections.abc import Collection
from typing import TYPE_CHECKING

from precrop.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_WIDTH = 100


def bare_table(*headings: str, words: Collection[str] = ()) -> "Table":
    """Return a table without lines; the first column and ``words`` align left, all others right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        left = place == 0 or heading in words
        table.add_column(plain(heading), justify="left" if left else "right", no_wrap=True)
    return table


def plain(text: str) -> "Text":
    """Return text that Rich shows literally, without markup; control characters are escaped."""
    from rich.text import Text

    return Text(printable(text))


def change(old: int, new: int) -> str:
    """Return ``64 → 32``, or ``64`` if nothing changes."""
    return str(old) if old == new else f"{old} → {new}"


def drawn(table: "Table") -> str:
    """Return a table as plain text."""
    from rich.console import Console

    out = io.StringIO()
    # Otherwise Rich would display the table in a notebook and write nothing to the file.
    console = Console(
        file=out, width=_WIDTH, highlight=False, color_system=None, force_jupyter=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def short_count(count: float) -> str:
    """Return a count like ``270 k`` or ``40.6 M``."""
    for suffix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {suffix}"
    return f"{count:.0f}"


def wide_console(columns: int, console: "Console | None" = None) -> "Console":
    """Return a console on standard output, at least ``columns`` wide if that is no terminal."""
    from rich.console import Console

    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, columns)
    return console
