"""Judges what chooses widths by the accuracies of NATS-Bench's size search space.

Three questions, each on three data sets. *Order*: among networks of the same parameters and MACs,
do those with the larger objective have the higher accuracy? *Regret*: how far behind the best
network within two budgets is the plan's? *Gain*: how far ahead of uniform width is it, for
networks of many shapes, and how far could it be?
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

import precrop
from precrop.errors import BudgetError
from precrop.evidence.nats import (
    STEP,
    DataSet,
    FiveWidths,
    Floats,
    FreeWidths,
    Integers,
    Table,
    structure,
)
from precrop.linear.expected import Expectation
from precrop.models.nats import NatsNetwork
from precrop.pruning.methods import METHODS
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.program import Program, end_shares, program
from precrop.solve.relax import allocate
from precrop.solve.structure import Structure
from precrop.strategies.exact import EXACT
from precrop.strategies.objectives import OBJECTIVES
from precrop.strategies.strategy import Solution
from precrop.strategies.two_step import RULES as TWO_STEP

WIDEST = (64, 64, 64, 64, 64)
BAND = 0.03
"""Networks whose parameters and whose MACs are this close count as of one size."""
FEWEST = 10
"""Networks that a band needs, and a budget has just within it."""
BUDGETS = 300
FEW_BUDGETS = 20
"""Budgets for what takes long: SynFlow's hundred rounds and the exact objective, a second each."""
EXACT_BANDS = 60
"""Bands whose networks the exact objectives are computed for, hundredths of a second each."""
RESAMPLES = 1000
UNIFORM = "uniform width"

SENSIBLE = {
    "flat 32": (32, 32, 32, 32, 32),
    "flat 48": (48, 48, 48, 48, 48),
    "flat 64": (64, 64, 64, 64, 64),
    "doubling": (16, 32, 32, 64, 64),
    "pyramid": (16, 24, 32, 48, 64),
    "gentle pyramid": (32, 40, 48, 56, 64),
}
"""Base networks of the kind that people design: as wide or wider towards the output."""
ILL_SHAPED = {
    "inverted": (64, 48, 32, 24, 16),
    "halving": (64, 32, 32, 16, 16),
    "gently inverted": (64, 56, 48, 40, 32),
    "zigzag": (64, 16, 64, 16, 64),
    "other zigzag": (16, 64, 16, 64, 16),
    "waist": (64, 48, 16, 48, 64),
}
"""Base networks that nobody should design."""
SHARES = (0.4, 0.6, 0.8)
PRECONFIG = {"both whole": (1.0, 1.0), "80% of the parameters": (0.8, 1.0)}


Weights = Callable[[Structure], Floats]
"""One weight for every layer."""


def root_macs(known: Structure) -> Floats:
    """The square root of every layer's MACs: halfway between SynExp and uniform width.

    Within a budget of MACs the best densities give layers MACs in proportion to their weights:
    equal ones by SynExp, those of the original (one density for all) by weights that are the MACs.
    """
    return np.array([layer.macs for layer in known.layers], float) ** 0.5


CONTROLS: dict[str, Weights] = {"root-macs": root_macs}
"""Objectives that are no longer offered, to show by how much others are better."""


@dataclass(frozen=True)
class Control(precrop.SynExp):
    """Widths by one of `CONTROLS`."""

    name: str = "root-macs"

    def __call__(self, problem: Program) -> Solution:
        """Solve it once."""
        weighed = problem.weighed(CONTROLS[self.name](problem.structure))
        return Solution(weighed, allocate(weighed), weighed.value)


@dataclass(frozen=True)
class Candidate:
    """One way to choose widths.

    Attributes:
        name: for tables.
        options: of `precrop.plan`.
        method: whose densities are turned into channels, if any.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None


def strategies() -> list[Candidate]:
    """Every objective that is registered, uniform width, other balances and the two-step rules."""
    objectives = [Candidate(name, {"objective": name}) for name in OBJECTIVES]
    objectives += [Candidate(name, {"strategy": Control(name=name)}) for name in CONTROLS]
    uniform = Candidate(UNIFORM, {"rule": "uniform"})
    balances = [Candidate(f"synexp, balance {b:g}", {"balance": b}) for b in (0.1, 10.0)]
    rules = [Candidate(f"rule {rule}", {"rule": rule}) for rule in TWO_STEP]
    return [*objectives, uniform, *balances, *rules]


def slow_strategies() -> list[Candidate]:
    """The exact objective, and every method whose densities need no data, turned into channels."""
    names = [name for name, method in METHODS.items() if not method.needs_data]
    methods = [Candidate(f"densities of {name}", method=name) for name in names]
    return [Candidate("exact", {"objective": "exact"}), *methods]


def _network(kind: type[NatsNetwork], widths: Sequence[int], num_classes: int) -> NatsNetwork:
    """A network with the same weights every time: some methods look at them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(widths, num_classes)


@lru_cache(maxsize=100)
def _reading(
    kind: type[NatsNetwork], widths: tuple[int, ...], data_set: DataSet
) -> precrop.Reading:
    """Each network is planned for many budgets, and read once for all of them."""
    return precrop.Reading(_network(kind, widths, data_set.num_classes), data_set.input_shape)


def chosen_widths(
    data_set: DataSet,
    base: Sequence[int],
    strategy: Candidate,
    *,
    kind: type[NatsNetwork] = FiveWidths,
    **asked: Any,
) -> Floats | None:
    """The five widths of the plan, shape (5,); None where its budgets cannot be met.

    Where widths inside a cell are free the five are the geometric means of the outputs of each
    stage's 3x3 convolutions.

    Args:
        data_set: gives the classes and the size of the images.
        base: five widths of the network that is cropped.
        strategy: how widths are found.
        kind: of network: `FiveWidths` or `FreeWidths`.
        asked: budgets and ``expand`` of `precrop.plan`.
    """
    reading = _reading(kind, tuple(base), data_set)  # type: ignore[arg-type] # classes have hashes
    try:
        if strategy.method is not None:
            budgets = {name: asked[name] for name in ("params", "macs") if name in asked}
            asked["densities"] = precrop.densities(
                reading.model, data_set.input_shape, method=strategy.method, **budgets
            )
        plan = precrop.plan(reading, divisor=STEP, **strategy.options, **asked)
    except BudgetError:
        return None
    stages: dict[str, list[int]] = {}
    for layer in plan.layers:
        if not layer.name.endswith("shortcut.1") and "skip" not in layer.name:
            stages.setdefault(layer.name.partition(".")[0], []).append(layer.out_channels)
    del stages["classifier"]
    stem = [*stages.pop("stem"), *stages.pop("cell_1")]
    means = [np.exp(np.log(widths).mean()) for widths in (stem, *stages.values())]
    return np.round(means, 6)


# --- order within bands -----------------------------------------------------------------------


def objective_values(table: Table) -> dict[str, Floats]:
    """The value of every objective that weighs layers for every network; parameters and MACs."""
    whole = structure(table.data_set, WIDEST)
    x = _log_ratios(table)
    values = {"params": table.params.astype(float), "macs": table.macs.astype(float)}
    for name, weights in {**OBJECTIVES, **CONTROLS}.items():
        problem = program(whole, {}).weighed(weights(whole))
        values[name] = x @ problem.gain
        if name == "synexp":
            penalty = (x * (problem.penalty @ x.T).T).sum(1)
            values["synexp with its balance"] = values[name] - penalty
    return values


def exact_values(table: Table, rows: Integers) -> dict[str, Floats]:
    """Log SynExp and log E[R] of the networks in these rows; NaN for others."""
    network = read_network(
        _network(FiveWidths, WIDEST, table.data_set.num_classes), Inputs(table.data_set.input_shape)
    )
    known = lower(network).structure
    densities = _log_ratios(table)[rows] @ sum(end_shares(known)).T
    kinds: dict[str, type[Expectation]] = EXACT
    values = {name: np.full(len(table.params), np.nan) for name in kinds}
    for name, kind in kinds.items():
        expectation = kind(network)
        values[name][rows] = [expectation.value(row) for row in densities]
    return values


def _log_ratios(table: Table) -> Floats:
    """Of every network's widths to the widest ones, shape (networks, 5)."""
    return np.asarray(np.log(table.widths / np.array(WIDEST)), float)


def bands(table: Table) -> list[NDArray[np.int64]]:
    """Networks of one size: cells of a grid of `BAND` in log parameters and log MACs."""
    cells = np.floor(np.log(np.stack([table.params, table.macs], 1)) / BAND).astype(np.int64)
    _, labels = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return [band for band in np.split(order, starts) if len(band) >= FEWEST]


def order(table: Table) -> Iterator[dict[str, Any]]:
    """Rank correlations of objectives with accuracy: the mean over bands, with its interval."""
    yield from _ordered(table, objective_values(table), bands(table))


def exact_order(table: Table) -> Iterator[dict[str, Any]]:
    """The same of the exact objectives, and of SynExp's on the same few bands, drawn at random."""
    found = bands(table)
    drawn = np.random.default_rng(0).permutation(len(found))[:EXACT_BANDS]
    chosen = [found[index] for index in sorted(drawn)]
    values = exact_values(table, np.concatenate(chosen))
    same = {f"synexp, {len(chosen)} bands": objective_values(table)["synexp"]}
    yield from _ordered(table, values | same, chosen)


def _ordered(
    table: Table, objectives: Mapping[str, Floats], found: Sequence[NDArray[np.int64]]
) -> Iterator[dict[str, Any]]:
    accuracies = {"smooth": table.smooth, "raw": table.raw}
    for objective, values in objectives.items():
        row: dict[str, Any] = {"data set": table.data_set.name, "objective": objective}
        for kind, accuracy in accuracies.items():
            pairs = [(values[band], accuracy[band]) for band in found]
            rho = np.array([spearmanr(a, b).statistic for a, b in pairs])
            tau = np.array([kendalltau(a, b).statistic for a, b in pairs])
            row |= interval(f"rho {kind}", rho) | {f"tau {kind}": float(np.nanmean(tau))}
        yield {**row, "bands": len(found)}


def interval(name: str, values: Floats) -> dict[str, float]:
    """The mean and its 95% interval: percentiles of means of resampled values."""
    values = values[~np.isnan(values)]
    if not len(values):
        return {name: np.nan, f"{name} low": np.nan, f"{name} high": np.nan}
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {name: float(values.mean()), f"{name} low": float(low), f"{name} high": float(high)}


# --- regret within two budgets ----------------------------------------------------------------


def drawn_budgets(table: Table, count: int) -> list[tuple[int, int]]:
    """Parameters and MACs of networks drawn at random, where enough others are of that size."""
    rng = np.random.default_rng(0)
    found: list[tuple[int, int]] = []
    for row in rng.permutation(len(table.params)):
        budgets = int(table.params[row]), int(table.macs[row])
        if len(_of_size(table, *budgets)) >= FEWEST:
            found.append(budgets)
        if len(found) == count:
            break
    return found


def _of_size(table: Table, params: int, macs: int) -> NDArray[np.int64]:
    """Networks just within both budgets."""
    within = (table.params <= params) & (table.macs <= macs)
    close = (table.params >= (1 - BAND) * params) & (table.macs >= (1 - BAND) * macs)
    return np.flatnonzero(within & close)


def regret(
    table: Table, strategy: Candidate, count: int, kind: type[NatsNetwork] = FiveWidths
) -> Iterator[dict[str, Any]]:
    """How far behind the best network within two budgets the strategy's is, budget by budget."""
    name = strategy.name + (", widths inside cells free" if kind is FreeWidths else "")
    for budget, (params, macs) in enumerate(drawn_budgets(table, count)):
        widths = chosen_widths(
            table.data_set, WIDEST, strategy, kind=kind, params=params, macs=macs
        )
        if widths is not None:
            yield {"budget": budget, **_outcome(table, name, params, macs, widths[None])}


def baselines(table: Table, count: int) -> Iterator[dict[str, Any]]:
    """Regret of what needs no plan: a network of that size at random, the largest one."""
    for budget, (params, macs) in enumerate(drawn_budgets(table, count)):
        same = table.widths[_of_size(table, params, macs)]
        outcome = _outcome(table, "any network of the size", params, macs, same)
        yield {"budget": budget, **outcome}
        within = np.flatnonzero((table.params <= params) & (table.macs <= macs))
        for name, cost in (("most parameters", table.params), ("most MACs", table.macs)):
            largest = table.widths[within[cost[within].argmax()]]
            yield {"budget": budget, **_outcome(table, name, params, macs, largest[None])}


def _outcome(
    table: Table, name: str, params: int, macs: int, chosen: Integers | Floats
) -> dict[str, Any]:
    """What became of choices, shape (networks, 5): the mean accuracy, beside what was possible."""
    within = (table.params <= params) & (table.macs <= macs)
    same = table.smooth[_of_size(table, params, macs)]
    accuracy = table.surface(chosen).mean()
    return {
        "data set": table.data_set.name,
        "strategy": name,
        "regret": table.smooth[within].max() - accuracy,
        "raw regret": table.raw[within].max() - table.measured(chosen).mean(),
        "over its size": accuracy - same.mean(),
        "beats": (same < accuracy).mean(),
    }


# --- gain over uniform width --------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One base network with its budgets, as shares of its own costs."""

    kind: str
    shape: str
    base: tuple[int, ...]
    budgets: Mapping[str, float]
    label: str
    expand: bool


def cases() -> Iterator[Case]:
    """Shapes times budgets: both, MACs alone, parameters alone; cropped, and as PreConfig."""
    for kind, shapes in (("sensible", SENSIBLE), ("ill-shaped", ILL_SHAPED)):
        for shape, base in shapes.items():
            for share in SHARES:
                both = {"params": share, "macs": share}
                yield Case(kind, shape, base, both, "both", False)
                yield Case(kind, shape, base, {"macs": share}, "MACs alone", False)
                yield Case(kind, shape, base, {"params": share}, "parameters alone", False)
            for label, (params, macs) in PRECONFIG.items():
                budgets = {"params": params, "macs": macs}
                yield Case(kind, shape, base, budgets, f"PreConfig, {label}", True)


def gains(table: Table, strategy: Candidate, chosen: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """What a strategy gains over uniform width at the same budgets, and what could be gained.

    PreConfig is set beside the base network itself. Widths of plans that the table lacks (they may
    pass 64) are left out.
    """
    for case in chosen:
        asked: dict[str, Any] = {**case.budgets, "expand": case.expand}
        ours = chosen_widths(table.data_set, case.base, strategy, **asked)
        other: Floats | None = np.array(case.base, float)
        if not case.expand:
            other = _uniform_widths(table.data_set, case.base, tuple(case.budgets.items()))
        if ours is None or other is None or ours.max() > max(WIDEST):
            continue
        best = table.widths[_best(table, case)]
        widths = np.stack([ours, other, best])
        smooth, raw = table.surface(widths), table.measured(widths)
        yield {
            "data set": table.data_set.name,
            "strategy": strategy.name,
            "kind": case.kind,
            "shape": case.shape,
            "budgets": case.label,
            "share": min(case.budgets.values()),
            "gain": smooth[0] - smooth[1],
            "possible": smooth[2] - smooth[1],
            "raw gain": raw[0] - raw[1],
            "raw possible": raw[2] - raw[1],
        }


@lru_cache(maxsize=1000)
def _uniform_widths(
    data_set: DataSet, base: tuple[int, ...], budgets: tuple[tuple[str, float], ...]
) -> Floats | None:
    """Those of uniform width, which every strategy is compared with."""
    asked: dict[str, Any] = dict(budgets)
    return chosen_widths(data_set, base, Candidate(UNIFORM, {"rule": "uniform"}), **asked)


_structure = lru_cache(maxsize=100)(structure)


def _best(table: Table, case: Case) -> int:
    """The network with the highest smooth accuracy that a plan could have chosen."""
    known = _structure(table.data_set, case.base)
    allowed = np.ones(len(table.params), bool)
    for name, share in case.budgets.items():
        allowed &= getattr(table, name) <= int(share * known.costs[name](known.units))
    if not case.expand:
        allowed &= (table.widths <= np.array(case.base)).all(1)
    return int(np.flatnonzero(allowed)[table.smooth[allowed].argmax()])
