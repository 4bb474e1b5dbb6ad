"""Two variants against each other, seed by seed, and what so few runs can say of them."""

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
"""How often a test may find a difference where there is none."""
LARGER = 1.05
"""A network with more than this many times the other's parameters or MACs is not of its size."""

Outcome = Literal["better", "worse", "equal", "larger", "smaller", "unclear"]


@dataclass(frozen=True)
class Estimate:
    """A mean difference in percentage points, and how sure it is."""

    difference: float  # its mean
    error: float | None  # its standard error; None where it is unknown
    freedom: int  # degrees of freedom of Student's distribution that it follows

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Student's confidence interval; None where none can be given."""
        if self.error is None:
            return None
        reach = float(t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.difference - reach, self.difference + reach

    def p(self, bound: float = 0.0) -> float | None:
        """Of the two-sided t-test that the difference is ``bound``."""
        if self.error is None:
            return None
        return 2 * float(t.sf(abs(self.difference - bound) / self.error, self.freedom))

    def p_equal(self, margin: float) -> float | None:
        """Of two one-sided tests that the difference is ``margin`` or more either way."""
        if self.error is None:
            return None
        return float(t.sf((margin - abs(self.difference)) / self.error, self.freedom))


@dataclass(frozen=True)
class Comparison:
    """One variant's accuracy against another's, paired by seed, in percentage points.

    A seed gives both the same order of images and the same augmentation.
    """

    one: RunGroup
    other: RunGroup

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those that both have."""
        others = {row.seed for row in self.other.rows}
        return tuple(row.seed for row in self.one.rows if row.seed in others)

    @cached_property
    def differences(self) -> tuple[float, ...]:
        """The first one's accuracy less the other's, by seed."""
        one, other = ({r.seed: percent(r) for r in g.rows} for g in (self.one, self.other))
        return tuple(one[seed] - other[seed] for seed in self.seeds)

    @property
    def difference(self) -> float:
        """Mean of the differences."""
        return fmean(self.differences)

    @cached_property
    def pooled(self) -> Estimate:
        """The difference, with the scatter of all variants of its setting and budget.

        Runs of one seed see the same images in the same order, but are no more alike than others,
        so each variant's runs stand for themselves. Two runs of each tell little of how far runs
        scatter; those of all variants together tell more.
        """
        # Budgets of their own (a dense network, a looser budget) have pools of their own.
        scatter = self.one.scatter
        if self.other.budget != self.one.budget:
            scatter += self.other.scatter
        deviation = scatter.deviation
        error = None if deviation is None else deviation * math.sqrt(2 / len(self.seeds))
        return Estimate(self.difference, error, scatter.freedom)

    @cached_property
    def paired(self) -> Estimate:
        """The difference, with the scatter of the differences of its own pairs alone."""
        scatter = Scatter.of([self.differences])
        deviation, count = scatter.deviation, len(self.seeds)
        error = None if deviation is None else deviation / math.sqrt(count)
        return Estimate(self.difference, error, count - 1)

    @property
    def same(self) -> bool:
        """Both variants came to the same networks: there is nothing to tell apart."""
        return self._paired(self.one) == self._paired(self.other)

    @property
    def params(self) -> float:
        """Parameters of the first over those of the other."""
        return self.one.params / self.other.params

    @property
    def macs(self) -> float:
        """Multiply-accumulates of the first over those of the other."""
        return self.one.macs / self.other.macs

    @property
    def of_one_size(self) -> bool:
        """Neither network is more than a little larger, in parameters or MACs."""
        return all(1 / LARGER <= share <= LARGER for share in (self.params, self.macs))

    @property
    def runs(self) -> tuple[str, ...]:
        """What was trained for it."""
        return tuple(dict.fromkeys((*self._paired(self.one), *self._paired(self.other))))

    def _paired(self, group: RunGroup) -> list[str]:
        return [run_id(row) for row in group.rows if row.seed in self.seeds]


@dataclass(frozen=True)
class Judged:
    """A comparison and what it shows."""

    comparison: Comparison
    p: float | None  # of the difference, corrected for the number of a claim's comparisons
    margin: float  # percentage points that count as no difference
    bound: float  # percentage points that the claim asks the first variant to be better by
    rule: "Rule"  # by which it shows something

    @cached_property
    def outcome(self) -> Outcome:
        """``better`` or ``worse`` than ``bound``; ``equal`` within the margin.

        ``unclear``: too few runs to tell; ``larger`` or ``smaller``: a network of another size, not
        worse than the smaller or not better than the larger one, which shows nothing.
        """
        return self.rule(self)

    def to_json(self) -> dict[str, Any]:
        """All figures, in JSON's types."""
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
"""Says what a comparison shows."""


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, 4) for end in interval]


def paired(pairs: Iterable[tuple[RunGroup, RunGroup]]) -> list[Comparison]:
    """Those of one setting that have a seed in common."""
    found = (Comparison(one, other) for one, other in pairs if one.setting == other.setting)
    return [comparison for comparison in found if comparison.seeds]


def compare(ones: Sequence[RunGroup], others: Sequence[RunGroup]) -> list[Comparison]:
    """Every two groups of one setting and one budget that have a seed in common."""
    return paired((one, o) for one in ones for o in others if one.budget == o.budget)


def compare_looser(ones: Sequence[RunGroup], others: Sequence[RunGroup]) -> list[Comparison]:
    """As `compare`, and with the groups that had to meet a part of the budget only.

    Methods that rank weights seldom use two budgets up: SynFlow keeps so much of the early layers
    that MACs bind long before parameters do. Within parameters alone it is the larger network.
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
    """What each of a claim's comparisons shows, as in `Judged`.

    ``rule`` is `at_any_size`, `at_one_size` or `as_equal`.
    """
    ps = holm([comparison.pooled.p(bound) for comparison in comparisons])
    return [Judged(c, p, margin, bound, rule) for c, p in zip(comparisons, ps, strict=True)]


def at_any_size(judged: Judged) -> Outcome:
    """Between networks of whatever sizes."""
    sure = judged.p is not None and judged.p < LEVEL
    difference, bound = judged.comparison.difference, judged.bound
    if sure and not judged.comparison.same and difference > bound:
        return "better"
    if sure and difference < bound < 0:
        return "worse"  # than a claim allows, however little that is
    if _is_equal(judged):
        return "equal"
    return "worse" if sure else "unclear"


def at_one_size(judged: Judged) -> Outcome:
    """Between networks that ought to be of one size.

    That a larger network is ahead shows nothing of how it was made smaller, nor does it that a
    smaller one is behind.
    """
    outcome, sizes = at_any_size(judged), (judged.comparison.params, judged.comparison.macs)
    if outcome != "worse" and max(sizes) > LARGER:
        return "larger"
    if outcome != "better" and min(sizes) < 1 / LARGER:
        return "smaller"
    return outcome


def as_equal(judged: Judged) -> Outcome:
    """Where equal accuracy is claimed: a small difference may be a sure one."""
    return "equal" if _is_equal(judged) else at_any_size(judged)


def _is_equal(judged: Judged) -> bool:
    p = judged.comparison.pooled.p_equal(judged.margin)
    return judged.comparison.same or (p is not None and p < LEVEL)


def together(comparisons: Sequence[Comparison]) -> Estimate | None:
    """The mean over networks; of one network its settings and budgets are averaged first.

    What suits a network suits it at several budgets, so these are not independent observations.
    None where there are fewer than two networks.
    """
    apart: dict[str, list[float]] = defaultdict(list)
    for comparison in comparisons:
        apart[comparison.one.setting.network].append(comparison.difference)
    means = [fmean(found) for found in apart.values()]
    if len(means) < 2 or (deviation := stdev(means)) < NO_SPREAD:
        return None
    return Estimate(fmean(means), deviation / math.sqrt(len(means)), len(means) - 1)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number (Holm 1979); those that are not known stay so."""
    corrected, highest = list(ps), 0.0
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    for rank, (p, index) in enumerate(known):
        corrected[index] = highest = max(highest, min(1.0, p * (len(known) - rank)))
    return corrected
