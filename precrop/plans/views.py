"""Views of a plan: a screenful of text, a pandas frame, HTML for notebooks."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from precrop.errors import PrecropError, needs, printable
from precrop.plans.plot import figure
from precrop.plans.table import layer_table, network_name, notes, total_table
from precrop.plans.text import bare_table, drawn, plain

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]
    from rich.table import Table

    from precrop.plans.plan import Plan


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Layer = TypeVar("Layer", bound=_Named)
_LINES = 24
"""Most rows of a summary, which with the totals fill a screen."""
_DEEPEST = 50
"""Most parts of a name that tell stages apart; modules are not nested more deeply."""
_COLUMNS = (
    "kind", "base_in", "in_channels", "base_out", "out_channels", "kept", "density",
    "base_weights", "weights", "base_macs", "macs", "group",
)  # fmt: skip
"""Columns of a frame between a layer's name and why it is frozen."""


def one_line(plan: "Plan") -> str:
    """Return one line with the network, its parameters and its MACs before and after."""
    shares = ", ".join(f"{new:,} of {old:,} {cost}" for cost, (old, new) in plan.totals.items())
    return f"<Plan of {printable(network_name(plan))}: {shares}, {len(plan.layers)} layers>"


def summary(plan: "Plan") -> str:
    """Return a screenful of text: the widths by stage, totals, what is frozen and why."""
    said = map(printable, notes(plan, brief=True))
    tables = (drawn(stage_table(plan)), drawn(total_table(plan)))
    return "\n\n".join((printable(network_name(plan)), *tables, "\n".join(said)))


def stage_table(plan: "Plan") -> "Table":
    """Return a table with one row for each of the plan's `stages`."""
    table = bare_table("layers", "", "outputs", "kept", "weights")
    for name, layers in stages(plan.layers):
        old, new = (sum(getattr(layer, a) for layer in layers) for a in ("base_weights", "weights"))
        before = span([layer.base_out for layer in layers])
        after = span([layer.out_channels for layer in layers])
        table.add_row(
            plain(name),
            str(len(layers)) if len(layers) > 1 else "",
            before if before == after else f"{before} → {after}",
            span([round(100 * layer.kept) for layer in layers]) + "%",
            f"{new / max(1, old):.0%}",
            style="yellow" if all(layer.frozen for layer in layers) else "",
        )
    return table


def stages(layers: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    """Group consecutive layers by the leading parts of their names.

    As many parts are used as possible without more than a screenful of stages.
    """
    deepest = max((layer.name.count(".") + 1 for layer in layers), default=1)
    deepest = min(deepest, _DEEPEST)
    found = _cut(layers, 1)
    for depth in range(2, deepest + 1):
        finer = _cut(layers, depth)
        if len(finer) > _LINES:
            break
        found = finer
    return found


def _cut(layers: Sequence[Layer], depth: int) -> list[tuple[str, list[Layer]]]:
    def stage(layer: Layer) -> str:
        return ".".join(layer.name.split(".")[:depth])

    return [(name, list(group)) for name, group in groupby(layers, stage)]


def span(values: Sequence[int]) -> str:
    """Return the range of numbers as ``16–64``, or ``16`` if all are equal."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def frame(plan: "Plan") -> "DataFrame":
    """Return a frame with one row per layer, in the order of execution.

    Columns are ``layer``, ``kind``, channels before and after, ``kept`` (the share of the outputs),
    ``density``, weights and MACs before and after, ``group`` (layers of one width share it) and why
    a layer is ``frozen``.
    """
    rows = (
        {
            "layer": layer.name,
            **{column: getattr(layer, column) for column in _COLUMNS},
            "frozen": plan.frozen.get(layer.name, "") if layer.frozen else "",
        }
        for layer in plan.layers
    )
    return framed(rows, ("layer", *_COLUMNS, "frozen"))


def framed(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> "DataFrame":
    """Return rows as a pandas frame, which has these columns even if there are no rows.

    Raises:
        PrecropError: pandas is not installed.
    """
    with needs("a frame needs", "pandas"):
        import pandas as pd
    return pd.DataFrame(rows, columns=columns or None)


def html(plan: "Plan") -> str:
    """Return HTML for a notebook: totals, the picture if matplotlib is there, notes, all layers."""
    parts = [
        f"<p><b>{escape(printable(network_name(plan)))}</b></p>",
        _html_table(total_table(plan)),
    ]
    picture = _picture(plan)
    if picture is not None:
        parts.append(f'<img alt="widths over depth" style="max-width:100%" src="{picture}">')
    parts += [f"<p>{escape(printable(line))}</p>" for line in notes(plan)]
    layers = _html_table(layer_table(plan))
    parts.append(f"<details><summary>{len(plan.layers)} layers</summary>{layers}</details>")
    return "\n".join(parts)


def _picture(plan: "Plan") -> str | None:
    """Return the picture of a plan as a data URL; None if matplotlib is not installed."""
    try:
        made = figure(plan)
    except PrecropError:
        return None
    out = io.BytesIO()
    made.savefig(out, format="png", dpi=100)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _html_table(table: "Table") -> str:
    """Return a table as preformatted HTML, laid out as in a terminal."""
    return f"<pre>{escape(drawn(table))}</pre>"
