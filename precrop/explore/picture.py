"""Widths over depth, as a picture to point at: old, new, uniform, and those of a file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go  # type: ignore[import-untyped]

from precrop.explore.html import plain, uniform_widths

if TYPE_CHECKING:
    from precrop.plans.plan import LayerPlan, Plan

_OLD, _NEW, _WIDER, _FIXED, _UNIFORM, _OTHER = (
    "#cfd8dc",
    "#1f6f8b",
    "#c8553d",
    "#8a8f94",
    "#e09f3e",
    "#6a4c93",
)
_LABELS = 60
"""Layers that are named below the picture: all, or every other, third, …"""


def picture(plan: "Plan", other: "Plan | None" = None) -> go.Figure:
    """Output channels of every layer in the order of execution.

    Args:
        plan: what was planned.
        other: a plan of the same network, set beside.
    """
    layers = plan.layers
    names = [plain(layer.name) for layer in layers]
    figure = go.Figure()
    figure.add_bar(
        x=names,
        y=[layer.base_out for layer in layers],
        width=0.84,
        name="original",
        marker_color=_OLD,
        hovertemplate="%{y}",
    )
    figure.add_bar(
        x=names,
        y=[layer.out_channels for layer in layers],
        width=0.5,
        name="planned",
        marker_color=[_color(layer) for layer in layers],
        customdata=[_remark(layer) for layer in layers],
        hovertemplate="%{y}%{customdata}",
    )
    uniform = uniform_widths(plan)
    if uniform is not None:
        _add_line(figure, names, uniform, "uniform width", _UNIFORM)
    if other is not None:
        _add_line(
            figure, names, [layer.out_channels for layer in other.layers], "plan file", _OTHER
        )
    every = -(-len(names) // _LABELS)
    figure.update_layout(
        barmode="overlay",
        hovermode="x unified",
        bargap=0,
        height=420,
        margin={"l": 50, "r": 10, "t": 30, "b": 110},
        legend={"orientation": "h", "y": 1.1, "x": 0},
        yaxis={"title": "output channels", "rangemode": "tozero"},
        xaxis={
            "type": "category",
            "tickvals": names[::every],
            "tickangle": -90,
            "tickfont": {"size": 9},
            "range": [-0.6, len(names) - 0.4],
        },
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _add_line(
    figure: go.Figure, layers: Sequence[str], widths: Sequence[float], name: str, color: str
) -> None:
    figure.add_scatter(
        x=layers,
        y=widths,
        name=name,
        mode="lines",
        line={"shape": "hvh", "color": color, "width": 2},
        hovertemplate="%{y:.0f}",
    )


def _color(layer: "LayerPlan") -> str:
    if layer.group is None:
        return _FIXED
    return _WIDER if layer.out_channels > layer.base_out else _NEW


def _remark(layer: "LayerPlan") -> str:
    """What stands behind a layer's width: that it is frozen, and why."""
    return f" ({plain(layer.frozen)})" if layer.frozen else ""
