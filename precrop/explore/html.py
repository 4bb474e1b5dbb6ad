"""The page's contents as HTML, in which every name is plain text."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from rich.text import Text

from precrop.errors import printable
from precrop.plans.comparison import compare
from precrop.plans.table import notes, total_table
from precrop.plans.text import change

if TYPE_CHECKING:
    from precrop.plans.plan import Plan


def plain(text: str) -> str:
    """Escape a name for HTML, and for plotly, which interprets some HTML."""
    return escape(printable(text))


def totals(plan: "Plan") -> str:
    """Return costs before and after, budgets, and what one more percent of each would gain."""
    table = total_table(plan)
    rows = zip(*(map(_text, column.cells) for column in table.columns), strict=True)
    return _grid([str(column.header) for column in table.columns], rows)


def remarks(plan: "Plan") -> str:
    """Return the gain over uniform width, what is frozen and why, and a plan's other notes."""
    uniform = plan.solver.get("uniform")
    lines = [*notes(plan), f"Planned in {plan.seconds:.3f} s."]
    if uniform:
        lines.insert(0, f"Gain over uniform width: {uniform['gain']:+.3g} in the objective.")
    items = "".join(f"<li>{plain(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>'


def beside(plan: "Plan", other: "Plan") -> str:
    """Return the differences between a plan and that of a file.

    Raises:
        PrecropError: they are for different networks.
    """
    return f"<pre>{escape(str(compare(plan, other, names=('planned', 'plan file'))))}</pre>"


def refusal(what: str, why: str) -> str:
    """Return a message that says what is not possible, and why."""
    return f'<p class="refused"><b>{what}</b> {plain(why)}</p>'


def layers(plan: "Plan", other: "Plan | None" = None) -> str:
    """Return a table with one row per layer; ``other`` is a plan for the same network."""
    uniform = uniform_widths(plan)
    rows = []
    for index, layer in enumerate(plan.layers):
        theirs = [] if other is None else [str(other.layers[index].out_channels)]
        cells = [
            layer.name,
            layer.kind,
            change(layer.base_in, layer.in_channels),
            change(layer.base_out, layer.out_channels),
            f"{layer.kept:.0%}",
            f"{layer.density:.1%}",
            "" if uniform is None else f"{uniform[index]:.0f}",
        ]
        rows.append([*cells, *theirs, layer.frozen or ""])
    headings = ["layer", "kind", "inputs", "outputs", "kept", "weights", "uniform"]
    headings += ["frozen"] if other is None else ["plan file", "frozen"]
    return f'<div class="layers">{_grid(headings, rows)}</div>'


def uniform_widths(plan: "Plan") -> list[float] | None:
    """Return all layers' output channels at uniform width; None if no budget determines it."""
    share = plan.solver.get("uniform", {}).get("share")
    if share is None:
        return None
    return [layer.base_out * (share if layer.group else 1) for layer in plan.layers]


def _grid(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of plain texts."""
    head = "".join(f"<th>{plain(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{plain(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _text(cell: Any) -> str:
    """Return a cell's text without its markup."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
