"""Runs in groups that may be averaged, within settings that may be compared."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from statistics import fmean, median, stdev
from typing import Any

from precrop.study.rows import Row

_KINDS = ("dense", "cropped", "masked")
_METHODS = ("uniform", "synexp")
"""Come first among the methods, so that pictures and tables read alike whatever else is there."""
NO_SPREAD = 1e-9
"""Percentage points; numbers that are nearer to each other are one number."""


@dataclass(frozen=True, order=True)
class RunSetting:
    """What two runs must share to be compared: all but how the network was made smaller."""

    network: str
    data: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.network} · {self.data} · {self.recipe}"


@dataclass(frozen=True)
class BudgetShares:
    """What was asked for, as shares of the original; both None where the network is dense."""

    params: float | None
    macs: float | None

    def __str__(self) -> str:
        """Like ``params 30%, MACs 30%``."""
        asked = {"params": self.params, "MACs": self.macs}
        parts = (f"{name} {100 * share:.4g}%" for name, share in asked.items() if share is not None)
        return ", ".join(parts) or "no budget"

    @property
    def order(self) -> tuple[float, float]:
        """Sorts dense networks first, then from large to small."""
        params, macs = (-math.inf if s is None else -s for s in (self.params, self.macs))
        return params, macs


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a few numbers; one number has no deviation."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """The sample's own: the deviation divides by one less than there are numbers."""
        return cls(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))

    def __str__(self) -> str:
        """Like ``74.61 ± 0.19``."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Scatter:
    """How much runs that differ in their seed alone scatter, pooled over several variants."""

    squares: float = 0.0  # sum of the squared distances of runs from their variant's mean
    freedom: int = 0  # degrees of freedom: the runs less one for every variant

    @classmethod
    def of(cls, samples: Iterable[Sequence[float]]) -> "Scatter":
        """Of samples with means of their own and one variance.

        Those without any scatter are left out: theirs is unknown, not zero.
        """
        spreads = map(Spread.of, samples)
        known = [(s.deviation, s.count - 1) for s in spreads if (s.deviation or 0) > NO_SPREAD]
        return cls(sum(d**2 * free for d, free in known if d), sum(free for _, free in known))

    def __add__(self, other: "Scatter") -> "Scatter":
        return Scatter(self.squares + other.squares, self.freedom + other.freedom)

    @property
    def deviation(self) -> float | None:
        """The pooled standard deviation; None where no variant has two runs."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else None


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one variant in one setting under one budget, one row a seed."""

    setting: RunSetting  # what it is compared within
    budget: BudgetShares  # what was asked for
    variant: str  # its name in the study
    kind: str
    method: str  # gave the densities
    granularity: str  # of a mask
    rows: tuple[Row, ...]  # by seed
    scatter: Scatter = Scatter()  # of all variants in this setting under this budget
    role: str = ""  # what claims call the variant; empty where no study's file says
    match: str = ""  # the variant that it is made as large as; empty where there is none

    @cached_property
    def accuracy(self) -> Spread:
        """Of the held-out images after the last epoch, in per cent."""
        return Spread.of([percent(row) for row in self.rows])

    @cached_property
    def params(self) -> float:
        """Mean number of parameters; a method that looks at weights has another one each seed."""
        return self._mean("params")

    @cached_property
    def macs(self) -> float:
        """Mean number of multiply-accumulates."""
        return self._mean("macs")

    @cached_property
    def params_share(self) -> float:
        """Of the original's parameters."""
        return self.params / self._mean("base_params")

    @cached_property
    def macs_share(self) -> float:
        """Of the original's multiply-accumulates."""
        return self.macs / self._mean("base_macs")

    @cached_property
    def densities(self) -> dict[str, float]:
        """Mean share of each layer's weights that remains, in the order of execution."""
        return _means([row.densities for row in self.rows])

    @cached_property
    def widths(self) -> dict[str, float]:
        """Mean number of each layer's output channels, in the order of execution."""
        return _means([{name: w[1] for name, w in row.widths.items()} for row in self.rows])

    @cached_property
    def epoch_seconds(self) -> float | None:
        """Mean of the runs' median seconds per epoch, where epochs were timed."""
        timed = [[e["seconds"] for e in row.history if "seconds" in e] for row in self.rows]
        medians = [median(seconds) for seconds in timed if seconds]
        return fmean(medians) if medians else None

    @property
    def devices(self) -> tuple[str, ...]:
        """What the runs were trained on."""
        return tuple(sorted({row.device for row in self.rows}))

    @property
    def runs(self) -> tuple[str, ...]:
        """Identities of what was trained, by seed."""
        return tuple(run_id(row) for row in self.rows)

    @property
    def variant_order(self) -> tuple[Any, ...]:
        """Sorts the usual methods first."""
        method = _METHODS.index(self.method) if self.method in _METHODS else len(_METHODS)
        kind = _KINDS.index(self.kind)
        return kind, method, self.method, self.granularity, self.variant

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts by setting, there dense networks first, then from large to small."""
        return self.setting, self.kind != "dense", self.budget.order, self.variant_order

    def _mean(self, field: str) -> float:
        return fmean(_number(getattr(row, field)) for row in self.rows)


@dataclass(frozen=True)
class ResultFrame:
    """All that a store holds, sorted."""

    groups: tuple[RunGroup, ...]  # finished runs, in the order of tables and pictures
    failed: tuple[Row, ...] = ()  # rows of cells that failed
    replaced: tuple[Row, ...] = ()  # finished, of a variant's older options under its name

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)

    @cached_property
    def settings(self) -> tuple[RunSetting, ...]:
        """Each once."""
        return tuple(dict.fromkeys(group.setting for group in self.groups))

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Names, each once, in an order that gives every variant its color everywhere."""
        first = sorted(self.groups, key=attrgetter("variant_order"))
        return tuple(dict.fromkeys(group.variant for group in first))

    def within(self, setting: RunSetting) -> tuple[RunGroup, ...]:
        """The groups of a setting."""
        return tuple(group for group in self.groups if group.setting == setting)


def percent(row: Row) -> float:
    """The accuracy of a finished run, in per cent."""
    return 100 * _number(row.accuracy)


def run_id(row: Row) -> str:
    """The identity of what a finished run trained."""
    return row.run or row.cell


def _number(value: float | None) -> float:
    assert value is not None, "a finished run has its figures"
    return value


def _means(of_rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for numbers in of_rows for name in numbers)
    return {name: fmean(n[name] for n in of_rows if name in n) for name in names}
