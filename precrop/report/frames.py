"""Rows of a store as groups that may be averaged, in settings that may be compared."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from statistics import fmean, median, stdev
from typing import Any

from precrop.errors import PrecropError, printable
from precrop.study.rows import FIELDS, Row
from precrop.study.spec import Part
from precrop.training.recipes import RECIPES

_KINDS = ("dense", "cropped", "masked")
_METHODS = ("uniform", "synexp")
"""Come first among the methods, so that pictures and tables read alike whatever else is there."""
_DERIVED = ("num_classes",)
"""Builder's arguments that follow from the data."""


NO_SPREAD = 1e-9
"""Percentage points; numbers that are nearer to each other are one number."""

_LONGEST_NAME = 130
"""Characters that a figure has room for."""


@dataclass(frozen=True, order=True)
class RunSetting:
    """What two runs must share to be compared: all but how the network was made smaller."""

    network: str
    data: str
    recipe: str

    def __str__(self) -> str:
        """The three in a row, as in headings."""
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
    """How much runs that differ in their seed alone scatter, pooled over several variants.

    Attributes:
        squares: sum of the squared distances of runs from their variant's mean.
        freedom: degrees of freedom: the runs less one for every variant.
    """

    squares: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, samples: Iterable[Sequence[float]]) -> "Scatter":
        """Of samples with means of their own and one variance.

        Those without any scatter are left out: theirs is unknown, not zero.
        """
        spreads = map(Spread.of, samples)
        known = [(s.deviation, s.count - 1) for s in spreads if (s.deviation or 0) > NO_SPREAD]
        return cls(sum(d**2 * free for d, free in known if d), sum(free for _, free in known))

    def __add__(self, other: "Scatter") -> "Scatter":
        """Both pools as one."""
        return Scatter(self.squares + other.squares, self.freedom + other.freedom)

    @property
    def deviation(self) -> float | None:
        """The pooled standard deviation; None where no variant has two runs."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else None


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one variant in one setting under one budget, one row a seed.

    Attributes:
        setting: what it is compared within.
        budget: what was asked for.
        variant: how the network was made smaller; its name in the study.
        kind: dense, cropped or masked.
        method: gave the densities.
        granularity: of a mask.
        rows: by seed.
        scatter: of all variants in this setting under this budget.
        role: what claims call the variant; empty where no study's file says.
        match: the variant that it is made as large as; empty where it is of its budget's size.
    """

    setting: RunSetting
    budget: BudgetShares
    variant: str
    kind: str
    method: str
    granularity: str
    rows: tuple[Row, ...]
    scatter: Scatter = Scatter()
    role: str = ""
    match: str = ""

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
        medians = [seconds for row in self.rows if (seconds := _epoch_seconds(row)) is not None]
        return fmean(medians) if medians else None

    @property
    def devices(self) -> tuple[str, ...]:
        """What the runs were trained on."""
        return tuple(sorted({row.device for row in self.rows}))

    @property
    def runs(self) -> tuple[str, ...]:
        """Identities of what was trained, by seed."""
        return tuple(run_id(row) for row in self.rows)

    def _mean(self, field: str) -> float:
        return fmean(_number(getattr(row, field)) for row in self.rows)


@dataclass(frozen=True)
class ResultFrame:
    """All that a store holds, sorted.

    Attributes:
        groups: finished runs, in the order in which tables and pictures show them.
        failed: rows of cells that failed.
        replaced: finished rows of an older asking: a variant's options were changed, its name kept.
    """

    groups: tuple[RunGroup, ...]
    failed: tuple[Row, ...] = ()
    replaced: tuple[Row, ...] = ()

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
        first = sorted(self.groups, key=_variant_order)
        return tuple(dict.fromkeys(group.variant for group in first))

    def within(self, setting: RunSetting) -> tuple[RunGroup, ...]:
        """The groups of a setting."""
        return tuple(group for group in self.groups if group.setting == setting)

    def where(self, condition: Callable[[RunGroup], bool]) -> tuple[RunGroup, ...]:
        """The groups for which a condition holds."""
        return tuple(filter(condition, self.groups))


def frame_of(
    rows: Iterable[Row], parts: Mapping[tuple[str, str], Part] | None = None
) -> ResultFrame:
    """Sort rows into groups.

    Args:
        rows: of one store or several.
        parts: what variants are to claims, by study and variant.

    Raises:
        PrecropError: no run is finished, or two studies give one variant two roles.
    """
    parts = {(_name(study), _name(name)): part for (study, name), part in (parts or {}).items()}
    rows = list(map(_printable, rows))
    done = [row for row in rows if row.status == "done"]
    failed = tuple(row for row in rows if row.status != "done")
    if not done:
        why = f"all of its {len(failed)} failed" if failed else "it is empty"
        raise PrecropError(f"the store has no finished run, {why}: `precrop study run` trains them")
    kept = {key: _latest(members) for key, members in _by_study(_groups(done)).items()}
    by_seed = attrgetter("seed")
    groups = [replace(key, rows=tuple(sorted(rows, key=by_seed))) for key, rows in kept.items()]
    groups = [_with_role(group, parts) for group in groups]
    groups = _pooled(sorted(groups, key=_group_order))
    current = {id(row) for group in groups for row in group.rows}
    return ResultFrame(
        groups=tuple(groups),
        failed=failed,
        replaced=tuple(row for row in done if id(row) not in current),
    )


def _with_role(group: RunGroup, parts: Mapping[tuple[str, str], Part]) -> RunGroup:
    """The group as the studies of its runs see it; those that say nothing leave it to the rest."""
    keys = dict.fromkeys((row.study, row.variant) for row in group.rows)
    said = {key: parts[key] for key in keys if key in parts}
    if not said:
        return group
    (first, part), *others = said.items()
    for other, another in others:
        if another != part:
            raise PrecropError(
                f"{group.variant} is {_described(part)} in the study {first[0]} and "
                f"{_described(another)} in {other[0]}: give it one role, or two names"
            )
    return replace(group, role=part.role, match=part.match or "")


def _described(part: Part) -> str:
    return part.role if part.match is None else f"{part.role} (match: {part.match})"


def _pooled(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """The groups with their scatter; variants that came to the same runs count once."""
    samples: dict[tuple[RunSetting, BudgetShares], dict[tuple[str, ...], list[float]]] = (
        defaultdict(dict)
    )
    for group in groups:
        accuracies = [percent(row) for row in group.rows]
        samples[group.setting, group.budget][group.runs] = accuracies
    pools = {key: Scatter.of(found.values()) for key, found in samples.items()}
    return [replace(group, scatter=pools[group.setting, group.budget]) for group in groups]


def _printable(row: Row) -> Row:
    """A row whose names do nothing to what shows them; other escapes are those of each format."""
    texts = {name: value for name in FIELDS if isinstance(value := getattr(row, name), str)}
    shown: dict[str, Any] = {name: _name(text) for name, text in texts.items()}
    return row if shown == texts else replace(row, **shown)


def _name(text: str) -> str:
    """A name without control characters; of a very long one its beginning and a digest."""
    shown = printable(text)
    if len(shown) <= _LONGEST_NAME:
        return shown
    return f"{shown[: _LONGEST_NAME // 2]}… {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def percent(row: Row) -> float:
    """The accuracy of a finished run, in per cent."""
    return 100 * _number(row.accuracy)


def run_id(row: Row) -> str:
    """The identity of what a finished run trained."""
    return row.run or row.cell


def short_count(count: float) -> str:
    """``270 k``, ``40.6 M``."""
    for suffix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {suffix}"
    return f"{count:.0f}"


def _groups(rows: Sequence[Row]) -> dict[RunGroup, list[Row]]:
    """The rows of each group, which is still without them; names as short as tells them apart."""
    # One set of images may have been called by several names: the longest says the most.
    names: dict[str, str] = {}
    for row in rows:
        known = names.get(row.data_digest, "")
        names[row.data_digest] = max(known, row.data, key=lambda name: (len(name), name))
    often = Counter(names.values())
    found: dict[RunGroup, list[Row]] = defaultdict(list)
    for row in rows:
        data = names[row.data_digest]
        data = f"{data} ({row.data_digest[:8]})" if often[data] > 1 else data
        setting = RunSetting(_network(row), data, recipe_name(row.recipe))
        budget = BudgetShares(row.asked_params, row.asked_macs)
        group = RunGroup(setting, budget, row.variant, row.kind, row.method, row.granularity, ())
        found[group].append(row)
    return found


def _network(row: Row) -> str:
    said = (f"{name}={value}" for name, value in sorted(row.args.items()) if name not in _DERIVED)
    args = ", ".join(said)
    return _name(f"{row.network} ({args})" if args else row.network)


def recipe_name(recipe: Mapping[str, Any]) -> str:
    """The known recipe that is nearest, and what is different from it."""
    near, changes = min(
        ((name, _differences(recipe, known.to_json())) for name, known in RECIPES.items()),
        key=lambda pair: len(pair[1]),
    )
    return _name(", ".join([near, *(f"{name}={value}" for name, value in changes.items())]))


def _differences(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys((*sorted(known), *sorted(given)))
    return {name: given.get(name) for name in names if given.get(name) != known.get(name)}


def _by_study(found: Mapping[RunGroup, list[Row]]) -> dict[RunGroup, list[Row]]:
    """Split a group where studies mean different things by one variant's name."""
    parts: dict[RunGroup, list[Row]] = defaultdict(list)
    for key, rows in found.items():
        apart = _clash(rows, within_study=False)
        for row in rows:
            variant = f"{key.variant} ({row.study})" if apart else key.variant
            parts[replace(key, variant=variant)].append(row)
    return parts


def _clash(rows: Sequence[Row], within_study: bool) -> bool:
    """Whether two rows of one seed come from different askings, of one study or of two."""
    seen: dict[int, Row] = {}
    for row in rows:
        other = seen.setdefault(row.seed, row)
        if row.cell != other.cell and (row.study == other.study) == within_study:
            return True
    return False


def _latest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the newest asking; one seed's older row shows that older rows are of another."""
    if not _clash(rows, within_study=True):
        return list({row.seed: row for row in rows}.values())
    newest: dict[int, Row] = {}
    askings: dict[int, set[str]] = defaultdict(set)
    for row in sorted(rows, key=lambda row: row.started):
        newest[row.seed] = row
        askings[row.seed].add(row.cell)
    since = min(newest[seed].started for seed, cells in askings.items() if len(cells) > 1)
    return [row for row in newest.values() if row.started >= since]


def _variant_order(group: RunGroup) -> tuple[Any, ...]:
    method = _METHODS.index(group.method) if group.method in _METHODS else len(_METHODS)
    return (_KINDS.index(group.kind), method, group.method, group.granularity, group.variant)


def _group_order(group: RunGroup) -> tuple[Any, ...]:
    dense = group.kind != "dense"
    return (group.setting, dense, group.budget.order, _variant_order(group))


def _number(value: float | None) -> float:
    assert value is not None, "a finished run has its figures"
    return value


def _means(of_rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for numbers in of_rows for name in numbers)
    return {name: fmean(n[name] for n in of_rows if name in n) for name in names}


def _epoch_seconds(row: Row) -> float | None:
    seconds = [epoch["seconds"] for epoch in row.history if "seconds" in epoch]
    return median(seconds) if seconds else None
