"""Comparison of several plans of one network."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from string import ascii_uppercase
from typing import TYPE_CHECKING

from precrop.errors import PrecropError, check_kind
from precrop.plans.layers import LayerPlan
from precrop.plans.plan import Plan
from precrop.plans.table import network_name
from precrop.plans.text import bare_table, drawn, plain
from precrop.plans.views import frame

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]


@dataclass(frozen=True)
class PlanComparison:
    """Plans of one network side by side, with a name for each."""

    names: tuple[str, ...]
    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        """Return the totals, and a table of the layers in which the plans differ."""
        parts = [self._totals(), "", self._layers()]
        same = len(self.plans[0].layers) - len(list(self._different()))
        if same:
            parts.append(f"{same} layers are as wide in all of them.")
        return "\n".join(parts)

    def to_json(self) -> str:
        """Return the totals and output channels as JSON."""
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
        """Return one row per layer: the original output channels, and each plan's by its name."""
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
        table = bare_table("outputs of", "original", *self.names)
        for layers in self._different():
            widths = [str(layer.out_channels) for layer in layers]
            table.add_row(plain(layers[0].name), str(layers[0].base_out), *widths)
        return drawn(table)

    def _totals(self) -> str:
        table = bare_table("total", "original", *self.names)
        for label, (base, _) in self.plans[0].totals.items():
            costs = [plan.totals[label][1] for plan in self.plans]
            table.add_row(label, f"{base:,}", *(f"{n:,} ({n / max(1, base):.0%})" for n in costs))
        return drawn(table)


def compare(*plans: Plan, names: Sequence[str] | None = None) -> PlanComparison:
    """Compare plans of one network side by side.

    Args:
        plans: two or more.
        names: a different name for each plan; by default A, B, C, …

    Raises:
        PrecropError: there are fewer than two plans, not one name for each, or the plans are of
            different networks.
    """
    if len(plans) < 2 or not all(isinstance(plan, Plan) for plan in plans):
        raise PrecropError("compare takes two plans or more: compare(plan, other)")
    letters = [*ascii_uppercase, *map(str, range(27, len(plans) + 1))]
    check_kind("names", names, (Sequence, type(None)), "a list of names")
    called = tuple(names if names is not None else letters[: len(plans)])
    words = {name for name in called if isinstance(name, str)}
    if not len(called) == len(plans) == len(words):
        raise PrecropError(f"names= needs {len(plans)} different names, one for each plan")
    first = [(layer.name, layer.base_out) for layer in plans[0].layers]
    for name, plan in zip(called, plans, strict=True):
        if [(layer.name, layer.base_out) for layer in plan.layers] != first:
            raise PrecropError(
                f"{called[0]} and {name} are plans of different networks: "
                f"{network_name(plans[0])} and {network_name(plan)}"
            )
    return PlanComparison(called, plans)
