"""Runs in groups that may be averaged, within settings in which groups may be compared."""

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
"""Methods that come first, so that pictures and tables read alike whatever else they show."""
NO_SPREAD = 1e-9
"""Percentage points; numbers that differ by less count as equal."""


@dataclass(frozen=True, order=True)
class RunSetting:
    """What two runs must share to be compared: everything but how the network was pruned."""

    network: str
    data: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.network} · {self.data} · {self.recipe}"


@dataclass(frozen=True)
class BudgetShares:
    """The budgets asked for, as shares of the original's costs; both None for a dense network."""

    params: float | None
    macs: float | None

    def __str__(self) -> str:
        """Return a text such as ``params 30%, MACs 30%``."""
        asked = {"params": self.params, "MACs": self.macs}
        parts = (f"{name} {100 * share:.4g}%" for name, share in asked.items() if share is not None)
        return ", ".join(parts) or "no budget"

    @property
    def order(self) -> tuple[float, float]:
        """A sort key: dense networks first, then from large to small."""
        params, macs = (-math.inf if s is None else -s for s in (self.params, self.macs))
        return params, macs


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a few numbers; a single number has no deviation."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Return the mean and the deviation of a sample; the deviation divides by ``n - 1``."""
        return cls(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))

    def __str__(self) -> str:
        """Return a text such as ``74.61 ± 0.19``."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Scatter:
    """How much runs that differ only in their seed scatter, pooled over several variants."""

    squares: float = 0.0  # sum of the squared distances of runs from their variant's mean
    freedom: int = 0  # degrees of freedom: the number of runs minus that of variants

    @classmethod
    def of(cls, samples: Iterable[Sequence[float]]) -> "Scatter":
        """Pool samples that have their own means and one common variance.

        Samples without any scatter are left out: theirs is unknown, not zero.
        """
        spreads = map(Spread.of, samples)
        known = [(s.deviation, s.count - 1) for s in spreads if (s.deviation or 0) > NO_SPREAD]
        return cls(sum(d**2 * free for d, free in known if d), sum(free for _, free in known))

    def __add__(self, other: "Scatter") -> "Scatter":
        return Scatter(self.squares + other.squares, self.freedom + other.freedom)

    @property
    def deviation(self) -> float | None:
        """The pooled standard deviation; None if no variant has two runs that differ."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else None


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one variant in one setting under one budget, one row per seed."""

    setting: RunSetting  # the setting within which it is compared
    budget: BudgetShares  # the budget that was asked for
    variant: str  # its name in the study
    kind: str
    method: str  # the method that gave the densities
    granularity: str  # of a mask
    rows: tuple[Row, ...]  # by seed
    scatter: Scatter = Scatter()  # of all variants in this setting under this budget
    role: str = ""  # the variant's name in claims; empty if no study's file gives one
    match: str = ""  # the variant that it is made as large as; empty if there is none

    @cached_property
    def accuracy(self) -> Spread:
        """Accuracy on the held-out images after the last epoch, in percent."""
        return Spread.of([percent(row) for row in self.rows])

    @cached_property
    def params(self) -> float:
        """Mean number of parameters, which methods that look at weights vary with the seed."""
        return self._mean("params")

    @cached_property
    def macs(self) -> float:
        """Mean number of multiply-accumulates."""
        return self._mean("macs")

    @cached_property
    def params_share(self) -> float:
        """Parameters as a share of the original's."""
        return self.params / self._mean("base_params")

    @cached_property
    def macs_share(self) -> float:
        """Multiply-accumulates as a share of the original's."""
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
        """Mean of the runs' median seconds per epoch; None if no epochs were timed."""
        timed = [[e["seconds"] for e in row.history if "seconds" in e] for row in self.rows]
        medians = [median(seconds) for seconds in timed if seconds]
        return fmean(medians) if medians else None

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the runs were trained on."""
        return tuple(sorted({row.device for row in self.rows}))

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs, by seed."""
        return tuple(run_id(row) for row in self.rows)

    @property
    def variant_order(self) -> tuple[Any, ...]:
        """A sort key for variants: by kind, then the usual methods first."""
        method = _METHODS.index(self.method) if self.method in _METHODS else len(_METHODS)
        kind = _KINDS.index(self.kind)
        return kind, method, self.method, self.granularity, self.variant

    @property
    def order(self) -> tuple[Any, ...]:
        """A sort key: by setting, within it dense networks first, then from large to small."""
        return self.setting, self.kind != "dense", self.budget.order, self.variant_order

    def _mean(self, field: str) -> float:
        return fmean(_number(getattr(row, field)) for row in self.rows)


@dataclass(frozen=True)
class ResultFrame:
    """All rows of a store, sorted into groups."""

    groups: tuple[RunGroup, ...]  # finished runs, in the order of tables and pictures
    failed: tuple[Row, ...] = ()  # rows of cells that failed
    replaced: tuple[Row, ...] = ()  # finished rows of older options under a variant's name

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)

    @cached_property
    def settings(self) -> tuple[RunSetting, ...]:
        """The settings, each once."""
        return tuple(dict.fromkeys(group.setting for group in self.groups))

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """The variants' names, each once; their order fixes the colors in all pictures."""
        first = sorted(self.groups, key=attrgetter("variant_order"))
        return tuple(dict.fromkeys(group.variant for group in first))

    def within(self, setting: RunSetting) -> tuple[RunGroup, ...]:
        """Return the groups of a setting."""
        return tuple(group for group in self.groups if group.setting == setting)


def percent(row: Row) -> float:
    """Return the accuracy of a finished run in percent."""
    return 100 * _number(row.accuracy)


def run_id(row: Row) -> str:
    """Return the id of a finished run, or of its cell if the row has none."""
    return row.run or row.cell


def _number(value: float | None) -> float:
    assert value is not None, "a finished run has its figures"
    return value


def _means(of_rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for numbers in of_rows for name in numbers)
    return {name: fmean(n[name] for n in of_rows if name in n) for name in names}
