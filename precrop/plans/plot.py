"""A plan as a picture: old and new widths over depth."""

from pathlib import Path
from typing import TYPE_CHECKING

from precrop.files import check_picture, drawn_name, new_figure, save_picture
from precrop.plans.table import network_name
from precrop.plans.text import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from precrop.plans.plan import Plan

_LABELS = 90
"""Layers that are named below the picture: all, or every other, third, …"""
_ROOM, _LARGEST = 430.0, 7.5
"""Points along the axis that all names share, and the largest font size."""
_OLD, _NEW, _WIDER, _FIXED = "#cfd8dc", "#1f6f8b", "#c8553d", "#8a8f94"


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
    """What `plot` writes."""
    made = new_figure(9, 5)
    widths, shares = made.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    _draw_widths(widths, plan)
    _draw_shares(shares, plan)
    heading = f"{drawn_name(title or network_name(plan))}: {_totals(plan)}"
    widths.set_title(heading, loc="left", fontsize=11, parse_math=False)
    for axes in (widths, shares):
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    return made


def _draw_widths(axes: "Axes", plan: "Plan") -> None:
    """Output channels of every layer, before behind after."""
    before = [layer.base_out for layer in plan.layers]
    axes.bar(range(1, len(before) + 1), before, 0.84, color=_OLD, label="before")
    for label, (color, layers) in _by_change(plan).items():
        widths = [plan.layers[index].out_channels for index in layers]
        axes.bar([index + 1 for index in layers], widths, 0.5, color=color, label=label)
    axes.set_ylabel("output channels")
    axes.legend(frameon=False, loc="upper left")


def _draw_shares(axes: "Axes", plan: "Plan") -> None:
    """What every layer keeps of its width, in per cent."""
    kept = [100 * layer.kept for layer in plan.layers]
    for color, layers in _by_change(plan).values():
        axes.bar([index + 1 for index in layers], [kept[i] for i in layers], 0.84, color=color)
    axes.axhline(100, color=_OLD, linewidth=1, zorder=0)
    axes.set_ylim(0, max([105.0, *kept]))
    axes.set_ylabel("kept, %")
    axes.set_xlabel("layer, in the order of execution")
    names = [drawn_name(layer.name) for layer in plan.layers]
    every = max(1, -(-len(names) // _LABELS))
    places = range(1, len(names) + 1, every)
    size = min(_LARGEST, _ROOM / max(1, len(places)))
    axes.set_xticks(places, names[::every], rotation=90, fontsize=size, parse_math=False)


def _by_change(plan: "Plan") -> dict[str, tuple[str, list[int]]]:
    """Per label its color and its layers."""
    found: dict[str, tuple[str, list[int]]] = {}
    for index, layer in enumerate(plan.layers):
        label, color = "after", _NEW
        if layer.group is None:
            label, color = "fixed", _FIXED
        elif layer.out_channels > layer.base_out:
            label, color = "after, wider", _WIDER
        found.setdefault(label, (color, []))[1].append(index)
    return found


def _totals(plan: "Plan") -> str:
    shares = []
    for name, (before, after) in plan.totals.items():
        old, new = (short_count(count).replace(" ", "") for count in (before, after))
        shares.append(f"{old} → {new} {name} ({after / max(before, 1):.0%})")
    return ", ".join(shares)
