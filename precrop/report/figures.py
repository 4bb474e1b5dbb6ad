"""Pictures for papers: every figure as an SVG and as a PNG.

A figure is a function from a frame and a setting to a `Drawing`, or to None where there is nothing
to draw, and a line in `FIGURES`.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError
from precrop.files import replacing
from precrop.report.families import granularities
from precrop.report.frames import Budget, Frame, Group, Setting, percent, run_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    "#7a8594",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#a6447a",
    "#44aa99",
    "#8a6fc9",
    "#8c6d31",
    "#e7298a",
)
"""Told apart also by people who see few colors; variants take them in the frame's order."""
MARKERS = {"dense": "D", "cropped": "o", "masked": "^"}
_STYLE: Any = {
    "font.size": 9,
    "text.parse_math": False,  # names are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "precrop",  # the same identifiers every time a picture is drawn
}
_LONGEST_SLUG = 150
_GREY = "#8a8f94"
_PALE = "#dfe4e8"
_GAP, _ROOM = 10, 78
"""Points before a row's figures, and those that ``100.00 ± 10.00`` needs."""
_LISTED = 3
"""Runs that are named beside a row of points; tables name all."""


@dataclass(frozen=True)
class Drawing:
    """A figure that is not written yet.

    Attributes:
        figure: matplotlib's.
        caption: what it shows, in one sentence or two.
    """

    figure: "Figure"
    caption: str


@dataclass(frozen=True)
class Picture:
    """A figure that is written, as ``stem``.svg and ``stem``.png."""

    stem: str
    setting: Setting
    caption: str


def draw_all(frame: Frame, folder: Path, margin: float) -> list[Picture]:
    """Draw every figure of every setting.

    Args:
        frame: what to draw.
        folder: an existing one.
        margin: percentage points that count as no difference.

    Raises:
        PrecropError: matplotlib is not installed, or a file cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise PrecropError("matplotlib is not installed: pip install 'precrop[report]'") from error
    pictures = []
    with mpl.rc_context(_STYLE):
        for setting in frame.settings:
            for name, draw in FIGURES.items():
                drawing = draw(frame, setting, margin)
                if drawing is not None:
                    stem = f"{_slug(setting)}-{name}"
                    _write(drawing.figure, folder / stem)
                    pictures.append(Picture(stem, setting, drawing.caption))
    return pictures


def accuracy(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """Every run as a point in its variant's row, budget by budget."""
    del margin
    groups = frame.within(setting)
    budgets = tuple(dict.fromkeys(group.budget for group in groups))
    figure = _figure(9.5, 0.9 + 0.27 * (len(budgets) + len(groups)))
    axes = figure.subplots()
    labels: list[str] = []
    for budget in budgets:
        _heading(axes, str(budget), len(labels))
        labels.append("")
        for group in groups:
            if group.budget == budget:
                _points(axes, frame, group, len(labels))
                _beside(axes, group, len(labels))
                labels.append(group.variant)
    _rows(axes, labels)
    axes.set_xlabel("accuracy, % of held-out images")
    axes.set_title(str(setting), loc="left")
    return Drawing(
        figure,
        "Accuracy after the last epoch. Points are runs, bars the mean and one standard deviation; "
        "beside them the same as figures, and the runs.",
    )


def sizes(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """Accuracy against parameters and against multiply-accumulates."""
    del margin
    groups = frame.within(setting)
    if len(groups) < 2:
        return None
    figure = _figure(9.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("params_share", "macs_share"), strict=True):
        for variant in dict.fromkeys(group.variant for group in groups):
            _curve(axes, frame, [g for g in groups if g.variant == variant], name)
        _shares(axes, [getattr(group, name) for group in groups])
    panels[0].set_xlabel("parameters, % of the original")
    panels[1].set_xlabel("multiply-accumulates, % of the original")
    panels[0].set_ylabel("accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(str(setting), x=0.01, ha="left", fontsize=10)
    return Drawing(
        figure,
        "Accuracy against what the networks have: small points are runs, large ones means with one "
        "standard deviation, lines join the budgets of a variant.",
    )


def widths(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """What every method chose, side by side over depth."""
    del margin
    from matplotlib.ticker import MaxNLocator

    groups = [g for g in frame.within(setting) if g.kind == "cropped"]
    if not groups:
        return None
    budgets = tuple(dict.fromkeys(group.budget for group in groups))
    variants = tuple(dict.fromkeys(group.variant for group in groups))
    shape = len(variants), len(budgets)
    figure = _figure(max(6.5, 4.6 * len(budgets)), 0.8 + 1.3 * len(variants))
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    before = original_widths(frame, setting)
    for axes, group in _cells(panels, variants, budgets, groups):
        _bars(axes, group, before, _color(frame, group.variant))
    for row, variant in zip(panels, variants, strict=True):
        row[0].set_ylabel(_wrapped(variant))
    for axes, budget in zip(panels[0], budgets, strict=True):
        axes.set_title(str(budget), loc="left", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("layer, in the order of execution")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"Output channels, {setting}", x=0.01, ha="left", fontsize=10)
    return Drawing(
        figure,
        "Output channels of every layer as each variant chose them (mean over seeds), before the "
        "original's in grey.",
    )


def densities(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """The share of every layer's weights that remains, masks included."""
    del margin
    groups = [g for g in frame.within(setting) if g.kind != "dense" and g.densities]
    if not groups:
        return None
    budgets = tuple(dict.fromkeys(group.budget for group in groups))
    figure = _figure(9.5, 0.6 + 2.6 * len(budgets))
    panels = figure.subplots(len(budgets), 1, sharex=True, squeeze=False)[:, 0]
    for axes, budget in zip(panels, budgets, strict=True):
        for group in groups:
            if group.budget == budget:
                _line(axes, frame, group)
        _logarithmic(axes)
        axes.set_title(str(budget), loc="left", fontsize=9)
        axes.set_ylabel("density")
    panels[-1].set_xlabel("layer, in the order of execution")
    found = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
    figure.legend(list(found.values()), list(found), loc="outside right upper", frameon=False)
    figure.suptitle(f"Layer densities, {setting}", x=0.01, ha="left", fontsize=10)
    return Drawing(figure, "Share of each layer's weights that remains (mean over seeds).")


def granularity(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """Equal layer densities, coarser and coarser units."""
    families = [family for family in granularities(frame) if family[0].setting == setting]
    if not families:
        return None
    columns = min(2, len(families))
    rows = math.ceil(len(families) / columns)
    figure = _figure(4.8 * columns, 0.5 + 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(families) :]:
        axes.set_visible(False)
    for axes, family in zip(panels.flat, families, strict=False):
        middle = family[0].accuracy.mean
        axes.axhspan(middle - margin, middle + margin, color=_PALE, zorder=0)
        for x, group in enumerate(family):
            _upright(axes, frame, group, x)
        axes.set_xticks(range(len(family)), [_unit_of(group) for group in family], fontsize=7.5)
        axes.set_xlim(-0.6, len(family) - 0.4)
        axes.set_title(f"{family[0].variant}, {family[0].budget}", loc="left", fontsize=9)
        axes.set_ylabel("accuracy, %")
    figure.suptitle(str(setting), x=0.01, ha="left", fontsize=10)
    return Drawing(
        figure,
        "Networks of the same layer densities by what is removed from them. The band is "
        f"±{margin:g} points around the mean of single weights.",
    )


def times(frame: Frame, setting: Setting, margin: float) -> Drawing | None:
    """Seconds per epoch, where they were measured."""
    del margin
    groups = [g for g in frame.within(setting) if g.epoch_seconds is not None]
    if len(groups) < 2:
        return None
    figure = _figure(9.5, 0.9 + 0.25 * len(groups))
    axes = figure.subplots()
    for y, group in enumerate(groups):
        seconds = group.epoch_seconds or 0.0
        axes.barh(y, seconds, 0.62, color=_color(frame, group.variant))
        axes.annotate(f"{seconds:.1f}", (seconds, y), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    _rows(axes, [row_name(group) for group in groups])
    axes.margins(x=0.08)
    axes.set_xlabel("seconds per epoch of training")
    axes.set_title(str(setting), loc="left")
    devices = ", ".join(dict.fromkeys(device for group in groups for device in group.devices))
    return Drawing(
        figure,
        f"Median seconds per epoch on {devices}, mean over seeds; runs that shared a device slowed "
        "each other. Masked networks train with dense kernels.",
    )


Draw = Callable[[Frame, Setting, float], Drawing | None]
FIGURES: dict[str, Draw] = {
    "accuracy": accuracy,
    "sizes": sizes,
    "widths": widths,
    "densities": densities,
    "granularity": granularity,
    "times": times,
}
"""Figures by the last part of their files' names; adding one is a function and a line here."""


def original_widths(frame: Frame, setting: Setting) -> dict[str, float]:
    """Output channels of the original, from a run that kept them; empty where there is none."""
    whole = (g.widths for g in frame.within(setting) if g.kind != "cropped" and g.widths)
    return next(whole, {})


def unit_name(group: Group) -> str:
    """What was removed: single weights, …, or channels for good."""
    return "cropped" if group.kind == "cropped" else group.granularity


def row_name(group: Group) -> str:
    """A variant with its budget, where it has one."""
    return group.variant if group.kind == "dense" else f"{group.variant} · {group.budget}"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: "Figure", stem: Path) -> None:
    for kind, metadata in (("svg", {"Date": None}), ("png", {})):
        path = stem.with_name(f"{stem.name}.{kind}")
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names without room, of signs without a glyph
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)


def _slug(setting: Setting) -> str:
    plain = re.sub(r"[^\w.]+", "-", str(setting)).strip("-.")
    if len(plain.encode()) <= _LONGEST_SLUG:
        return plain
    return f"{plain[: _LONGEST_SLUG // 4]}-{hashlib.sha256(str(setting).encode()).hexdigest()[:12]}"


def _color(frame: Frame, variant: str) -> str:
    return COLORS[frame.variants.index(variant) % len(COLORS)]


def _fill(frame: Frame, variant: str) -> str:
    """Hollow where the colors have gone round."""
    return "white" if frame.variants.index(variant) >= len(COLORS) else _color(frame, variant)


def _heading(axes: "Axes", text: str, y: int) -> None:
    axes.annotate(
        text,
        (0, y + 0.2),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
    )


def _points(axes: "Axes", frame: Frame, group: Group, y: int) -> None:
    """A row of runs over their mean and spread."""
    color, spread = _color(frame, group.variant), group.accuracy
    if spread.deviation is not None:
        ends = spread.mean - spread.deviation, spread.mean + spread.deviation
        axes.plot(ends, (y, y), color=color, alpha=0.35, linewidth=6, solid_capstyle="butt")
    axes.plot(spread.mean, y, "|", color=color, markersize=13, markeredgewidth=2)
    for row in group.rows:
        (point,) = axes.plot(
            percent(row), y, MARKERS[group.kind], color=color, markersize=4.5,
            markerfacecolor=_fill(frame, group.variant),
        )  # fmt: skip
        point.set_gid(f"run-{run_id(row)}-{group.variant}")


def _beside(axes: "Axes", group: Group, y: int) -> None:
    """The row's figures and runs, to the right of the axes."""
    runs = [*group.runs[:_LISTED]]
    if len(group.runs) > _LISTED:
        runs.append(f"+{len(group.runs) - _LISTED}")
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    # In points, not in shares of the axes: these are narrow where names are long.
    where["textcoords"] = "offset points"
    axes.annotate(str(group.accuracy), (1, y), xytext=(_GAP, 0), **where)
    axes.annotate(" ".join(runs), (1, y), xytext=(_GAP + _ROOM, 0), **{**where, "fontsize": 6.5},
                  family="monospace", color=_GREY)  # fmt: skip


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def _curve(axes: "Axes", frame: Frame, groups: Sequence[Group], name: str) -> None:
    """One variant over its budgets."""
    color, kind = _color(frame, groups[0].variant), MARKERS[groups[0].kind]
    groups = sorted(groups, key=lambda group: getattr(group, name))
    shares = [100 * getattr(group, name) for group in groups]
    for group, share in zip(groups, shares, strict=True):
        runs = [percent(row) for row in group.rows]
        axes.plot([share] * len(runs), runs, ".", color=color, alpha=0.45, markersize=4)
    axes.errorbar(
        shares,
        [group.accuracy.mean for group in groups],
        yerr=[group.accuracy.deviation or 0.0 for group in groups],
        fmt=f"-{kind}", color=color, markersize=5.5, linewidth=1.1, elinewidth=1, capsize=2,
        markerfacecolor=_fill(frame, groups[0].variant), label=groups[0].variant,
    )  # fmt: skip


def _shares(axes: "Axes", shares: Sequence[float]) -> None:
    """An axis of shares: logarithmic where they are far apart, its ticks in per cent."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if max(shares) > 3 * min(shares):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _cells(
    panels: Any, variants: Sequence[str], budgets: Sequence[Budget], groups: Sequence[Group]
) -> list[tuple["Axes", Group]]:
    """The panel of each group; one that no group has is hidden."""
    by_place = {(group.variant, group.budget): group for group in groups}
    found = []
    for row, variant in zip(panels, variants, strict=True):
        for axes, budget in zip(row, budgets, strict=True):
            group = by_place.get((variant, budget))
            if group is None:
                axes.set_axis_off()
            else:
                found.append((axes, group))
    return found


def _bars(axes: "Axes", group: Group, before: dict[str, float], color: str) -> None:
    places = range(1, len(group.widths) + 1)
    if before:
        old = [before.get(name, 0.0) for name in group.widths]
        axes.bar(places, old, 0.9, color=_PALE)
    axes.bar(places, list(group.widths.values()), 0.56, color=color)
    axes.margins(x=0.01)


def _logarithmic(axes: "Axes") -> None:
    """Densities up the side, as plain numbers; layers are counted in whole numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def _line(axes: "Axes", frame: Frame, group: Group) -> None:
    places = range(1, len(group.densities) + 1)
    axes.plot(
        places, list(group.densities.values()), color=_color(frame, group.variant), linewidth=1.2,
        marker=MARKERS[group.kind], markersize=3.5, label=group.variant, alpha=0.9,
        linestyle="--" if group.kind == "masked" else "-",
    )  # fmt: skip


def _upright(axes: "Axes", frame: Frame, group: Group, x: int) -> None:
    """A column of runs over their mean and spread."""
    color, spread = _color(frame, group.variant), group.accuracy
    axes.errorbar(x, spread.mean, yerr=spread.deviation or 0.0, fmt="_", color=color, markersize=18,
                  elinewidth=5, alpha=0.5)  # fmt: skip
    for row in group.rows:
        axes.plot(x, percent(row), MARKERS[group.kind], color=color, markersize=4.5)


def _unit_of(group: Group) -> str:
    return f"{unit_name(group)}\n{_wrapped(group.variant)}"


def _wrapped(text: str) -> str:
    return "\n".join(re.findall(r"\S.{0,16}\S*", text))
