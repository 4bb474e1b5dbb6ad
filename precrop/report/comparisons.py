"""Comparisons of two variants, seed by seed, with statistics for few runs."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal

from scipy.stats import t

from precrop.report.frames import NO_SPREAD, RunGroup, Scatter, percent, run_id

LEVEL = 0.05
"""The significance level: how often a test may find a difference where there is none."""
LARGER = 1.05
"""Networks whose parameters or MACs differ by more than this factor are not of one size."""

Outcome = Literal["better", "worse", "equal", "larger", "smaller", "unclear"]


@dataclass(frozen=True)
class Estimate:
    """A mean difference in percentage points, with its uncertainty."""

    difference: float  # the mean
    error: float | None  # its standard error; None if unknown
    freedom: int  # degrees of freedom of its t-distribution

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Return the confidence interval by Student's t; None if the error is unknown."""
        if self.error is None:
            return None
        reach = float(t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.difference - reach, self.difference + reach

    def p(self, bound: float = 0.0) -> float | None:
        """Return the p-value of a two-sided t-test that the difference is ``bound``."""
        if self.error is None:
            return None
        return 2 * float(t.sf(abs(self.difference - bound) / self.error, self.freedom))

    def p_equal(self, margin: float) -> float | None:
        """Return the p-value of two one-sided tests that it is ``margin`` or more either way."""
        if self.error is None:
            return None
        return float(t.sf((margin - abs(self.difference)) / self.error, self.freedom))


@dataclass(frozen=True)
class Comparison:
    """One variant's accuracy compared with another's, paired by seed, in percentage points.

    With the same seed, both train on the images in the same order with the same augmentation.
    """

    one: RunGroup
    other: RunGroup

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both variants have."""
        others = {row.seed for row in self.other.rows}
        return tuple(row.seed for row in self.one.rows if row.seed in others)

    @cached_property
    def differences(self) -> tuple[float, ...]:
        """The first variant's accuracy minus the other's, by seed."""
        one, other = ({r.seed: percent(r) for r in g.rows} for g in (self.one, self.other))
        return tuple(one[seed] - other[seed] for seed in self.seeds)

    @property
    def difference(self) -> float:
        """The mean of the differences."""
        return fmean(self.differences)

    @cached_property
    def pooled(self) -> Estimate:
        """The difference, with a standard error from all variants of its setting and budget.

        Runs with one seed see the same images in the same order, but turn out no more alike than
        others, so the two variants' runs count as independent. Two runs of each say little about
        how much runs scatter; those of all variants together say more.
        """
        # A group with another budget (a dense network, a looser budget) has its own pool.
        scatter = self.one.scatter
        if self.other.budget != self.one.budget:
            scatter += self.other.scatter
        deviation = scatter.deviation
        error = None if deviation is None else deviation * math.sqrt(2 / len(self.seeds))
        return Estimate(self.difference, error, scatter.freedom)

    @cached_property
    def paired(self) -> Estimate:
        """The difference, with a standard error from its own pairs alone."""
        scatter = Scatter.of([self.differences])
        deviation, count = scatter.deviation, len(self.seeds)
        error = None if deviation is None else deviation / math.sqrt(count)
        return Estimate(self.difference, error, count - 1)

    @property
    def same(self) -> bool:
        """Whether both variants led to the same runs, so that there is nothing to compare."""
        return self._paired(self.one) == self._paired(self.other)

    @property
    def params(self) -> float:
        """The first network's parameters divided by the other's."""
        return self.one.params / self.other.params

    @property
    def macs(self) -> float:
        """The first network's multiply-accumulates divided by the other's."""
        return self.one.macs / self.other.macs

    @property
    def of_one_size(self) -> bool:
        """Whether neither network is larger by more than `LARGER`, in parameters or MACs."""
        return all(1 / LARGER <= share <= LARGER for share in (self.params, self.macs))

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of all runs that are compared."""
        return tuple(dict.fromkeys((*self._paired(self.one), *self._paired(self.other))))

    def _paired(self, group: RunGroup) -> list[str]:
        return [run_id(row) for row in group.rows if row.seed in self.seeds]


@dataclass(frozen=True)
class Judged:
    """A comparison and its outcome."""

    comparison: Comparison
    p: float | None  # p-value, corrected for the number of the claim's comparisons
    margin: float  # percentage points that count as no difference
    bound: float  # lead in percentage points that the claim needs; negative if it allows a loss
    rule: "Rule"  # decides the outcome

    @cached_property
    def outcome(self) -> Outcome:
        """``better`` or ``worse`` than ``bound``, or ``equal`` within the margin.

        ``unclear``: too few runs to tell; ``larger``: not worse, but a larger network; ``smaller``:
        not better, but a smaller network. The last two show nothing.
        """
        return self.rule(self)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON types."""
        compared = self.comparison
        pooled, paired = compared.pooled, compared.paired
        return {
            "network": compared.one.setting.network,
            "data": compared.one.setting.data,
            "recipe": compared.one.setting.recipe,
            "budget": str(compared.one.budget),
            "one": compared.one.variant,
            "other": compared.other.variant,
            "n": len(compared.seeds),
            "difference": round(compared.difference, 4),
            "interval": _rounded(pooled.interval()),
            "freedom": pooled.freedom,
            "p": self.p,
            "p_equal": pooled.p_equal(self.margin),
            "paired_interval": _rounded(paired.interval()),
            "paired_p": paired.p(self.bound),
            "params": round(compared.params, 4),
            "macs": round(compared.macs, 4),
            "outcome": self.outcome,
            "runs": list(compared.runs),
        }


Rule = Callable[[Judged], Outcome]
"""Decides the outcome of a comparison."""


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, 4) for end in interval]


def paired(pairs: Iterable[tuple[RunGroup, RunGroup]]) -> list[Comparison]:
    """Return comparisons of those pairs that have one setting, and a seed in common."""
    found = (Comparison(one, other) for one, other in pairs if one.setting == other.setting)
    return [comparison for comparison in found if comparison.seeds]


def compare(ones: Sequence[RunGroup], others: Sequence[RunGroup]) -> list[Comparison]:
    """Compare every two groups of one setting and one budget that have a seed in common."""
    return paired((one, o) for one in ones for o in others if one.budget == o.budget)


def compare_looser(ones: Sequence[RunGroup], others: Sequence[RunGroup]) -> list[Comparison]:
    """Compare as `compare` does, and also with groups that had only one part of the budget.

    Methods that rank weights seldom use up two budgets: SynFlow keeps so much of the early layers
    that MACs bind long before parameters do. With a budget of parameters alone, it is larger.
    """
    found = compare(ones, others)
    for one in ones:
        if one.budget.params is not None and one.budget.macs is not None:
            parts = (replace(one.budget, params=None), replace(one.budget, macs=None))
            found += paired((one, other) for other in others if other.budget in parts)
    return found


def judge(
    comparisons: Sequence[Comparison], margin: float, rule: Rule, *, bound: float = 0.0
) -> list[Judged]:
    """Judge each of a claim's comparisons, with p-values corrected for their number.

    ``rule`` is `at_any_size`, `at_one_size` or `as_equal`.
    """
    ps = holm([comparison.pooled.p(bound) for comparison in comparisons])
    return [Judged(c, p, margin, bound, rule) for c, p in zip(comparisons, ps, strict=True)]


def at_any_size(judged: Judged) -> Outcome:
    """Decide the outcome without regard to the networks' sizes."""
    sure = judged.p is not None and judged.p < LEVEL
    difference, bound = judged.comparison.difference, judged.bound
    if sure and not judged.comparison.same and difference > bound:
        return "better"
    if sure and difference < bound < 0:
        return "worse"  # than the claim allows, even if by less than the margin
    if _is_equal(judged):
        return "equal"
    return "worse" if sure else "unclear"


def at_one_size(judged: Judged) -> Outcome:
    """Decide the outcome between networks that ought to be of one size.

    That a larger network is ahead, or a smaller one behind, says nothing about how either was
    pruned.
    """
    outcome, sizes = at_any_size(judged), (judged.comparison.params, judged.comparison.macs)
    if outcome != "worse" and max(sizes) > LARGER:
        return "larger"
    if outcome != "better" and min(sizes) < 1 / LARGER:
        return "smaller"
    return outcome


def as_equal(judged: Judged) -> Outcome:
    """Decide the outcome for a claim of equality: a significant difference may still be small."""
    return "equal" if _is_equal(judged) else at_any_size(judged)


def _is_equal(judged: Judged) -> bool:
    p = judged.comparison.pooled.p_equal(judged.margin)
    return judged.comparison.same or (p is not None and p < LEVEL)


def together(comparisons: Sequence[Comparison]) -> Estimate | None:
    """Estimate the mean over networks, after averaging each network's settings and budgets.

    What suits a network suits it at several budgets, so these are not independent observations.
    None if there are fewer than two networks, or no spread between them.
    """
    apart: dict[str, list[float]] = defaultdict(list)
    for comparison in comparisons:
        apart[comparison.one.setting.network].append(comparison.difference)
    means = [fmean(found) for found in apart.values()]
    if len(means) < 2 or (deviation := stdev(means)) < NO_SPREAD:
        return None
    return Estimate(fmean(means), deviation / math.sqrt(len(means)), len(means) - 1)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number (Holm 1979); unknown ones stay None."""
    corrected, highest = list(ps), 0.0
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    for rank, (p, index) in enumerate(known):
        corrected[index] = highest = max(highest, min(1.0, p * (len(known) - rank)))
    return corrected
