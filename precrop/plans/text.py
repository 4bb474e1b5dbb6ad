"""Tables and names as plain text, in a terminal or a string.

Rich is imported where something is drawn: its import draws from Python's random numbers, and no
plan may do so.
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
    """A table without lines: its first column and those of words stand left, numbers right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        left = place == 0 or heading in words
        table.add_column(plain(heading), justify="left" if left else "right", no_wrap=True)
    return table


def plain(text: str) -> "Text":
    """A text as it stands: no markup of Rich's, no control characters."""
    from rich.text import Text

    return Text(printable(text))


def change(old: int, new: int) -> str:
    """``64``, or ``64 → 32``."""
    return str(old) if old == new else f"{old} → {new}"


def drawn(table: "Table") -> str:
    """A table as plain text."""
    from rich.console import Console

    out = io.StringIO()
    # In a notebook Rich would show it there and write nothing.
    console = Console(
        file=out, width=_WIDTH, highlight=False, color_system=None, force_jupyter=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def short_count(count: float) -> str:
    """``270 k``, ``40.6 M``."""
    for suffix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {suffix}"
    return f"{count:.0f}"


def wide_console(columns: int, console: "Console | None" = None) -> "Console":
    """Standard output, at least so wide where it is a file, which has no edge to break lines at."""
    from rich.console import Console

    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, columns)
    return console
