"""Plots a benchmark: each variant's measured speed-up beside the one that its MACs promise."""

from pathlib import Path
from typing import TYPE_CHECKING

from precrop.deployment.benching import DENSE, Bench, BenchRow
from precrop.errors import PrecropError
from precrop.files import check_picture, drawn_name, new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_IDEAL, _MEASURED = "#cfd8dc", "#1f6f8b"


def plot_bench(bench: Bench, path: str | Path, title: str) -> None:
    """Draw the speed-ups over the dense network beside the ideal ones, one panel per setting.

    Args:
        bench: what was measured.
        path: a ``.png`` or ``.svg`` file; written whole or not at all.
        title: start of the heading.

    Raises:
        PrecropError: only the dense network was measured, matplotlib is not installed, or
            the file cannot be written.
    """
    check_picture(path)
    panels = {
        str(setting): drawn
        for setting, rows in bench.settings.items()
        if (drawn := [row for row in rows if row.speedup is not None and row.variant != DENSE])
    }
    if not panels:
        raise PrecropError("there is no speed-up to draw: no variant ran beside the dense network")
    rows = max(map(len, panels.values()))
    figure = new_figure(8, len(panels) * (0.9 + 0.42 * rows))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (name, drawn) in zip(grid[:, 0], panels.items(), strict=True):
        _draw(axes, drawn)
        axes.set_title(name, loc="left", fontsize=10)
    heading = f"{drawn_name(title)}: speed-up over the dense network"
    figure.suptitle(heading, fontsize=11, parse_math=False)
    grid[-1, 0].set_xlabel("times as fast as dense")
    marks, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(marks, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    save_picture(figure, path)


def _draw(axes: "Axes", rows: list[BenchRow]) -> None:
    """Draw measured bars in front of ideal ones, the first variant on top."""
    places = range(len(rows), 0, -1)
    measured = [row.speedup or 0.0 for row in rows]
    axes.barh(places, [row.ideal for row in rows], 0.8, color=_IDEAL, label="ideal, by MACs")
    axes.barh(places, measured, 0.5, color=_MEASURED, label="measured")
    for place, speedup in zip(places, measured, strict=True):
        axes.annotate(
            f"{speedup:.2f}", (speedup, place), (3, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(list(places), [drawn_name(row.variant) for row in rows], parse_math=False)
    axes.axvline(1, color="#8a8f94", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
