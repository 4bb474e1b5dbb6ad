"""One row for every claim of the paper and every default of precrop: what the evidence says.

Two rules turn figures into a verdict. Figures of the size search space: a difference counts on a
data set if its 95% interval lies on one side of zero and its mean is larger than a tenth of the
table's noise (the rule of the search for an objective, set before that ran). A claim holds if it
does on all three data sets, partly if on some. If on none, it does not hold where such a difference
is excluded on a data set; else too little was measured to tell. Trained runs: the rules of
`precrop report`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from precrop.cli.report import STUDIES as FILES
from precrop.cli.report import stored_rows
from precrop.evidence.candidates import UNIFORM
from precrop.evidence.intervals import interval
from precrop.evidence.page import NAMES
from precrop.evidence.verdict import Evidence
from precrop.files import read_json
from precrop.report.claims import Claims, read_claims
from precrop.report.comparisons import Comparison, Estimate, at_any_size, judge, paired
from precrop.report.frames import ResultFrame, RunGroup
from precrop.report.grouping import frame_of
from precrop.report.verdicts import MARGIN, Verdict, verdicts
from precrop.study.spec import read_study

RESULTS = Path("results")
STREAMS = Path("studies/streams.yaml")
REPAIR = Path("studies/repair.yaml")
MACS_ALONE = Path("studies/macs-alone.yaml")
MANY_CLASSES = Path("studies/many-classes.yaml")
WHOLE = 0.95
"""Of the original's parameters: a network of more has its budget whole."""
STREAMS_EQUAL_TIME = Path("studies/streams-equal-time.yaml")
STORES = (
    "methods-pilot", "proxy-pilot", "proxy-seeds", "repair",
    "granularity-small", "masks-small", "torch-pruning-small", "preconfig-small", "macs-alone",
    "many-classes",
)  # fmt: skip
"""That the report's claims are judged by; those of streams have rules of their own."""
SLACK = 0.1
"""Of the noise of single runs: smaller differences of accuracy are none."""
SAME = 1e-9
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PAPER, OURS, ASKED = "the paper", "our default", "our question"
JUDGE = "`make proxy DATA=DIR`"
BUDGETS = {
    "both": "with budgets of parameters and MACs",
    "MACs alone": "with a budget of MACs alone",
    "parameters alone": "with a budget of parameters alone",
}
"""Those of the cases that are measured, in words."""
Ends = tuple[float, float, float]
"""A mean, and both ends of its 95% interval."""
Interval = Callable[[Any], Ends]


def ends(values: Any) -> Ends:
    """Return the mean and its 95% interval."""
    return _three(interval("x", np.asarray(values, float)).values())


def resampled(values: Any) -> Ends:
    """Return the mean and percentiles of resampled means: the rule until 2026-11-29.

    With few values such an interval is too narrow: with six it has the true mean in 85% of cases.
    """
    found = np.asarray(values, float)
    chosen = np.random.default_rng(0).integers(len(found), size=(1000, len(found)))
    return _three((found.mean(), *np.percentile(found[chosen].mean(1), [2.5, 97.5])))


def _three(values: Any) -> Ends:
    mean, low, high = map(float, values)
    return mean, low, high


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    claim: str
    whose: str
    verdict: str
    figure: str
    command: str


@dataclass(frozen=True)
class Sources:
    """All measured results that are committed."""

    found: Evidence
    objectives: Mapping[str, Any]
    invariance: Sequence[Mapping[str, Any]]
    preconfig: Sequence[Mapping[str, Any]]
    sparse: Sequence[Mapping[str, Any]]
    frame: ResultFrame
    claims: Claims

    @classmethod
    def load(cls) -> "Sources":
        """Read them from the results folder."""
        evidence, speed = RESULTS / "evidence", RESULTS / "speed"
        runs = stored_rows(stores())
        claims = read_claims([FILES], {run.study for run in runs})
        return cls(
            Evidence.load(evidence / "evidence.json"),
            read_json(evidence / "objectives.json"),
            read_json(evidence / "invariance.json"),
            read_json(speed / "preconfig.json")["rows"],
            read_json(speed / "sparse.json")["rows"],
            frame_of(runs, claims.parts),
            claims,
        )

    @cached_property
    def reported(self) -> dict[str, Verdict]:
        """The report's verdicts on all stores."""
        return verdicts(self.frame, self.claims)

    def ahead(
        self, one: str, other: str, column: str = "regret", interval: Interval = ends
    ) -> dict[str, Ends]:
        """Return by how many points one strategy chooses better than another, paired by budgets."""
        frame = self.found.regret
        rows = {
            name: frame[frame["strategy"] == name].set_index(["data set", "budget"])[column]
            for name in (one, other)
        }
        differences = (rows[other] - rows[one]).dropna()
        return {
            name: interval(differences.loc[name].to_numpy())
            for name in NAMES
            if name in differences.index.get_level_values(0)
        }

    def gains(
        self, kind: str, budgets: str, column: str = "gain", interval: Interval = ends
    ) -> dict[str, Ends]:
        """Return SynExp's gains over uniform width in points: a mean of shares per base network."""
        frame = self.found.gains
        chosen = (frame["kind"] == kind) & (frame["budgets"] == budgets)
        part = frame[chosen & (frame["strategy"] == "synexp")]
        shapes = part.groupby(["data set", "shape"])[column].mean()
        return {name: interval(shapes.loc[name].to_numpy()) for name in NAMES}

    def correlations(self, objective: str, kind: str) -> dict[str, Ends]:
        """Return Spearman's rho within bands."""
        frame = self.found.order.set_index(["data set", "objective"])
        columns = [f"rho {kind}", f"rho {kind} low", f"rho {kind} high"]
        rows = {name: frame.loc[(name, objective)] for name in NAMES}
        return {name: _three(row[column] for column in columns) for name, row in rows.items()}

    def judged(self, measured: Mapping[str, Ends]) -> str:
        """Judge whether a difference is above zero, by the number of data sets that show it."""
        better, excluded = self.better(measured), self.excluded(measured)
        return answer(len(better), len(measured)) if better or excluded else "undecided"

    def judged_twice(self, measure: Callable[..., Mapping[str, Ends]]) -> tuple[str, str]:
        """Judge by Student's intervals; also say it where the earlier ones judge otherwise."""
        now, before = (self.judged(measure(interval=kind)) for kind in (ends, resampled))
        return now, "" if now == before else f"; with the earlier intervals: {before}"

    def excluded(self, measured: Mapping[str, Ends]) -> list[str]:
        """List the data sets on which a difference that counts is excluded."""
        return [n for n, (_, _, high) in measured.items() if high < SLACK * self.found.noise[n]]

    def better(self, measured: Mapping[str, Ends]) -> list[str]:
        """List the data sets on which a difference is above zero by more than chance and noise."""
        noise = self.found.noise
        return [n for n, (mean, low, _) in measured.items() if low > 0 and mean > SLACK * noise[n]]


def stores() -> list[Path]:
    """List the stores that are there."""
    return [RESULTS / name for name in STORES if (RESULTS / name).is_dir()]


def said(measured: Mapping[str, Ends], form: str = "+.2f") -> str:
    """Return the figures of all data sets in a row."""
    return ", ".join(
        f"{NAMES[name]} {mean:{form}} ({low:{form}} to {high:{form}})"
        for name, (mean, low, high) in measured.items()
    )


def in_words(count: int) -> str:
    """Return a small number as a word."""
    return WORDS[count] if count < len(WORDS) else str(count)


def answer(for_it: int, of: int) -> str:
    """Return the verdict in the report's words."""
    return "does not hold" if not for_it else "holds" if for_it == of else "holds partly"


def rows(known: Sources) -> list[Row]:
    """Return all rows of the table."""
    return [row for part in PARTS for row in part(known)]


def theory(known: Sources) -> Iterator[Row]:
    """Yield what enumeration proves."""
    *same, cropped = known.invariance
    exact = [row for row in same if abs(row["over synexp"] - 1) < SAME]
    count = sum(row["networks"] for row in same)
    command = "`python -m scripts.invariance`"
    yield Row(
        "SynExp is the same however weights are shuffled or drawn anew, and for masks of weights, "
        "kernels, filters and channels.",
        PAPER,
        answer(len(exact), len(same)),
        f"{len(same)} enumerations, {count:,} masked networks in all: the mean score is SynExp to "
        "nine digits in " + ("each" if len(exact) == len(same) else f"{len(exact)}"),
        command,
    )
    equal = abs(cropped["over synexp"] - 1) < SAME
    yield Row(
        "SynExp is the same, too, where hidden channels are removed from both layers that have "
        "them, as in a cropped network.",
        ASKED,
        answer(int(equal), 1),
        f"{cropped['networks']:,} networks: {cropped['over synexp']:.2f} times SynExp at the same "
        "layer densities, since a path pays for a hidden width once, not twice",
        command,
    )


def objective(known: Sources) -> Iterator[Row]:
    """Yield whether SynExp tells good networks from bad ones."""
    raw = known.correlations("synexp", "raw")
    above = [name for name, (_, low, _) in raw.items() if low > 0]
    yield Row(
        "At equal parameters and MACs a larger SynExp means a higher accuracy.",
        PAPER,
        answer(len(above), len(raw)),
        f"rank correlation within bands, raw accuracies: {said(raw, '.2f')}",
        JUDGE,
    )
    for other, words in (
        ("any network of the size", "the mean network of its size"),
        (UNIFORM, "uniform width at the same two budgets, from the widest network"),
        ("densities of erk", "channels of ERK's densities"),
        ("densities of synflow", "channels of SynFlow's densities"),
    ):
        yield _ahead(known, other, f"PreCrop's choice is more accurate than {words}.")


def _ahead(known: Sources, other: str, claim: str) -> Row:
    smooth, raw = known.ahead("synexp", other), known.ahead("synexp", other, "raw regret")
    verdict, note = known.judged_twice(partial(known.ahead, "synexp", other))
    figure = f"points, smooth: {said(smooth)}; raw: {said(raw)}{note}"
    return Row(claim, ASKED, verdict, figure, JUDGE)


def shapes(known: Sources) -> Iterator[Row]:
    """Yield how PreCrop and PreConfig compare with uniform width, by shape."""
    for kind in ("sensible", "ill-shaped"):
        for budgets in BUDGETS:
            gain, most = (known.gains(kind, budgets, name) for name in ("gain", "possible"))
            reached = ", ".join(f"{most[name][0]:+.2f}" for name in NAMES)
            verdict, note = known.judged_twice(partial(known.gains, kind, budgets))
            yield Row(
                f"PreCrop is more accurate than uniform width on {kind} networks, "
                f"{BUDGETS[budgets]}.",
                ASKED,
                verdict,
                f"points: {said(gain)}; the best network {reached}{note}",
                JUDGE,
            )
    for kind, words in (("sensible", "a sensible"), ("ill-shaped", "an ill-shaped")):
        label = "PreConfig, 80% of the parameters"
        gain, best = known.gains(kind, label), known.gains(kind, label, "possible")
        verdict, note = known.judged_twice(partial(known.gains, kind, label))
        yield Row(
            f"PreConfig is more accurate than {words} network with 80% of its parameters and "
            "equal MACs.",
            f"{PAPER} (+0.3)" if kind == "sensible" else ASKED,
            verdict,
            f"points: {said(gain)}; the best network {said(best)}{note}",
            JUDGE,
        )
    repaired = "ill-shaped", "PreConfig, both whole"
    verdict, note = known.judged_twice(partial(known.gains, *repaired))
    yield Row(
        "PreConfig repairs an ill-shaped network at equal parameters and MACs.",
        ASKED,
        verdict,
        f"points: {said(known.gains(*repaired))}{note}",
        JUDGE,
    )


def defaults(known: Sources) -> Iterator[Row]:
    """Yield whether other settings choose better, and on how many data sets."""
    for other, claim in (
        ("inner-layers", "`objective`: `inner-layers` chooses no better."),
        ("exact", "`objective`: `exact` chooses no better."),
        ("root-macs", "`objective`: `root-macs` (since removed) chooses no better."),
        ("synexp, balance 0.1", "`balance`: 0.1 chooses no better than 1."),
        ("synexp, balance 10", "`balance`: 10 chooses no better than 1."),
        ("rule sqrt-min", "`rule`: `sqrt-min` chooses no better."),
        ("rule geometric-mean", "`rule`: `geometric-mean` chooses no better."),
    ):
        rival, raw = known.ahead(other, "synexp"), known.ahead(other, "synexp", "raw regret")
        better, excluded = known.better(rival), known.excluded(rival)
        verdict = answer(len(excluded), len(rival)) if better or excluded else "undecided"
        shown = known.better(known.ahead(other, "synexp", interval=resampled))
        before = answer(len(rival) - len(shown), len(rival))
        note = "" if verdict == before else f"; by the earlier rule: {before}"
        figure = f"points by which it is ahead, smooth: {said(rival)}; raw: {said(raw)}{note}"
        yield Row(claim, OURS, verdict, figure, JUDGE)
    splits = known.objectives["splits"]
    won = [name for name, split in splits.items() if split["better"] and not split["worse on"]]
    differences = {
        name: _three(
            -split["params and macs"][key]
            for key in ("difference", "difference high", "difference low")
        )
        for name, split in splits.items()
    }
    yield Row(
        "`objective`: no weights of a family with five numbers, chosen on two data sets, choose "
        "better on the third in all three splits.",
        OURS,
        "holds" if len(won) < len(NAMES) else "does not hold",
        f"the candidate is better on {len(won)} of {len(splits)} (all are required); points by "
        f"which it is ahead: {said(differences)}",
        "`python -m scripts.objective_search --data DIR`",
    )
    yield streams()
    yield streams_equal_time()


def streams_compared(study: Path) -> list[Comparison]:
    """Compare cropped streams, smallest first, with tied ones, on the seeds of one study alone."""
    store = RESULTS / study.stem
    groups = _groups(study) if store.is_dir() else ()
    tied = [group for group in groups if group.variant == "PreCrop"]
    cropped = sorted((g for g in groups if g not in tied), key=lambda group: group.macs)
    return paired(product(cropped, tied))


def _groups(study: Path) -> Sequence[RunGroup]:
    """Return the groups of runs in a study's store."""
    return frame_of(stored_rows([RESULTS / study.stem])).groups


def streams() -> Row:
    """Apply the study's rule: the default changes if the interval lies above zero."""
    claim = "`residual`: streams with widths of their own train no better than tied ones."
    return _streams_row(claim, STREAMS, "points by which they are ahead")


def streams_equal_time() -> Row:
    """Judge the smaller network likewise, which takes as long or longer but for large batches."""
    claim = "`residual`: the same at equal measured time."
    ahead = "points by which they are ahead with 5% of the MACs against 10%"
    row = _streams_row(claim, STREAMS_EQUAL_TIME, ahead)
    others = streams_compared(STREAMS_EQUAL_TIME)[1:]
    further = "".join(f"; with 8% {points(comparison)}" for comparison in others)
    return replace(row, figure=row.figure + further)


def points(found: Comparison) -> str:
    """Return a difference in points, with its interval and the one from its seed pairs alone."""
    low, high = _interval(found.pooled)
    paired_low, paired_high = _interval(found.paired)
    return (
        f"{found.difference:+.2f} (95% interval {low:+.2f} to {high:+.2f}; from the "
        f"{in_words(len(found.seeds))} seed pairs alone {paired_low:+.2f} to {paired_high:+.2f})"
    )


def _interval(found: Estimate) -> tuple[float, float]:
    interval = found.interval()
    assert interval is not None, "so many runs scatter"
    return interval


def _streams_row(claim: str, study: Path, ahead: str) -> Row:
    command = f"`precrop study run {study}`"
    found, asked = streams_compared(study)[:1], _seeds(study)
    trained = {seed for comparison in found for seed in comparison.seeds}
    if trained != asked:
        figure = f"{len(trained)} of {len(asked)} seeds are trained; the rule is about all of them"
        return Row(claim, OURS, "not measured", figure, command)
    (smallest,) = found
    figure = f"{ahead}: {points(smallest)}"
    low, high = _interval(smallest.pooled)
    verdict = "does not hold" if low > 0 else "holds" if high < MARGIN else "undecided"
    if verdict == "undecided":
        figure += ": undecided, and by the study's rule the default stays"
    return Row(claim, OURS, verdict, figure, command)


def _seeds(study: Path) -> set[int]:
    """Return all seeds that a study asks for."""
    return {seed for series in read_study(study, trust=True).series for seed in series.seeds}


def speed(known: Sources) -> Iterator[Row]:
    """Yield how long PreConfig takes, and how fast sparse kernels are."""
    slow = [row for row in known.preconfig if row["cpu most"] >= 1]
    yield Row(
        "PreConfig takes less than one second on a CPU.",
        PAPER,
        answer(len(known.preconfig) - len(slow), len(known.preconfig)),
        "CPU seconds on one thread, median (least to most): "
        + ", ".join(
            f"{row['network']} {row['cpu median']:.2f} ({row['cpu least']:.2f} to "
            f"{row['cpu most']:.2f})"
            for row in known.preconfig
        ),
        "`python -m benchmarks.preconfig_speed`",
    )
    frame = pd.DataFrame(known.sparse)
    layouts = [name for name in frame.columns if name not in ("layer", "sparsity")]
    frame["best"] = frame[layouts].max(axis=1)
    below, above = frame[frame["sparsity"] < 0.98], frame[frame["sparsity"] >= 0.98]
    true = int((above["best"] > 1).all()) + int((below["best"] <= 1).all())
    figures = "; ".join(
        f"{layer}: " + ", ".join(f"{r.best:.2f} at {r.sparsity:.1%}" for r in part.itertuples())
        for layer, part in frame.groupby("layer", sort=False)
    )
    yield Row(
        "Sparse kernels are faster than dense ones above 98% sparsity, and only there.",
        f"{PAPER} (cuSPARSE)",
        answer(true, 2),
        "on a CPU, the best of three layouts, times as fast as dense (medians of interleaved "
        f"rounds): {figures}. On a GPU: not measured",
        "`python -m benchmarks.sparse_speed`",
    )


def trained(known: Sources) -> Iterator[Row]:
    """Yield what the report says of the stores."""
    command = "`precrop report …`"
    for name, verdict in known.reported.items():
        if name == "sparse-kernels":
            continue
        text, run = verdict.text, command
        if not verdict.judged:
            text, run = "no runs", f"`precrop study run studies/{STUDIES[name]}.yaml`"
        yield Row(f"Trained: {verdict.claim}", verdict.source, verdict.answer, text, run)
    yield repaired()
    yield starved()


def report_command() -> str:
    """Return the command that gives the verdicts on trained networks."""
    return " ".join(["precrop report", *map(str, stores())])


def repairs() -> list[Comparison]:
    """Compare PreConfig at the original's costs with it, on each network with all of its seeds."""
    found = compared(REPAIR, "PreConfig", "the original widths")
    return [comparison for comparison in found if comparison.one.params_share > WHOLE]


def macs_alone() -> list[Comparison]:
    """Compare PreCrop with uniform width by a budget of MACs alone, where all seeds are trained."""
    return compared(MACS_ALONE, "PreCrop", "uniform width")


def params_alone() -> list[Comparison]:
    """Compare PreCrop with uniform width on fifty classes, by a budget of parameters alone."""
    found = compared(MANY_CLASSES, "PreCrop", "uniform width")
    return [pair for pair in found if {pair.one.budget.macs, pair.other.budget.macs} == {None}]


def compared(study: Path, one: str, other: str) -> list[Comparison]:
    """Compare two variants on each network that has all of the study's seeds."""
    groups, asked = _groups(study), _seeds(study)
    ones, others = ([g for g in groups if g.variant == name] for name in (one, other))
    return [pair for pair in paired(product(ones, others)) if set(pair.seeds) == asked]


def shown_better(found: Sequence[Comparison]) -> int:
    """Return how many of a claim's comparisons the report's rules call better."""
    return sum(one.outcome == "better" for one in judge(found, MARGIN, at_any_size))


def repaired() -> Row:
    """Judge whether PreConfig repairs the networks that were trained."""
    found = repairs()
    better = shown_better(found)
    excluded = all(_interval(one.pooled)[1] < MARGIN for one in found)
    verdict = answer(better, len(found)) if better or excluded else "undecided"
    figures = ", ".join(
        f"{comparison.one.setting.network.rpartition(':')[2]} {points(comparison)} with "
        f"{comparison.macs:.0%} of its MACs"
        for comparison in found
    )
    return Row(
        "Trained: PreConfig repairs an ill-shaped network at equal parameters and MACs.",
        ASKED,
        verdict if found else "not measured",
        f"points by which it is ahead: {figures}" if found else "no network has all of its seeds",
        f"`precrop study run {REPAIR} --trust`",
    )


def starved() -> Row:
    """Judge whether a budget of parameters alone costs accuracy on many classes, as `plan` warns.

    The tables say so of CIFAR-100. The outcome is the report's.
    """
    found = judge(params_alone(), MARGIN, at_any_size)
    outcomes = {one.outcome for one in found}
    verdict = "undecided" if "unclear" in outcomes else answer(len(outcomes & {"worse"}), 1)
    figures = ", ".join(
        f"{one.comparison.one.setting.network} {points(one.comparison)} with "
        f"{one.comparison.macs:.2f} times its MACs"
        for one in found
    )
    return Row(
        "Trained: with a budget of parameters alone PreCrop is less accurate than uniform width on "
        "fifty classes.",
        ASKED,
        verdict if found else "not measured",
        f"points by which it is ahead: {figures}" if found else "no network has all of its seeds",
        f"`precrop study run {MANY_CLASSES} --data DIR`",
    )


STUDIES = {
    "synflow-weights": "methods",
    "synflow-channels": "methods",
    "other-methods": "methods",
    "uniform-width": "methods",
    "torch-pruning": "methods",
    "granularity": "granularity",
    "defaults": "options",
    "preconfig": "preconfig",
    "preconfig-mobilenet": "preconfig",
    "preconfig-uniform": "preconfig",
    "mobilenet-imagenet": "imagenet",
    "efficientnet-imagenet": "imagenet",
    "resnet50-imagenet": "imagenet",
}
"""The study that would measure a claim of the report."""

PARTS: tuple[Callable[[Sources], Iterator[Row]], ...] = (
    theory,
    objective,
    shapes,
    trained,
    speed,
    defaults,
)


def table(found: Sequence[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| claim | whose | verdict | figure | command |", "|---|---|---|---|---|"]
    for row in found:
        cells = (row.claim, row.whose, f"**{row.verdict}**", row.figure, row.command)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)
