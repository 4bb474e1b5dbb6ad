"""The tables and the two pictures of the page on the evidence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy.stats import spearmanr

from precrop.evidence.candidates import UNIFORM
from precrop.evidence.intervals import interval
from precrop.evidence.nats import Table
from precrop.evidence.order import objective_values
from precrop.evidence.published import disagreement
from precrop.evidence.sizes import BAND, bands
from precrop.evidence.verdict import Evidence
from precrop.files import drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16_120": "ImageNet16-120"}
DEFAULT = "synexp"
SHOWN = {"PreConfig, both whole": "PreConfig, same parameters and MACs"}
"""Names of budgets in tables, if they differ from the stored names."""
COLORS = ("#0072b2", "#d55e00", "#009e73")
_GREY = "#8a8f94"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "precrop",  # gives the same ids every time a picture is drawn
}


def order_table(found: Evidence) -> str:
    """Return rank correlations within bands: one row per objective."""
    text = (
        "{rho smooth:.2f} ({rho smooth low:.2f} to {rho smooth high:.2f}), {rho raw:.2f}; "
        "{tau smooth:.2f}, {tau raw:.2f}"
    )
    order = found.order["objective"].unique()
    return _by_data_set(found.order, "objective", order, text.format_map)


def regret_table(found: Evidence) -> str:
    """Return points behind the best network within two budgets: a row per strategy, best first."""
    rows = []
    for (data_set, strategy), group in found.regret.groupby(["data set", "strategy"], sort=False):
        row = interval("regret", group["regret"].to_numpy())
        means = {name: group[name].mean() for name in ("raw regret", "over its size", "beats")}
        rows.append({"data set": data_set, "strategy": strategy, "n": len(group), **row, **means})
    table = pd.DataFrame(rows)
    scale = table.groupby("data set")["regret"].transform("max")
    ranks = (table["regret"] / scale).groupby(table["strategy"]).mean().sort_values()

    counts = table.groupby("strategy")["n"].max()
    labels = {name: f"{name} (n = {counts[name]})" for name in ranks.index}
    table["strategy"] = table["strategy"].map(labels)

    def cell(row: Mapping[str, Any]) -> str:
        raw = "" if np.isnan(row["raw regret"]) else f", {row['raw regret']:.2f}"
        text = "{regret:.2f} ({regret low:.2f} to {regret high:.2f}){raw}; {over its size:+.2f}"
        return f"{text.format_map({**row, 'raw': raw})}, {row['beats']:.0%}"

    return _by_data_set(table, "strategy", map(labels.get, ranks.index), cell)


def gains_table(found: Evidence) -> str:
    """Return gains over uniform width, planned and possible: a row per kind of shape and budget."""
    frame = found.gains[found.gains["strategy"] == DEFAULT]
    frame = frame.assign(case=frame["kind"] + ", " + frame["budgets"].replace(SHOWN))
    columns = ["gain", "possible", "raw gain", "raw possible"]
    means = frame.groupby(["data set", "case"], sort=False)[columns].mean().reset_index()

    def cell(row: Mapping[str, Any]) -> str:
        share = f" ({row['gain'] / row['possible']:.0%})" if row["possible"] > 0.1 else ""
        text = "{gain:+.2f} of {possible:+.2f}{share}; raw {raw gain:+.2f} of {raw possible:+.2f}"
        return text.format_map({**row, "share": share})

    return _by_data_set(means, "case", means["case"].unique(), cell)


def shares_table(found: Evidence) -> str:
    """Return each strategy's gain as a share of the best network's, by kind of shape and budget."""
    frame = found.gains
    cases = list(product(frame["kind"].unique(), frame["budgets"].unique()))
    totals = frame.groupby(["strategy", "kind", "budgets"], sort=False)[["gain", "possible"]].sum()

    def cell(strategy: str, case: tuple[str, str]) -> str:
        gain, possible = totals.loc[(strategy, *case)]
        return f"{gain / possible:.0%}" if possible > 1 else f"{gain:+.1f} points"

    rows = [[name, *(cell(name, case) for case in cases)] for name in frame["strategy"].unique()]
    heads = [f"{kind}, {SHOWN.get(budgets, budgets)}" for kind, budgets in cases]
    return table(["strategy", *heads], rows)


def published_table(found: Evidence) -> str:
    """Return rank correlations with published widths, and distances: one row per network."""
    frame = found.published
    ways = list(dict.fromkeys(frame["chosen by"]))
    lines = []
    for (family, name), group in frame.groupby(["family", "configuration"], sort=False):
        rows = group.set_index("chosen by")
        cells = [_closeness(rows.loc[way]) if way in rows.index else "" for way in ways]
        lines.append([f"{family}, {name}", str(group["widths"].iloc[0]), *cells])
    means = frame.groupby("chosen by")[["rho", "distance"]].mean()
    lines.append(["mean", "", *(_closeness(means.loc[way]) for way in ways)])
    return table(["network", "widths", *ways], lines)


def _closeness(row: pd.Series) -> str:
    rho = "" if np.isnan(row["rho"]) else f"{row['rho']:+.2f}, "
    return f"{rho}{row['distance']:.2f}"


def experts_table(found: Evidence) -> str:
    """Return how well published networks of one family agree: one row per family."""
    rows = []
    for family, group in disagreement(found.published).groupby("family", sort=False):
        cells = [
            _closeness(part[["rho", "distance"]].mean()) if len(part) else "–"
            for part in (group[group["same method"]], group[~group["same method"]])
        ]
        rows.append([family, str(len(group)), *cells])
    return table(["family", "pairs", "of one method", "of two methods"], rows)


def _by_data_set(
    frame: pd.DataFrame, key: str, order: Iterable[Any], cell: Callable[[Mapping[str, Any]], str]
) -> str:
    """Return a table with one column per data set."""
    present = _present(frame)
    rows = frame.drop_duplicates([key, "data set"]).to_dict("records")
    cells = {(row[key], row["data set"]): cell(row) for row in rows}
    lines = [[each, *(cells.get((each, name), "") for name in present)] for each in order]
    return table([key, *(NAMES[name] for name in present)], lines)


def _present(frame: pd.DataFrame) -> list[str]:
    """Return the data sets of a frame, in the usual order."""
    return [name for name in NAMES if name in set(frame["data set"])]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    texts = ("| ".join(f"{cell} " if cell else "" for cell in row) for row in (heads, *rows))
    head, *lines = (f"| {text}|" for text in texts)
    return "\n".join([head, "|---|" + "---:|" * (len(heads) - 1), *lines])


def draw_order(tables: Sequence[Table]) -> "Figure":
    """Draw accuracy against the objective, both relative to the mean of the network's band."""
    with drawing().rc_context(_STYLE):
        figure = new_figure(9, 3.4)
        axes = figure.subplots(1, len(tables), squeeze=False)[0]
        for axis, table, color in zip(axes, tables, COLORS, strict=False):
            values = objective_values(table)[DEFAULT]
            found = bands(table)
            x, y = (
                np.concatenate([v[band] - v[band].mean() for band in found])
                for v in (values, table.raw)
            )
            axis.axhline(0, color=_GREY, lw=0.8)
            axis.plot(x, y, ".", ms=1.2, alpha=0.12, color=color, rasterized=True)
            edges = np.quantile(x, np.linspace(0, 1, 11))
            parts = [(x >= low) & (x <= high) for low, high in pairwise(edges)]
            middles = [x[part].mean() for part in parts]
            low, middle, high = np.array([np.percentile(y[part], [10, 50, 90]) for part in parts]).T
            axis.vlines(middles, low, high, color="k", lw=1)
            axis.plot(middles, middle, "ko-", ms=4, lw=1.5)
            axis.set_xlim(*np.percentile(x, [0.2, 99.8]))
            axis.set_ylim(*np.percentile(y, [0.2, 99.8]))
            rho = np.nanmean([spearmanr(values[b], table.raw[b]).statistic for b in found])
            axis.set_title(f"{NAMES[table.data_set.name]}, rho = {rho:.2f}", fontsize=10)
        axes[0].set_ylabel("accuracy, points over\nnetworks of its size")
        figure.supxlabel(
            "objective (sum of log densities) over that of networks of its size", fontsize=9
        )
        figure.suptitle(f"Networks of equal parameters and MACs (within {BAND:.0%})")
    return figure


def draw_gains(found: Evidence) -> "Figure":
    """Draw the plans' gains over uniform width against those of the best networks."""
    frame = found.gains[found.gains["strategy"] == DEFAULT]
    with drawing().rc_context(_STYLE):
        present = _present(frame)
        figure = new_figure(9, 3.6)
        axes = figure.subplots(1, len(present), squeeze=False)[0]
        for axis, name in zip(axes, present, strict=True):
            part = frame[frame["data set"] == name]
            ends = [min(part["gain"].min(), part["possible"].min(), 0), part["possible"].max()]
            axis.plot(ends, ends, "-", color=_GREY, lw=1)
            axis.axhline(0, color=_GREY, lw=1, ls=":")
            for kind, marker, color in (
                ("ill-shaped", "^", COLORS[1]),
                ("sensible", "o", COLORS[0]),
            ):
                rows = part[part["kind"] == kind]
                x, y = rows["possible"], rows["gain"]
                axis.plot(x, y, marker, ms=4.5, alpha=0.55, mew=0, color=color, label=kind)
            axis.set_title(NAMES[name], fontsize=10)
        axis, top = axes[-1], axes[-1].get_ylim()[1]
        axis.annotate("best possible", (0.72 * top, 0.82 * top), color="#555", ha="right")
        right = axis.get_xlim()[1]
        axis.annotate(
            UNIFORM, (right, 0), (0, -11), textcoords="offset points", ha="right", color="#555"
        )
        axes[0].legend(frameon=False, title="base network", loc="upper left")
        axes[0].set_ylabel(f"the plan over {UNIFORM},\npoints of accuracy")
        figure.supxlabel(f"the best network of the same budgets over {UNIFORM}, points", fontsize=9)
        figure.suptitle(
            "What a plan gains of what could be gained: one dot a base network and budget"
        )
    return figure
