"""Writes docs/evidence.md: scripts/evidence.md with its placeholders replaced by measured results.

A placeholder is ``{{name}}``. Everything comes from files in results that other commands wrote;
nothing is measured here, and no figure is typed by hand.
"""

import argparse
import re
import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from precrop.evidence.candidates import UNIFORM
from precrop.evidence.page import (
    NAMES,
    experts_table,
    gains_table,
    order_table,
    published_table,
    regret_table,
    shares_table,
)
from precrop.evidence.page import table as page_table
from precrop.files import write_text
from precrop.report.comparisons import Comparison
from precrop.report.frames import ResultFrame, RunGroup, percent
from scripts.verdicts import (
    Ends,
    Sources,
    in_words,
    macs_alone,
    params_alone,
    points,
    repairs,
    report_command,
    rows,
    shown_better,
    streams,
    streams_equal_time,
    table,
)

TEXT = Path("scripts/evidence.md")
FOLDER = Path("results/evidence")
PICTURES = ("order.png", "gains.png")
FEW = 5
"""Runs that a variant has at least whose own scatter is told."""


def objectives_table(found: Mapping[str, Any]) -> str:
    """Return the search's candidates, each judged on the data set that it was not chosen on."""
    lines = [
        "| held out | candidate | budgets | SynExp | candidate | difference |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, split in found["splits"].items():
        numbers = ", ".join(f"{key} {value:.2g}" for key, value in split["candidate"].items())
        head = f"{NAMES[name]} | {numbers}"
        for kind, row in split.items():
            if not isinstance(row, dict) or "difference" not in row:
                continue
            low, high = row["difference low"], row["difference high"]
            difference = f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
            cells = f"{kind} | {row['synexp']:.2f} | {row['candidate']:.2f} | {difference}"
            lines.append(f"| {head} | {cells} |")
            head = " | "
    return "\n".join(lines)


def ceiling(known: Sources, kind: str, budgets: str) -> str:
    """Return the plan's and the best network's gain over uniform width on every data set."""
    gain, best = (known.gains(kind, budgets, column) for column in ("gain", "possible"))
    return ", ".join(f"{gain[name][0]:+.2f} of {best[name][0]:+.2f}" for name in NAMES)


def invariance_table(known: Sources) -> str:
    """Return the table of the enumerations of masks and weights."""
    rows = [
        (row["what"], f"{row['networks']:,}", f"{row['over synexp']:.9f}")
        for row in known.invariance
    ]
    return page_table(["weights, and what is removed", "networks", "mean over SynExp"], rows)


def scatter_table(known: Sources) -> str:
    """Return the scatter of trained runs, by setting and budget."""
    lines = [
        "| network, data, recipe | budget | pooled standard deviation | degrees of freedom "
        "| of single variants |",
        "|---|---|---:|---:|---:|",
    ]
    pools: dict[Any, list[RunGroup]] = defaultdict(list)
    for group in known.frame.groups:
        pools[group.setting, group.budget].append(group)
    for (setting, budget), groups in pools.items():
        scatter = groups[0].scatter
        if scatter.deviation is not None:
            many = (group.accuracy.deviation for group in groups if len(group.rows) >= FEW)
            alone = [deviation for deviation in many if deviation]
            ends = f"{min(alone):.2f} to {max(alone):.2f}" if alone else ""
            cells = f"{scatter.deviation:.2f} | {scatter.freedom} | {ends}"
            lines.append(f"| {setting} | {budget} | {cells} |")
    return "\n".join(lines)


def seed_correlation(frame: ResultFrame) -> float:
    """Return how runs of one seed correlate, over all pairs of variants of a setting and budget."""
    products, squares = 0.0, 0.0
    for one, other in combinations(frame.groups, 2):
        alike = one.setting == other.setting and one.budget == other.budget
        compared = Comparison(one, other)
        if not alike or one.runs == other.runs or len(compared.seeds) < 3:
            continue
        a, b = (
            np.array([percent(row) for row in group.rows if row.seed in compared.seeds])
            for group in (one, other)
        )
        a, b = a - a.mean(), b - b.mean()
        products += float(a @ b)
        squares += float(a @ a + b @ b) / 2
    return products / squares


def reach(known: Sources, seeds: int = 3) -> str:
    """Return median half-widths of the intervals from few seeds, pooled and of seed pairs alone."""
    judged = [j for verdict in known.reported.values() for j in verdict.judged]
    few = [j.comparison for j in judged if len(j.comparison.seeds) == seeds]
    pooled, paired = (
        [(high - low) / 2 for low, high in filter(None, ends)]
        for ends in zip(*((c.pooled.interval(), c.paired.interval()) for c in few), strict=True)
    )
    return (
        f"{median(pooled):.2f} points with the pooled standard deviation and {median(paired):.2f} "
        f"from the seed pairs alone ({len(few)} comparisons of {seeds} seeds)"
    )


def summary(known: Sources, page: str) -> str:
    """Return the verdict in a few lines, for the page's head and the README.

    Args:
        known: all measured results.
        page: the path of the page with all verdicts.
    """
    rho = known.correlations("synexp", "raw")
    beats = known.found.regret[known.found.regret["strategy"] == "synexp"]
    shares = beats.groupby("data set")["beats"].mean()
    sensible, shaped = (known.gains(kind, "both") for kind in ("sensible", "ill-shaped"))
    best = known.gains("sensible", "both", "possible")
    alone = known.gains("sensible", "MACs alone")
    repaired = known.gains("ill-shaped", "PreConfig, both whole")
    fewer = known.gains("sensible", "PreConfig, 80% of the parameters")
    trained, narrow = repairs(), macs_alone()
    measured = ", ".join(f"{one.one.setting.network} {points(one)}" for one in narrow)
    answers = Counter(row.verdict for row in rows(known))
    counted = ", ".join(f"{answers[name]} {text}" for name, text in ANSWERS.items())
    lines = [
        "**Good widths can be told from bad ones before training**: among networks of one size the "
        f"objective's rank correlation with accuracy is {_means(rho, '.2f')} (CIFAR-10 / CIFAR-100 "
        f"/ ImageNet16-120), and plans beat {_shares(shares)} of them.",
        "**Where it pays**, in points of accuracy over uniform width (one factor for all layers): "
        f"with a budget of MACs alone {_means(alone)} (shown on {macs_shown(known, 'sensible')}), "
        f"on an ill-shaped network {_means(shaped)}. "
        f"PreConfig improves ill-shaped networks by {_means(repaired)} at equal size; of "
        f"{in_words(len(trained))} ill-shaped networks that we trained, it improved "
        f"{in_words(shown_better(trained))}.",
        "**Where it does not**: with both budgets at the same share of a sensible network "
        f"PreCrop gains {_means(sensible)}, and the best network within the same budgets "
        f"{_means(best)}; PreConfig with 80% of the parameters {_means(fewer)}, against the "
        "paper's claim; in our own training with a tenth of the MACs and no other budget: "
        f"{measured}.",
        f"Of {sum(answers.values())} claims and defaults in the [table of "
        f"verdicts]({page}#verdicts) {counted}.",
    ]
    return "\n".join(
        textwrap.fill(line, 100, initial_indent="- ", subsequent_indent="  ", **UNBROKEN)
        for line in lines
    )


UNBROKEN: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
ANSWERS = {
    "holds": "hold",
    "holds partly": "hold partly",
    "does not hold": "do not hold",
    "undecided": "are undecided",
    "not measured": "are not measured",
}


def _means(measured: Mapping[str, Ends], form: str = "+.2f") -> str:
    return " / ".join(f"{measured[name][0]:{form}}" for name in NAMES)


def _shares(found: pd.Series) -> str:
    return " / ".join(f"{found[name]:.0%}" for name in NAMES)


def published_means(known: Sources) -> str:
    """Return how close SynExp's and uniform widths come to published ones, over all networks."""
    frame = known.found.published
    means = frame.groupby("chosen by")[["rho", "distance"]].mean()
    nearer = frame.pivot_table(
        index=["family", "configuration"], columns="chosen by", values="distance"
    )
    count = int((nearer["synexp"] < nearer[UNIFORM]).sum())
    return (
        f"SynExp's widths are at a distance of {means.loc['synexp', 'distance']:.2f}, uniform ones "
        f"of {means.loc[UNIFORM, 'distance']:.2f} (SynExp's are nearer for {count} of "
        f"{len(nearer)} networks), and SynExp's mean rank correlation with them is "
        f"{means.loc['synexp', 'rho']:+.2f}"
    )


def macs_share(known: Sources) -> str:
    """Return the share of the best network's gain that plans reach with a budget of MACs alone."""
    gain, best = (known.gains("sensible", "MACs alone", name) for name in ("gain", "possible"))
    return f"{np.mean([gain[name][0] / best[name][0] for name in NAMES]):.0%}"


def macs_shown(known: Sources, kind: str) -> str:
    """Name the data sets on which networks of a kind are shown to gain by MACs alone."""
    shown = known.better(known.gains(kind, "MACs alone"))
    return ", ".join(NAMES[name] for name in shown) or "none"


def places(known: Sources) -> dict[str, Callable[[], str]]:
    """Return the content of every placeholder in the text."""
    found = known.found
    both = {"gain": "both", "macs": "MACs alone", "params": "parameters alone"}
    both |= {"whole": "PreConfig, both whole", "fewer": "PreConfig, 80% of the parameters"}
    ceilings = {
        f"{name}_{kind.partition('-')[0]}": partial(ceiling, known, kind, budgets)
        for name, budgets in both.items()
        for kind in ("sensible", "ill-shaped")
    }
    return {
        **ceilings,
        "macs_share": lambda: macs_share(known),
        "macs_shown_sensible": lambda: macs_shown(known, "sensible"),
        "macs_shown_ill": lambda: macs_shown(known, "ill-shaped"),
        "params_alone": lambda: ", ".join(
            f"{points(one)} with {one.macs:.2f} times its MACs" for one in params_alone()
        ),
        "summary": lambda: summary(known, ""),
        "report": lambda: _in_lines(report_command()),
        "verdicts": lambda: table(rows(known)),
        "order": lambda: order_table(found),
        "regret": lambda: regret_table(found),
        "gains": lambda: gains_table(found),
        "shares": lambda: shares_table(found),
        "published": lambda: published_table(found),
        "published_means": lambda: published_means(known),
        "experts": lambda: experts_table(found),
        "objectives": lambda: objectives_table(known.objectives),
        "won": lambda: str(sum(s["better"] for s in known.objectives["splits"].values())),
        "invariance": lambda: invariance_table(known),
        "scatter": lambda: scatter_table(known),
        "correlation": lambda: f"{seed_correlation(known.frame):.2f}",
        "reach": lambda: reach(known),
        "streams": lambda: streams().figure,
        "streams_equal_time": lambda: streams_equal_time().figure,
        "noise": lambda: ", ".join(f"{found.noise[n]:.2f} ({NAMES[n]})" for n in found.noise),
    }


def _in_lines(command: str) -> str:
    """Return a long command as a code block."""
    lines = textwrap.wrap(command, 90, **UNBROKEN)
    return "    " + " \\\n        ".join(lines)


def page(text: str, known: Sources) -> str:
    """Return the text with every placeholder replaced.

    Raises:
        KeyError: a placeholder has no content.
    """
    filled = places(known)
    content = re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]](), text)
    return "\n\n".join(map(_wrapped, content.split("\n\n")))


def _wrapped(part: str) -> str:
    """Wrap a paragraph's lines again; lists, tables and the like stay as they are."""
    is_prose = part[:1].isalnum() or part[:1] in "`*(["
    return textwrap.fill(part, 100, **UNBROKEN) if is_prose else part


def main() -> None:
    """Write the page and the lines in the README; copy the pictures beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, default=Path("docs/evidence.md"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    known = Sources.load()
    write_text(options.markdown, page(TEXT.read_text(), known))
    lines = summary(known, "docs/evidence.md")
    marked = re.sub(
        r"(?s)(<!-- evidence -->\n).*?(<!-- /evidence -->)",
        lambda match: f"{match[1]}{lines}\n{match[2]}",
        options.readme.read_text(),
    )
    write_text(options.readme, marked)
    images = options.markdown.parent / "images"
    images.mkdir(exist_ok=True)
    for picture in PICTURES:
        shutil.copyfile(FOLDER / picture, images / f"evidence_{picture}")


if __name__ == "__main__":
    main()
