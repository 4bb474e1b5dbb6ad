"""What the page says, as HTML in which every name is plain text."""

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from precrop.errors import printable
from precrop.plans.comparison import compare
from precrop.plans.table import notes, total_table

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

    from precrop.plans.plan import Plan

_COLUMNS = {
    "layer": "layer",
    "kind": "kind",
    "base_in": "inputs",
    "in_channels": "new inputs",
    "base_out": "outputs",
    "out_channels": "new outputs",
    "kept": "kept, %",
    "density": "weights, %",
    "frozen": "frozen, and why",
}
"""Of a plan's frame, and what the page calls them."""


def plain(text: str) -> str:
    """A name as HTML, and as what plotly takes for it, shows it."""
    return escape(printable(text))


def totals(plan: "Plan") -> str:
    """Costs before and after, their budgets, and what one more per cent of each would buy."""
    return _html_table(total_table(plan))


def remarks(plan: "Plan") -> str:
    """The gain over uniform width, what is frozen and why, and all else that a plan tells."""
    lines = [*_gain(plan), *notes(plan), f"Planned in {plan.seconds:.3f} s."]
    return _list(lines)


def beside(plan: "Plan", other: "Plan") -> str:
    """A plan and that of a file, where they differ.

    Raises:
        PrecropError: they are of different networks.
    """
    return f"<pre>{escape(str(compare(plan, other, names=('planned', 'plan file'))))}</pre>"


def refusal(message: str) -> str:
    """Why there is no plan."""
    return f'<p class="refused"><b>No such plan.</b> {plain(message)}</p>'


def layers(plan: "Plan") -> "DataFrame":
    """One row a layer."""
    found = plan.to_frame()[list(_COLUMNS)].rename(columns=_COLUMNS)
    for column in ("kept, %", "weights, %"):
        found[column] = (100 * found[column]).round(1)
    for column in ("layer", "frozen, and why"):
        found[column] = found[column].map(printable)
    return found


def _gain(plan: "Plan") -> Iterator[str]:
    """What the widths add to the objective beside one share of every width."""
    uniform = plan.solver.get("uniform")
    if uniform:
        yield f"Gain over uniform width: {uniform['gain']:+.3g} in the objective."


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{plain(line)}</li>' for line in lines)}</ul>"


def _html_table(table: Table) -> str:
    """A table for the terminal in HTML."""
    headings = "".join(f"<th>{plain(str(column.header))}</th>" for column in table.columns)
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = "".join(
        f"<tr>{''.join(f'<td>{plain(_text(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<table class="totals"><tr>{headings}</tr>{body}</table>'


def _text(cell: Any) -> str:
    """A cell without its markup."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
