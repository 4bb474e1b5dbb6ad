"""An interactive picture of widths over depth: original, planned, uniform, and those of a file."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go  # type: ignore[import-untyped]

from precrop.explore.html import plain, uniform_widths
from precrop.plans.plot import OLD, change_of

if TYPE_CHECKING:
    from precrop.plans.plan import Plan

_UNIFORM, _OTHER = "#e09f3e", "#6a4c93"
_LABELS = 60
"""Most layers that are named below the picture; of more, only every second, third, … is named."""


def picture(plan: "Plan", other: "Plan | None" = None) -> go.Figure:
    """Draw the output channels of every layer in the order of execution.

    Args:
        plan: the plan.
        other: a plan for the same network to compare it with.
    """
    layers = plan.layers
    names = [plain(layer.name) for layer in layers]
    remarks = [f" ({plain(layer.frozen)})" if layer.frozen else "" for layer in layers]
    colors = [change_of(layer)[1] for layer in layers]
    old, new = ([getattr(layer, side) for layer in layers] for side in ("base_out", "out_channels"))
    figure = go.Figure()
    figure.add_bar(y=old, width=0.84, name="original", marker_color=OLD, hovertemplate="%{y}")
    figure.add_bar(y=new, width=0.5, name="planned", marker_color=colors)
    figure.data[-1].update(customdata=remarks, hovertemplate="%{y}%{customdata}")
    lines = {"uniform width": (uniform_widths(plan), _UNIFORM)}
    if other is not None:
        lines["plan file"] = [float(layer.out_channels) for layer in other.layers], _OTHER
    for name, (widths, color) in lines.items():
        if widths is not None:
            line = {"shape": "hvh", "color": color, "width": 2}
            figure.add_scatter(
                y=widths, name=name, mode="lines", line=line, hovertemplate="%{y:.0f}"
            )
    figure.update_traces(x=names)
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
