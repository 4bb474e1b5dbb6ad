"""Plans to look at: a screenful of text, a frame, what a notebook shows, several side by side."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from precrop.errors import PrecropError, printable
from precrop.plans.plan import LayerPlan, Plan
from precrop.plans.table import (
    frozen_lines,
    layer_table,
    lookalike_lines,
    total_table,
    uniform_lines,
    widened_lines,
)

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

_LINES = 24
"""Rows of a summary: with the totals a screenful."""
_WIDTH = 100


def brief(plan: Plan) -> str:
    """One line: the network, its parameters and MACs before and after."""
    costs = (("parameters", plan.params, plan.base_params), ("MACs", plan.macs, plan.base_macs))
    shares = ", ".join(f"{new:,} of {old:,} {cost}" for cost, new, old in costs)
    return f"<Plan of {printable(network_name(plan))}: {shares}, {len(plan.layers)} layers>"


def network_name(plan: Plan) -> str:
    """How the network is named on a command line, else its class."""
    return str(plan.source["name"]) if plan.source else plan.network.rpartition(":")[2]


def summary(plan: Plan) -> str:
    """A screenful: stages where there are many layers, totals, what is frozen and why."""
    lines = _notes(plan)
    notes = map(printable, lines)
    tables = (_drawn(stage_table(plan)), _drawn(total_table(plan)))
    return "\n\n".join((printable(network_name(plan)), *tables, "\n".join(notes)))


def stage_table(plan: Plan) -> Table:
    """One row per stage: layers next to each other whose names begin alike.

    Names are cut after as many parts as leave no more than a screenful of rows.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layers", "", "outputs", "kept", "weights"):
        table.add_column(heading, justify="left" if heading == "layers" else "right", no_wrap=True)
    for name, layers in _stages(plan.layers):
        kept = [layer.out_channels / layer.base_out for layer in layers]
        old, new = (sum(getattr(layer, a) for layer in layers) for a in ("base_weights", "weights"))
        before = _range([layer.base_out for layer in layers])
        after = _range([layer.out_channels for layer in layers])
        table.add_row(
            Text(printable(name)),
            str(len(layers)) if len(layers) > 1 else "",
            before if before == after else f"{before} → {after}",
            _range([round(100 * share) for share in kept]) + "%",
            f"{new / max(1, old):.0%}",
            style="yellow" if all(layer.frozen for layer in layers) else "",
        )
    return table


def _stages(layers: Sequence[LayerPlan]) -> list[tuple[str, list[LayerPlan]]]:
    deepest = max((layer.name.count(".") + 1 for layer in layers), default=1)
    stages = _cut(layers, 1)
    for depth in range(2, deepest + 1):
        finer = _cut(layers, depth)
        if len(finer) > _LINES:
            break
        stages = finer
    return stages


def _cut(layers: Sequence[LayerPlan], depth: int) -> list[tuple[str, list[LayerPlan]]]:
    def stage(layer: LayerPlan) -> str:
        return ".".join(layer.name.split(".")[:depth])

    return [(name, list(group)) for name, group in groupby(layers, stage)]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _drawn(table: Table) -> str:
    """A table as plain text."""
    out = io.StringIO()
    Console(file=out, width=_WIDTH, highlight=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def frame(plan: Plan) -> "DataFrame":
    """One row a layer, in the order of execution.

    Columns are ``layer``, ``kind``, channels before and after, ``kept`` (the share of the outputs),
    ``density``, weights and MACs before and after, ``group`` (layers of one width share it) and why
    a layer is ``frozen``.

    Raises:
        PrecropError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise PrecropError("a frame needs pandas: pip install pandas") from error
    return pd.DataFrame(
        {
            "layer": layer.name,
            "kind": layer.kind,
            "base_in": layer.base_in,
            "in_channels": layer.in_channels,
            "base_out": layer.base_out,
            "out_channels": layer.out_channels,
            "kept": layer.out_channels / layer.base_out,
            "density": layer.density,
            "base_weights": layer.base_weights,
            "weights": layer.weights,
            "base_macs": layer.base_macs,
            "macs": layer.macs,
            "group": layer.group,
            "frozen": plan.frozen.get(layer.name, "") if layer.frozen else "",
        }
        for layer in plan.layers
    )


def html(plan: Plan) -> str:
    """The plan for a notebook: totals, the picture if matplotlib is installed, and all layers."""
    parts = [
        f"<p><b>{escape(printable(network_name(plan)))}</b></p>",
        _html_table(total_table(plan)),
    ]
    picture = _picture(plan)
    if picture is not None:
        parts.append(f'<img alt="widths over depth" style="max-width:100%" src="{picture}">')
    lines = _notes(plan)
    parts += [f"<p>{escape(printable(line))}</p>" for line in lines]
    layers = _html_table(layer_table(plan))
    parts.append(f"<details><summary>{len(plan.layers)} layers</summary>{layers}</details>")
    return "\n".join(parts)


def _picture(plan: Plan) -> str | None:
    """The picture of a plan as an address that holds it."""
    try:
        from precrop.plans.plot import figure

        made = figure(plan)
    except PrecropError:
        return None
    out = io.BytesIO()
    made.savefig(out, format="png", dpi=100)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _html_table(table: Table) -> str:
    """A table's text in HTML, as it stands in a terminal."""
    return f"<pre>{escape(_drawn(table))}</pre>"


@dataclass(frozen=True)
class Comparison:
    """Plans of one network side by side.

    Attributes:
        names: of the plans.
        plans: in that order.
    """

    names: tuple[str, ...]
    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        """Layers in which the plans differ, and the totals."""
        parts = [self._totals(), "", self._layers()]
        same = len(self.plans[0].layers) - len(list(self._different()))
        if same:
            parts.append(f"{same} layers are as wide in all of them.")
        return "\n".join(parts)

    def to_json(self) -> str:
        """Totals and output channels as JSON."""
        plans = {
            name: {
                "params": plan.params,
                "macs": plan.macs,
                "widths": {layer.name: layer.out_channels for layer in plan.layers},
            }
            for name, plan in zip(self.names, self.plans, strict=True)
        }
        first = self.plans[0]
        widths = {layer.name: layer.base_out for layer in first.layers}
        original = {"params": first.base_params, "macs": first.base_macs, "widths": widths}
        return json.dumps({"original": original, "plans": plans})

    def to_frame(self) -> "DataFrame":
        """One row a layer: the original output channels, and those of every plan by its name."""
        found = frame(self.plans[0])[["layer", "base_out"]]
        for name, plan in zip(self.names, self.plans, strict=True):
            found[name] = [layer.out_channels for layer in plan.layers]
        return found

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _different(self) -> Iterator[tuple[LayerPlan, ...]]:
        for layers in zip(*(plan.layers for plan in self.plans), strict=True):
            if len({layer.out_channels for layer in layers}) > 1:
                yield layers

    def _layers(self) -> str:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("outputs of", "original", *map(printable, self.names)):
            table.add_column(heading, justify="left" if heading == "outputs of" else "right")
        for layers in self._different():
            widths = [str(layer.out_channels) for layer in layers]
            table.add_row(Text(printable(layers[0].name)), str(layers[0].base_out), *widths)
        return _drawn(table)

    def _totals(self) -> str:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("total", "original", *map(printable, self.names)):
            table.add_column(heading, justify="left" if heading == "total" else "right")
        for label, cost in (("parameters", "params"), ("MACs", "macs")):
            base = getattr(self.plans[0], f"base_{cost}")
            costs = [getattr(plan, cost) for plan in self.plans]
            table.add_row(label, f"{base:,}", *(f"{n:,} ({n / max(1, base):.0%})" for n in costs))
        return _drawn(table)


def compare(*plans: Plan, names: Sequence[str] | None = None) -> Comparison:
    """Set plans of one network side by side.

    Args:
        plans: two or more.
        names: what they are called, one name a plan; by default A, B, C, …

    Raises:
        PrecropError: there are fewer than two plans, other names than plans, or the plans are of
            different networks.
    """
    if len(plans) < 2 or not all(isinstance(plan, Plan) for plan in plans):
        raise PrecropError("compare takes two plans or more: compare(plan, other)")
    called = tuple(names) if names is not None else tuple(map(_letter, range(len(plans))))
    if len(called) != len(plans) or len({*called}) < len(plans):
        raise PrecropError(f"names= needs {len(plans)} different names, one for each plan")
    first = [(layer.name, layer.base_out) for layer in plans[0].layers]
    for name, plan in zip(called, plans, strict=True):
        if [(layer.name, layer.base_out) for layer in plan.layers] != first:
            raise PrecropError(
                f"{called[0]} and {name} are plans of different networks: "
                f"{network_name(plans[0])} and {network_name(plan)}"
            )
    return Comparison(called, plans)


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _notes(plan: Plan) -> tuple[str, ...]:
    """What one should know of a plan beside its widths, a sentence a line."""
    return (
        *frozen_lines(plan),
        *widened_lines(plan),
        *lookalike_lines(plan),
        *uniform_lines(plan),
    )
