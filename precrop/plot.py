"""A plan as a picture: old and new widths over depth."""

from pathlib import Path

from precrop.errors import PrecropError
from precrop.files import replacing
from precrop.plans import Plan

_OLD, _NEW = "#c9d3dc", "#1f6f8b"


def plot(plan: Plan, path: str | Path, title: str | None = None) -> None:
    """Draw the output width of every layer before and after, in the order of execution.

    Args:
        plan: what to draw.
        path: a ``.png`` or ``.svg`` file; written whole or not at all.
        title: first words of the heading; the name of the network by default.

    Raises:
        PrecropError: matplotlib is not installed, or the file cannot be written.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in ("png", "svg"):
        raise PrecropError(f"{path}: a picture is a .png or an .svg file")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PrecropError("matplotlib is not installed: pip install 'precrop[plot]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    depth = range(1, len(plan.layers) + 1)
    axes.bar(depth, [layer.base_out for layer in plan.layers], 0.8, color=_OLD, label="before")
    axes.bar(depth, [layer.out_channels for layer in plan.layers], 0.5, color=_NEW, label="after")
    axes.set_title(f"{title or _name(plan)}: {_totals(plan)}", loc="left", fontsize=11)
    axes.set_xlabel("layer, in the order of execution")
    axes.set_ylabel("output channels")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=160)


def _name(plan: Plan) -> str:
    return str(plan.source["name"]) if plan.source else plan.network.rpartition(":")[2]


def _totals(plan: Plan) -> str:
    totals = {
        "parameters": (plan.base_params, plan.params),
        "MACs": (plan.base_macs, plan.macs),
    }
    return ", ".join(
        f"{_short(before)} → {_short(after)} {name} ({after / max(before, 1):.0%})"
        for name, (before, after) in totals.items()
    )


def _short(count: int) -> str:
    for suffix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{suffix}"
    return str(count)
