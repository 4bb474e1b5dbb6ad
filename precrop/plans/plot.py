"""A plan as a picture: old and new widths over depth."""

from pathlib import Path
from typing import TYPE_CHECKING

from precrop.files import check_picture, drawn_name, new_figure, save_picture
from precrop.plans.layers import LayerPlan
from precrop.plans.table import network_name
from precrop.plans.text import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from precrop.plans.plan import Plan

_LABELS = 90
"""Most layers that are named below the picture; of more, every second, third, … one is."""
_ROOM, _LARGEST = 430.0, 7.5
"""Length of the axis in points, which the names share, and the largest font size."""
OLD = "#cfd8dc"
"""The color of the original widths."""


def plot(plan: "Plan", path: str | Path, title: str | None = None) -> None:
    """Draw the output width of every layer before and after, in the order of execution.

    Args:
        plan: what to draw.
        path: a ``.png`` or ``.svg`` file; written whole or not at all.
        title: first words of the heading; the name of the network by default.

    Raises:
        PrecropError: matplotlib is not installed, or the file cannot be written.
    """
    check_picture(path)
    save_picture(figure(plan, title), path)


def figure(plan: "Plan", title: str | None = None) -> "Figure":
    """Return the figure that `plot` writes."""
    made = new_figure(9, 5)
    widths, shares = made.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    _draw(widths, shares, plan)
    heading = f"{drawn_name(title or network_name(plan))}: {_totals(plan)}"
    widths.set_title(heading, loc="left", fontsize=11, parse_math=False)
    for axes in (widths, shares):
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    return made


def _draw(widths: "Axes", shares: "Axes", plan: "Plan") -> None:
    """Draw every layer's output channels, the old behind the new, and the percentage it keeps."""
    before = [layer.base_out for layer in plan.layers]
    widths.bar(range(1, len(before) + 1), before, 0.84, color=OLD, label="before")
    changes: dict[tuple[str, str], dict[int, LayerPlan]] = {}
    for place, layer in enumerate(plan.layers, 1):
        changes.setdefault(change_of(layer), {})[place] = layer
    for (label, color), layers in changes.items():
        after = [layer.out_channels for layer in layers.values()]
        widths.bar([*layers], after, 0.5, color=color, label=label)
        kept = [100 * layer.kept for layer in layers.values()]
        shares.bar([*layers], kept, 0.84, color=color)
    widths.set_ylabel("output channels")
    widths.legend(frameon=False, loc="upper left")
    shares.axhline(100, color=OLD, linewidth=1, zorder=0)
    shares.set_ylim(0, max([105.0, *(100 * layer.kept for layer in plan.layers)]))
    shares.set_ylabel("kept, %")
    shares.set_xlabel("layer, in the order of execution")
    names = [drawn_name(layer.name) for layer in plan.layers]
    every = max(1, -(-len(names) // _LABELS))
    places = range(1, len(names) + 1, every)
    size = min(_LARGEST, _ROOM / max(1, len(places)))
    shares.set_xticks(places, names[::every], rotation=90, fontsize=size, parse_math=False)


def change_of(layer: LayerPlan) -> tuple[str, str]:
    """Return a label for what becomes of a layer's width, and the label's color."""
    if layer.group is None:
        return "fixed", "#8a8f94"
    if layer.out_channels > layer.base_out:
        return "after, wider", "#c8553d"
    return "after", "#1f6f8b"


def _totals(plan: "Plan") -> str:
    shares = []
    for name, (before, after) in plan.totals.items():
        old, new = (short_count(count).replace(" ", "") for count in (before, after))
        shares.append(f"{old} → {new} {name} ({after / max(before, 1):.0%})")
    return ", ".join(shares)
