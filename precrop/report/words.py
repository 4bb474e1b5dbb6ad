"""The content of a report, and the sentences that its page and its Markdown share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from precrop.plans.text import short_count
from precrop.report.comparisons import Judged
from precrop.report.figures import Figure
from precrop.report.frames import ResultFrame, RunGroup
from precrop.report.verdicts import Verdict
from precrop.study.rows import Row

PICTURES = "figures"
"""The folder of the pictures within the report's folder."""
TITLE = "Pruning at initialization: what the runs say"
METHOD = (
    "Accuracy is that of the held-out images after the last epoch, not after the best one. ± is "
    "the standard deviation over seeds.",
    "Parameters and MACs are those of the trained network, without masked weights. A mask's budget "
    "counts the weights that it can remove, so biases and norms come on top of it.",
    "Comparisons are of seeds that both variants have: two runs of one seed see the same images in "
    "the same order. A difference comes with Student's 95% interval. Its standard deviation is "
    "pooled: from the runs of all variants of one network, data, recipe and budget, each about its "
    "own variant's mean, as if all scattered alike, with as many degrees of freedom as there are "
    "runs less variants (where two budgets are compared, of both). p is of the two-sided t-test "
    "with this deviation that there is no difference, or none beyond the claim's bound, corrected "
    "after Holm for the number of comparisons that a claim rests on. Beside it stands the "
    "interval of the comparison's own pairs alone, of which few runs know the deviation badly.",
    "A claim that a network is better holds where every comparison shows it, or all "
    "networks together do and no comparison speaks against it; partly, where only some do. It does "
    "not hold where none does and a lead of the margin or more is excluded somewhere. A claim that "
    "no more than a bound is lost does not hold where a larger loss is shown. A claim of "
    "equality holds where two one-sided t-tests at 5% exclude a difference of the margin or more. "
    "Undecided means that there are too few runs to tell, not measured that there are none.",
    "Networks whose parameters or MACs are more than 5% apart are not of one size: that a larger "
    "network is ahead does not count for it, nor that a smaller one is behind against it.",
    "Networks of one method have the same layer densities where these are less than about 10% "
    "apart, larger layers counting more.",
)

REPLACED = "Older runs of variants whose options were changed under the same name: "
Cells = dict[str, str]
"""A row of a table: texts by the headings of their columns."""


class Marked(str):
    """Text that is Markdown or HTML already, and so is not escaped."""


@dataclass(frozen=True)
class Report:
    """Everything that is reported about a store."""

    folder: Path  # the folder that it is written to
    frame: ResultFrame  # the runs
    verdicts: Mapping[str, Verdict]  # on every claim, by name
    figures: tuple[Figure, ...]  # of every setting
    margin: float  # percentage points that count as no difference


def group_cells(group: RunGroup) -> Cells:
    """Return a group's row of the table, except for its runs."""
    return {
        "variant": group.variant,
        "accuracy, %": str(group.accuracy),
        "n": str(group.accuracy.count),
        "budget": str(group.budget),
        "parameters": f"{short_count(group.params)} ({group.params_share:.1%})",
        "MACs": f"{short_count(group.macs)} ({group.macs_share:.1%})",
        "s per epoch": "" if group.epoch_seconds is None else f"{group.epoch_seconds:.1f}",
    }


def compared_cells(judged: Judged) -> Cells:
    """Return what is compared: setting, budget and variants."""
    one, other = judged.comparison.one, judged.comparison.other
    return {
        "network, data, recipe": str(one.setting),
        "budget": str(one.budget),
        "compared": f"{one.variant} against {other.variant}",
    }


def summary(frame: ResultFrame) -> str:
    """Return one sentence that counts runs, failed cells, variants and settings."""
    counts = {
        "finished run": len(frame.rows),
        "failed cell": len(frame.failed),
        "variant": len(frame.variants),
        "combination": len(frame.settings),
    }
    parts = ", ".join(counted(count, noun) for noun, count in counts.items() if count)
    return f"{parts} of network, data and recipe."


def describe(report: Report) -> list[str]:
    """Return sentences on the margin, and on when and with what the runs were trained."""
    rows = report.frame.rows
    versions = (f"{name} {v}" for row in rows for name, v in row.versions.items())
    first, last = min(row.started for row in rows), max(row.ended for row in rows)
    return [
        f"The margin is {report.margin:g} percentage points.",
        f"Trained from {first:%Y-%m-%d} to {last:%Y-%m-%d} on "
        f"{_listed(row.device for row in rows)}, with {_listed(versions)}.",
    ]


def failure_cells(row: Row) -> Cells:
    """Return what a failed cell was and why it failed, without its id."""
    what = f"{row.network}, {row.variant}, seed {row.seed}"
    return {"what": what, "error": row.error or ""}


def untouched(found: Mapping[str, Verdict]) -> str | None:
    """Return one line on claims without comparable runs or on the lack of any claim, else None."""
    if not found:
        return (
            "No claim was judged: the studies' files name none, or were not found; --study FILE "
            "says where one is."
        )
    names = [name for name, verdict in found.items() if not verdict.judged]
    if not names:
        return None
    claims = "claim has" if len(names) == 1 else "claims have"
    return f"{len(names)} {claims} no runs to be judged by here: {', '.join(names)}."


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 variant``, ``2 variants``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words)))
