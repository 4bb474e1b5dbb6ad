"""The report's figures: one chart description each, for the picture files and for the page.

A figure is a function listed in `FIGURES`. It takes a setting's tables and returns an Altair chart
with its caption, or None if there is nothing to draw. Names from a store enter a chart only as
data, never as part of a field's name or of an expression.
"""

import hashlib
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd  # type: ignore[import-untyped]
import vl_convert
from PIL import Image

from precrop.errors import errors_as
from precrop.files import replacing, write_text
from precrop.report.frames import ResultFrame, RunSetting
from precrop.report.tables import ChartTables

HASHES = "hashes"
"""The charts' parameter that labels points with the names of their runs."""
_GREY = "#8a8f94"
_SCALE = 1.5
_WIDTH = 520
_ROOM = 26
_MONOSPACE = "Liberation Mono, monospace"
_LONGEST_SLUG = 150
_DEPTH = "layer, in the order of execution"
_TEXT = "currentColor"  # black in a picture, the page's text color in the page
_CONFIG = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "lineBreak": "\n",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _TEXT,
        "titleColor": _TEXT,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "labelLimit": 320,
        "gridColor": _GREY,
        "gridOpacity": 0.3,
        "domainColor": _GREY,
        "tickColor": _GREY,
    },
    "header": {"labelColor": _TEXT, "labelFontSize": 12, "labelLimit": 600},
    "legend": {
        "labelColor": _TEXT,
        "labelFontSize": 11,
        "labelLimit": 320,
        "symbolSize": 70,
        "symbolOpacity": 1,
    },
    "title": {"color": _TEXT, "anchor": "start", "fontSize": 13},
    "text": {"color": _TEXT},
}


@dataclass(frozen=True)
class Figure:
    """A figure of one setting."""

    name: str  # its kind, a key of `FIGURES`
    setting: RunSetting  # the setting whose runs it shows
    caption: str  # what it shows, in one or two sentences
    chart: dict[str, Any]  # its description in Vega-Lite
    stem: str  # the name of its files, without ``.svg`` and ``.png``

    def write(self, folder: Path) -> None:
        """Write the figure as an SVG file and a PNG file.

        Raises:
            PrecropError: it cannot be drawn, or a file cannot be written.
        """
        with errors_as(f"the picture {self.stem} cannot be drawn", Exception):
            svg = vl_convert.vegalite_to_svg(self.chart, allowed_base_urls=[])
            png = vl_convert.svg_to_png(svg, scale=_SCALE)
        write_text(folder / f"{self.stem}.svg", svg)
        pixels = Image.open(BytesIO(png))
        with replacing(folder / f"{self.stem}.png") as temporary:
            pixels.convert("RGB").save(temporary, "png", optimize=True)  # a quarter as large


Drawn = tuple[alt.TopLevelMixin, str]
Draw = Callable[[ChartTables], Drawn | None]


def accuracy(tables: ChartTables) -> Drawn:
    """Draw every run as a point in its variant's row, with one chart per budget."""
    base = alt.Chart().encode(_ROW, **tables.look("color"))
    x = alt.X("accuracy:Q", **_linear(title="accuracy, % of held-out images"))
    points = base.encode(x, tooltip=_TOOLTIP, description="run:N")
    named = points.mark_text(
        fontSize=8,
        dy=alt.expr("datum.rank % 2 ? 8 : -8"),
        align=alt.expr("2 * datum.rank < datum.n ? 'right' : 'left'"),
    )
    rows = alt.layer(
        base.mark_bar(size=6, opacity=0.35).encode(alt.X("min(low):Q"), alt.X2("max(high):Q")),
        base.mark_tick(thickness=2.5, size=14).encode(alt.X("mean(accuracy):Q")),
        points.mark_point(filled=True, size=32, opacity=0.9).encode(**tables.look("shape")),
        named.encode(text=alt.condition(HASHES, "run:N", alt.value("")), color=alt.value(_GREY)),
        _beside(base, "spread", 12),
        _beside(base, "listed", 100, _GREY, fontSize=8.5, font=_MONOSPACE),
    )
    chart = _by_budget(rows.properties(width=_WIDTH, height=alt.Step(_ROOM)), tables.runs)
    return chart.add_params(alt.param(HASHES, value=False)).properties(title=tables.title), (
        "Accuracy after the last epoch. Points are runs, bars the mean and one standard deviation; "
        "beside them the same as figures, and the runs."
    )


def sizes(tables: ChartTables) -> Drawn | None:
    """Draw accuracy against parameters and against multiply-accumulates."""
    if len(tables.groups) < 2:
        return None
    panels, names = [], tables.groups["variant"]
    for name, words in (("params", "parameters"), ("macs", "multiply-accumulates")):
        shares = tables.groups[f"{name}_share"]
        far = shares.max() > 3 * shares.min()
        scale = _logarithmic(shares, (1, 2, 3, 5)) if far else _linear()
        x = alt.X(f"{name}_share:Q", title=f"{words}, % of the original", **scale)
        y = _linear(title="accuracy, %")
        runs, groups = (
            alt.Chart(table).encode(x, **tables.look("color", legend=names))
            for table in (tables.runs, tables.groups)
        )
        means = groups.encode(alt.Y("mean:Q", **y))
        marks = alt.layer(
            runs.mark_circle(size=14, opacity=0.5).encode(
                alt.Y("accuracy:Q", **y), tooltip=_TOOLTIP
            ),
            means.mark_line(strokeWidth=1.2),
            groups.mark_errorbar(ticks=True).encode(alt.Y("low:Q", **y), alt.Y2("high:Q")),
            means.mark_point(filled=True, size=70, opacity=1).encode(
                **tables.look("shape", legend=names)
            ),
        )
        panels.append(marks.properties(width=330, height=300))
    chart = alt.hconcat(*panels, title=tables.title).resolve_scale(y="shared")
    return chart, (
        "Accuracy against what the networks have: small points are runs, large ones means with one "
        "standard deviation, lines join the budgets of a variant."
    )


def widths(tables: ChartTables) -> Drawn | None:
    """Draw the widths that each variant chose over depth, one chart below the other."""
    layers = tables.layers[tables.layers["kind"] == "cropped"]
    if layers["width"].isna().all():
        return None
    y: dict[str, Any] = {"axis": alt.Axis(tickCount=3), "title": None, "stack": None}
    depth = alt.X("place:O", title=_DEPTH, axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    base = alt.Chart().encode(depth, tooltip=_tooltip("layer:N", "width:Q", "original:Q"))
    bars = alt.layer(
        base.mark_bar(width=alt.RelativeBandSize(0.9), color=_GREY, opacity=0.3).encode(
            alt.Y("original:Q", **y)
        ),
        base.mark_bar(width=alt.RelativeBandSize(0.56)).encode(
            alt.Y("width:Q", **y), **tables.look("color")
        ),
    )
    columns = layers["budget"].nunique()
    grid = bars.properties(width=max(300, 640 // columns), height=70).facet(
        data=layers, row=_part("variant", alt.Row), column=_part("budget", alt.Column), spacing=12
    )
    return grid.properties(title=f"Output channels, {tables.title}"), (
        "Output channels of every layer as each variant chose them (mean over seeds), before the "
        "original's in grey."
    )


def densities(tables: ChartTables) -> Drawn | None:
    """Draw the share of each layer's weights that remains, masks included."""
    layers = tables.layers[tables.layers["kind"] != "dense"]
    if layers["density"].isna().all():
        return None
    y = alt.Y("density:Q", **_logarithmic(layers["density"], (1, 2, 5)))
    x = alt.X("place:Q", **_linear(title=_DEPTH, tickMinStep=1))
    names = layers["variant"]
    base = alt.Chart().encode(x, y, **tables.look("color", legend=names))
    lines = alt.layer(
        base.mark_line(strokeWidth=1.4).encode(**tables.look("strokeDash", legend=names)),
        base.mark_point(filled=True, size=25, opacity=0.9).encode(
            tooltip=_tooltip("variant:N", "layer:N", "density:Q"),
            **tables.look("shape", legend=names),
        ),
    )
    chart = _by_budget(lines.properties(width=660, height=220), layers, y="shared")
    return chart.properties(title=f"Layer densities, {tables.title}"), (
        "Share of each layer's weights that remains (mean over seeds)."
    )


def granularity(tables: ChartTables) -> Drawn | None:
    """Draw accuracy at equal layer densities, from fine to coarse granularity."""
    if tables.families.empty:
        return None
    x = alt.X("unit:N", sort=_ORDER, title=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y("accuracy:Q", **_linear(title="accuracy, %"))
    base = alt.Chart().encode(x, **tables.look("color"))
    points = base.encode(y, tooltip=_TOOLTIP, **tables.look("shape"))
    columns = alt.layer(
        alt.Chart()
        .mark_rect(color=_GREY, opacity=0.25)
        .encode(alt.Y("min(least):Q"), alt.Y2("max(most):Q")),
        base.mark_bar(size=6, opacity=0.35).encode(alt.Y("min(low):Q"), alt.Y2("max(high):Q")),
        base.mark_tick(thickness=2.5, size=18).encode(alt.Y("mean(accuracy):Q")),
        points.mark_point(filled=True, size=32, opacity=0.9),
    ).properties(width=alt.Step(110), height=220)
    chart = columns.facet(_part("family", alt.Facet), data=tables.families, columns=2)
    return chart.resolve_scale(x="independent", y="independent").properties(title=tables.title), (
        "Networks of the same layer densities by what is removed from them. The band is "
        f"±{tables.margin:g} points around the mean of single weights."
    )


def times(tables: ChartTables) -> Drawn | None:
    """Draw the seconds per epoch, if they were measured."""
    timed = tables.groups.dropna(subset="epoch_seconds")
    if len(timed) < 2:
        return None
    seconds = alt.X("epoch_seconds:Q", stack=None, title="seconds per epoch of training")
    base = alt.Chart().encode(_ROW, seconds)
    bars = alt.layer(
        base.mark_bar(size=14).encode(
            tooltip=_tooltip("variant:N", "devices:N"), **tables.look("color")
        ),
        base.mark_text(align="left", dx=4).encode(text=alt.Text("epoch_seconds:Q", format=".1f")),
    )
    chart = _by_budget(bars.properties(width=_WIDTH, height=alt.Step(_ROOM)), timed)
    devices = ", ".join(dict.fromkeys(timed["devices"]))
    return chart.properties(title=tables.title), (
        f"Median seconds per epoch on {devices}, mean over seeds; runs that shared a device slowed "
        "each other. Masked networks train with dense kernels."
    )


FIGURES: dict[str, tuple[str, Draw]] = {
    "accuracy": ("Accuracy at each budget", accuracy),
    "sizes": ("Accuracy against size", sizes),
    "widths": ("Widths over depth", widths),
    "densities": ("Layer densities", densities),
    "granularity": ("Granularity", granularity),
    "times": ("Training time", times),
}
"""Headings and functions by the last part of the files' names; a new figure is one more line."""


def figures(frame: ResultFrame, margin: float) -> list[Figure]:
    """Return all figures of all settings."""
    found: list[Figure] = []
    taken: set[str] = set()
    for setting in frame.settings:
        slug = _slug(str(setting), taken)
        taken.add(slug)
        tables = ChartTables(frame, setting, margin)
        for name, (_, draw) in FIGURES.items():
            if (drawn := draw(tables)) is not None:
                chart, caption = drawn
                found.append(Figure(name, setting, caption, _described(chart), f"{slug}-{name}"))
    return found


def _described(chart: alt.TopLevelMixin) -> dict[str, Any]:
    with alt.data_transformers.enable("default", consolidate_datasets=True, max_rows=None):
        described: dict[str, Any] = chart.to_dict()
    return {**described, "config": _CONFIG, "background": "white"}


def _slug(text: str, taken: Container[str]) -> str:
    """Return a text as part of a file's name, different from those that are taken."""
    plain = re.sub(r"[^\w.]+", "-", text).strip("-.")
    if len(plain.encode()) <= _LONGEST_SLUG and plain not in taken:
        return plain
    return f"{plain[: _LONGEST_SLUG // 4]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(field) for field in fields]


_ORDER = alt.EncodingSortField("order", "min")
_ROW = alt.Y("variant:N", sort=_ORDER, title=None, axis=alt.Axis(ticks=False, domain=False))
_TOOLTIP = [
    *_tooltip("variant:N", "budget:N", "seed:Q"),
    alt.Tooltip("accuracy:Q", format=".2f", title="accuracy, %"),
    alt.Tooltip("params:Q", format=",", title="parameters"),
    alt.Tooltip("macs:Q", format=",", title="MACs"),
    alt.Tooltip("run:N"),
]


def _beside(base: alt.Chart, field: str, gap: int, color: str = _TEXT, **look: Any) -> Any:
    """Return a column of text to the right of the rows."""
    return base.mark_text(align="left", **look).encode(
        x=alt.value(_WIDTH + gap), text=f"min({field}):N", color=alt.value(color)
    )


def _by_budget(chart: Any, data: pd.DataFrame, y: Any = "independent") -> Any:
    """Draw a chart for each budget under its heading, one below the other."""
    return chart.facet(data=data, row=_part("budget", alt.Row), spacing=20).resolve_scale(y=y)


def _part(field: str, channel: Callable[..., Any]) -> Any:
    """Split a chart by a field: one chart per value, in the rows' order, headed by the value."""
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start", labelPadding=4)
    return channel(field, type="nominal", sort=_ORDER, header=header)


def _linear(**axis: Any) -> dict[str, Any]:
    """Return an axis that need not include zero, with some room at its ends."""
    return {"scale": alt.Scale(zero=False, nice=False, padding=14), "axis": alt.Axis(**axis)}


def _logarithmic(values: pd.Series, digits: Sequence[int]) -> dict[str, Any]:
    """Return a logarithmic axis over all values, with ticks at round numbers only."""
    low, high = values.min(), values.max()
    round_ = [digit * 10.0**power for power in range(-9, 4) for digit in digits]
    ticks = [float(f"{tick:.0e}") for tick in round_ if low / 1.2 <= tick <= high * 1.2]
    return {
        "scale": alt.Scale(type="log", domain=[low / 1.2, high * 1.2], nice=False),
        "axis": alt.Axis(values=ticks, format="~g"),
    }
