"""The data of one setting's figures: tidy tables, and the look of its variants."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd  # type: ignore[import-untyped]

from precrop.report.families import granularities
from precrop.report.frames import ResultFrame, RunGroup, RunSetting, percent, run_id

COLORS = (
    "#7a8594", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b",
    "#56b4e9", "#a6447a", "#44aa99", "#8a6fc9", "#c1272d", "#e7298a",
)  # fmt: skip
"""Colors that color-blind people can tell apart, too; variants take them in the frame's order."""
SHAPES = {
    "dense": ("diamond", "cross"),
    "cropped": ("circle", "square"),
    "masked": ("triangle-up", "triangle-down"),
}
"""Point shapes by kind of network; the second one is for variants that reuse a color."""
CHANNELS = {"color": alt.Color, "shape": alt.Shape, "strokeDash": alt.StrokeDash}
_LISTED = 3
"""Number of runs that are named beside a row of points; tables name all."""
_LAYER = ("order", "layer", "place", "density", "width", "original")


class ChartTables:
    """A setting's tables; their column ``order`` gives the position of what a row shows.

    Attributes:
        title: the setting's name.
        margin: percentage points that count as no difference.
        groups: one row per variant and budget.
        runs: one row per run, with columns of its group.
        layers: one row per group and layer.
        families: runs of networks with the same layer densities; one row per run and family.
    """

    def __init__(self, frame: ResultFrame, setting: RunSetting, margin: float) -> None:
        groups = frame.within(setting)
        self.title = str(setting)
        self.margin = margin
        self.groups = pd.DataFrame(map(_group, groups)).rename_axis("order").reset_index()
        of_runs = self.groups.drop(columns=["kind", "mean", "epoch_seconds", "devices"])
        self.runs = pd.DataFrame(_runs(groups)).merge(of_runs)
        accuracies = self.runs.groupby("order")["accuracy"]
        self.runs["rank"] = accuracies.rank(method="first") - 1
        self.runs["n"] = accuracies.transform("size")
        of_group = self.groups[["order", "budget", "variant", "kind"]]
        self.layers = pd.DataFrame(_layers(groups), columns=_LAYER).merge(of_group)
        families = [family for family in granularities(frame) if family[0].setting == setting]
        self.families = pd.DataFrame(
            run | _member(order, family[0], group, margin)
            for order, family in enumerate(families)
            for group in family
            for run in self.runs[self.runs["order"] == groups.index(group)].to_dict("records")
        )
        known = looks(frame)
        self._looks = known[known["variant"].isin(self.groups["variant"])]

    def look(self, *channels: str, legend: Iterable[str] = ()) -> dict[str, Any]:
        """Return encodings that give every variant its look, the same in all figures.

        Args:
            channels: any of `CHANNELS`.
            legend: names of the variants in the legend; without any, there is no legend.
        """
        names = list(dict.fromkeys(legend))
        shown = alt.Legend(title=None, symbolStrokeWidth=0, values=names) if names else None
        domain = self._looks["variant"].to_list()
        scales = {
            name: alt.Scale(domain=domain, range=list(self._looks[name])) for name in channels
        }
        return {n: CHANNELS[n]("variant:N", scale=s, legend=shown) for n, s in scales.items()}


def looks(frame: ResultFrame) -> pd.DataFrame:
    """Return a table with each variant's value in every channel, for the whole frame."""
    kinds = {group.variant: group.kind for group in frame.groups}
    return pd.DataFrame(
        {
            "variant": name,
            "color": COLORS[place % len(COLORS)],
            "shape": SHAPES[kinds[name]][place // len(COLORS) % 2],
            "strokeDash": [5, 3] if kinds[name] == "masked" else [1, 0],
        }
        for place, name in enumerate(frame.variants)
    )


def _group(group: RunGroup) -> dict[str, Any]:
    mean, deviation = group.accuracy.mean, group.accuracy.deviation or 0.0
    more = [f"+{len(group.runs) - _LISTED}"] if len(group.runs) > _LISTED else []
    return {
        "budget": str(group.budget),
        "variant": group.variant,
        "kind": group.kind,
        "spread": str(group.accuracy),
        "mean": mean,
        "low": mean - deviation,
        "high": mean + deviation,
        "listed": " ".join((*group.runs[:_LISTED], *more)),
        "params_share": round(100 * group.params_share, 4),
        "macs_share": round(100 * group.macs_share, 4),
        "epoch_seconds": group.epoch_seconds,
        "devices": ", ".join(group.devices),
    }


def _runs(groups: Sequence[RunGroup]) -> Iterator[dict[str, Any]]:
    for order, group in enumerate(groups):
        for row in group.rows:
            yield {
                "order": order,
                "run": run_id(row),
                "seed": row.seed,
                "accuracy": round(percent(row), 4),
                "params": row.params,
                "macs": row.macs,
            }


def _layers(groups: Sequence[RunGroup]) -> Iterator[dict[str, Any]]:
    whole = next((g.widths for g in groups if g.kind != "cropped" and g.widths), {})
    for order, group in enumerate(groups):
        layers = dict.fromkeys((*group.widths, *group.densities))
        for place, layer in enumerate(layers, start=1):
            yield {
                "order": order,
                "layer": layer,
                "place": place,
                "density": group.densities.get(layer) or None,  # a zero has no logarithm
                "width": group.widths.get(layer),
                "original": whole.get(layer, 0.0),
            }


def _member(order: int, first: RunGroup, group: RunGroup, margin: float) -> dict[str, Any]:
    unit = "cropped" if group.kind == "cropped" else group.granularity
    lines = textwrap.wrap(group.variant, 18, break_long_words=False, break_on_hyphens=False)
    return {
        "order": order,
        "family": f"{first.variant}, {first.budget}",
        "unit": "\n".join([unit, *lines]),
        "least": first.accuracy.mean - margin,
        "most": first.accuracy.mean + margin,
    }
