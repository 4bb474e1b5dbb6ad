"""The ways from a program to continuous widths: what is maximised, and what rounding goes on with.

Each way takes the balanced program of `precrop.solve.program` and returns a `Solution`. The
two-step rules are a reconstruction: the published text of the paper does not give its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from precrop.errors import BudgetError, PrecropError
from precrop.linear.expected import Expectation, ScoreExpectation
from precrop.solve.closed_form import closed_form
from precrop.solve.program import (
    Choices,
    Floats,
    Integers,
    Program,
    balance_penalty,
    end_shares,
    kept_share,
    produced,
)
from precrop.solve.relax import Allocation, allocate
from precrop.solve.structure import Layer, Structure

MOST_ROUNDS = 50
"""Of the exact objective's climb; it takes few."""
CLIMBED = 1e-7
"""Growth of the objective below which the climb ends."""


@dataclass(frozen=True)
class Solution:
    """Continuous widths, and the program whose objective whole units are judged by.

    Attributes:
        problem: as `precrop.solve.rounding` takes it.
        allocation: the widths.
        value: what is really maximised, as a function of log ratios.
        targets: densities that were aimed at, by layer name.
        report: what else is worth telling, for the plan.
    """

    problem: Program
    allocation: Allocation
    value: Callable[[Floats], float]
    targets: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


Way = Callable[[Program], Solution]

GIVEN = "given"
"""Status of widths that nothing was solved for."""

_NARROWEST = 1e-9
_SNAP = 1e-6
"""Part of a channel that a width may be off by rounding errors."""
_SHIFT = 1e-4
"""Precision of the factor that raises targets; rounding spends what it leaves."""


@dataclass(frozen=True)
class Balanced:
    """The joint program: densities and widths at once.

    Attributes:
        objective: a name in `precrop.solve.program.OBJECTIVES`.
    """

    objective: str = "synexp"

    def __call__(self, problem: Program) -> Solution:
        """Solve it once."""
        weighed = problem.weighed(self.objective)
        return Solution(weighed, allocate(weighed), weighed.value)


EXACT: dict[str, type[Expectation]] = {"exact": ScoreExpectation, "exact-output": Expectation}
"""Objectives that take no weights of layers, and what they maximise."""


@dataclass(frozen=True)
class Exact:
    """Maximise log SynExp itself, or log E[R], instead of the sum of the log densities.

    Either is convex in the log densities, so its tangent lies below it: solving the program with
    the slopes at the last solution as weights climbs, to a point where no small change helps. That
    need not be the maximum; it is done from two starts, the optimum of the sum of log densities and
    the dense network's slopes, and the better end counts.
    """

    expectation: Expectation

    def __call__(self, problem: Program) -> Solution:
        """Climb from both starts; weights are scaled to mean 1 at the first, as in the program."""
        ends = sum(end_shares(problem.structure))
        if self.expectation.value(np.zeros(ends.shape[0])) == -math.inf:
            raise PrecropError(
                "SynExp is zero whatever the widths: all weights of a layer are zero"
            )
        first = allocate(problem)
        scale = _scale(problem.structure, self.expectation(ends @ first.log_ratios)[1])

        def value(x: Floats) -> float:
            return scale * self.expectation(ends @ x)[0] - float(x @ (problem.penalty @ x))

        def tangent(x: Floats) -> Program:
            """The program whose objective touches the exact one at ``x``."""
            return replace(problem, gain=scale * (ends.T @ self.expectation(ends @ x)[1]))

        starts = {"synexp": first, "dense": allocate(tangent(np.zeros(len(problem.gain))))}
        climbs = {name: _climb(start, value, tangent) for name, start in starts.items()}
        reached = {name: value(end.log_ratios) for name, (end, _) in climbs.items()}
        best, _ = climbs[max(reached, key=lambda name: reached[name])]
        report = {
            name: {
                "objective": reached[name],
                self.expectation.label: self.expectation(ends @ end.log_ratios)[0],
                "rounds": rounds,
            }
            for name, (end, rounds) in climbs.items()
        }
        return Solution(tangent(best.log_ratios), best, value, {}, {"starts": report})


def _climb(
    start: Allocation, value: Callable[[Floats], float], tangent: Callable[[Floats], Program]
) -> tuple[Allocation, int]:
    """The last of ever better solutions of tangent programs, and how many there were."""
    allocation, reached = start, value(start.log_ratios)
    for rounds in range(MOST_ROUNDS):
        better = allocate(tangent(allocation.log_ratios))
        climbed = value(better.log_ratios)
        if climbed <= reached + CLIMBED:
            return allocation, rounds
        allocation, reached = better, climbed
    return allocation, MOST_ROUNDS


def _scale(structure: Structure, slopes: Floats) -> float:
    """What brings the slopes of the layers that can change to mean 1."""
    variable = np.array([bool(layer.inputs or layer.outputs) for layer in structure.layers], bool)
    total = float(slopes[variable].sum())
    return float(variable.sum()) / total if total > 0 else 1.0


@dataclass(frozen=True)
class Matched:
    """The widths whose densities come closest to given ones: least squares of the logarithms.

    The balance term is added, as in the balanced program. Densities give the shape and budgets the
    size: where the closest widths leave every budget unused, all targets are raised by one factor,
    none beyond 1, until a budget is used up.

    A target of at most one channel at both ends is that of a collapsed layer, which says nothing of
    its neighbours: it does not count. Its widths become as narrow as they may where no
    layer that counts has them. Layers without a target don't count either; widths
    that only they have aim to stay as they are.
    """

    targets: Mapping[str, float]
    balance: float

    def __call__(self, problem: Program) -> Solution:
        """Solve the least-squares program within the budgets."""
        fit = _LeastSquares(problem, self.targets, self.balance)
        shift = fit.shift()
        found = fit.program(shift)
        allocation = allocate(found)
        report = {"collapsed": fit.collapsed, "target_factor": math.exp(shift)}
        return Solution(found, allocation, partial(fit.value, shift), self.targets, report)


class _LeastSquares:
    """Distances of log densities from their targets, for targets raised by any factor."""

    def __init__(self, problem: Program, targets: Mapping[str, float], balance: float) -> None:
        self.problem = problem
        structure, choices = problem.structure, problem.choices
        layers, ends = structure.layers, sum(end_shares(structure))
        named = np.array([layer.name in targets for layer in layers], bool)
        logs = np.array([math.log(targets.get(layer.name, 1.0)) for layer in layers])
        varies = np.array([bool(layer.inputs or layer.outputs) for layer in layers], bool)
        one_unit = ends @ np.log(1 / choices.units)
        collapsed = named & varies & (logs <= one_unit + _NARROWEST)
        counted = named & varies & ~collapsed
        self.collapsed = [layers[index].name for index in np.flatnonzero(collapsed)]
        self.ends, self.logs = ends[counted], logs[counted]
        self.floored = (_touched(ends[collapsed]) & ~_touched(ends[counted])).astype(float)
        idle = ~_touched(ends[named])
        self.lower = np.log(choices.lower / choices.units)
        self.penalty = balance_penalty(structure, balance, counted)
        self.square = self.ends.T @ self.ends + self.penalty + _diagonal(self.floored + idle)

    def program(self, shift: float) -> Program:
        """The program that looks for targets times ``exp(shift)``."""
        wanted = np.minimum(self.logs + shift, 0.0)
        gain = 2 * (self.ends.T @ wanted + self.floored * self.lower)
        fills = bool(self.problem.limits)
        return replace(self.problem, gain=gain, penalty=self.square, fills=fills)

    def value(self, shift: float, x: Floats) -> float:
        """Minus the squared distance and the balance term."""
        off = self.ends @ x - np.minimum(self.logs + shift, 0.0)
        return -float(off @ off + x @ (self.penalty @ x))

    def shift(self) -> float:
        """How far log targets must rise before a budget is used up."""
        from scipy.optimize import brentq

        costs, limits = self.problem.costs, self.problem.limits

        def excess(shift: float) -> float:
            free = replace(self.program(shift), limits={})
            units = (self.problem.choices.units * np.exp(allocate(free).log_ratios)).tolist()
            return max(costs[n].continuous(units) / limit for n, limit in limits.items()) - 1

        most = float(-self.logs.min(initial=0.0))
        if not limits or excess(0.0) >= 0:
            return 0.0
        return most if excess(most) <= 0 else float(brentq(excess, 0.0, most, xtol=_SHIFT))


def _touched(ends: Any) -> Any:
    """Which groups some of these layers have, shape (groups,)."""
    return np.asarray(ends.sum(axis=0)).ravel() > 0


def _diagonal(entries: Floats) -> Any:
    from scipy.sparse import dia_array

    return dia_array((entries[None, :], [0]), shape=(len(entries), len(entries))).tocsr()


Rule = Callable[[Sequence[float]], float]
RULES: dict[str, Rule] = {
    "sqrt-min": min,
    "sqrt-max": max,
    "geometric-mean": lambda ratios: math.exp(sum(map(math.log, ratios)) / len(ratios)),
}
"""How a width follows from what the layers at it ask for."""


@dataclass(frozen=True)
class ByRule:
    """Densities first, then channels: the paper's two steps, reconstructed.

    A layer of density p asks both of its ends for the share sqrt(p) (for p where only one end can
    change, or where they are one). A width takes the least, the greatest or the geometric mean of
    what is asked of it, and all widths are scaled by one factor until a budget is used up.

    Attributes:
        rule: a name in `RULES`.
        targets: densities; without them those that maximise SynExp within the same shares of the
            layers' weights and MACs, above 1 where widths may grow.
    """

    rule: str
    targets: Mapping[str, float]

    def __call__(self, problem: Program) -> Solution:
        """Follow the rule; whole units then come as close to it as the budgets allow."""
        structure, choices = problem.structure, problem.choices
        expand = bool((choices.upper > choices.units).any())
        targets = self.targets or _best_densities(structure, problem.limits, expand)
        return _shaped(problem, np.log(self._wanted(structure, targets)), targets)

    def _wanted(self, structure: Structure, targets: Mapping[str, float]) -> Floats:
        asked: list[list[float]] = [[] for _ in structure.groups]
        for layer in structure.layers:
            share = _asked(layer, targets.get(layer.name, 1.0))
            for group in {*layer.inputs, *layer.outputs}:
                asked[group].append(share)
        return np.array([RULES[self.rule](ratios) if ratios else 1.0 for ratios in asked])


@dataclass(frozen=True)
class Uniform:
    """One share of every width: a width multiplier that uses the tightest budget up."""

    def __call__(self, problem: Program) -> Solution:
        """Find the multiplier; whole units then come as close to it as the budgets allow."""
        return _shaped(problem, np.zeros(len(problem.structure.groups)), {})


def _shaped(problem: Program, shape: Floats, targets: Mapping[str, float]) -> Solution:
    """Log ratios of one shape, at the size that the budgets allow."""
    choices = problem.choices
    lower, upper = (np.log(n / choices.units) for n in (choices.lower, choices.upper))
    x = _rescaled(problem, shape, lower, upper)
    nearest = _nearest(problem, x, fills=bool(problem.limits))
    at_cap = np.flatnonzero((upper > 0) & (x >= upper))
    multipliers = dict.fromkeys(problem.limits, 0.0)
    allocation = Allocation(x, nearest.value(x), "rule", 0, multipliers, tuple(at_cap.tolist()))
    return Solution(nearest, allocation, nearest.value, targets)


def _nearest(problem: Program, x: Floats, *, fills: bool) -> Program:
    """The program whose optimum, budgets aside, is ``x``: minus the squared distance from it."""
    return replace(problem, gain=2 * x, penalty=_diagonal(np.ones(len(x))), fills=fills)


def _asked(layer: Layer, density: float) -> float:
    """The share of its channels that a layer asks for at either end."""
    return math.sqrt(density) if layer.inputs and layer.outputs else density


def _best_densities(
    structure: Structure, limits: Mapping[str, int], expand: bool
) -> dict[str, float]:
    """SynExp's densities when every budget is the same share of the layers' own cost."""
    costs = {
        "params": np.array([layer.weights for layer in structure.layers], float),
        "macs": np.array([layer.macs for layer in structure.layers], float),
    }
    shares = {
        name: limits[name] / structure.costs[name](structure.units) * costs[name].sum()
        for name in costs
        if name in limits
    }
    if not shares:
        raise PrecropError("rule= needs a budget of params or of macs to find densities")
    budgets = shares.get("params"), shares.get("macs")
    found = closed_form(costs["params"], costs["macs"], *budgets, expand=expand)
    return {layer.name: float(p) for layer, p in zip(structure.layers, found, strict=True)}


def _rescaled(problem: Program, x: Floats, lower: Floats, upper: Floats) -> Floats:
    """Log ratios shifted by one number, within bounds, so that the tightest budget is used up."""
    from scipy.optimize import brentq

    def shifted(shift: float) -> Floats:
        return np.clip(x + shift, lower, upper)

    def excess(shift: float) -> float:
        units = (problem.choices.units * np.exp(shifted(shift))).tolist()
        costs = problem.costs
        return max(costs[n].continuous(units) / limit for n, limit in problem.limits.items()) - 1

    far = float(np.abs(x).max(initial=0) + np.abs([lower, upper]).max(initial=0)) + 1
    if not problem.limits or excess(far) <= 0:
        return shifted(far if problem.limits else 0.0)
    return shifted(float(brentq(excess, -far, far, xtol=1e-12)))


@dataclass(frozen=True)
class Given:
    """Widths chosen elsewhere, taken as they are.

    Widths that no named layer has stay as wide as they may.

    Attributes:
        widths: output channels by layer name.
    """

    widths: Mapping[str, int]

    def __call__(self, problem: Program) -> Solution:
        """The widths as they are given; budgets are only checked.

        Raises:
            BudgetError: the widths cost more than a budget allows.
            PrecropError: a layer cannot have its width, or two that share one ask for different
                ones.
        """
        units = self._units(problem)
        for name, limit in problem.limits.items():
            cost = problem.costs[name](units.tolist())
            if cost > limit:
                raise BudgetError(f"{name}={limit} cannot be met: the widths given cost {cost}")
        x = np.log(units / problem.choices.units)
        nearest = _nearest(problem, x, fills=False)
        multipliers = dict.fromkeys(problem.limits, 0.0)
        allocation = Allocation(x, nearest.value(x), GIVEN, 0, multipliers, ())
        return Solution(nearest, allocation, nearest.value)

    def _units(self, problem: Program) -> Integers:
        """Units of every group; layers that follow from one group come first."""
        choices = problem.choices
        units = np.minimum(choices.units, choices.upper)
        owners: dict[int, str] = {}
        layers = [layer for layer in problem.structure.layers if layer.name in self.widths]
        for layer in sorted(layers, key=lambda layer: len(produced(layer))):
            new = [group for group in produced(layer) if group not in owners]
            owners |= dict.fromkeys(new, layer.name)
            self._set(layer, new, units, choices)
            found = layer.out_channels * kept_share(produced(layer), units / choices.units)
            if abs(found - self.widths[layer.name]) > _SNAP:
                raise PrecropError(self._conflict(layer, [owners[g] for g in produced(layer)]))
        for group in np.flatnonzero(choices.floor(units.astype(float)) != units).tolist():
            name = owners[group]
            scale = self.widths[name] / units[group]
            least, most = (round(scale * n[group]) for n in (choices.lower, choices.upper))
            raise PrecropError(
                f"{name} cannot have {self.widths[name]} channels, but {least} to {most} "
                f"(expand=True allows more) with {choices.rule}"
            )
        return units

    def _set(self, layer: Layer, groups: Sequence[int], units: Integers, choices: Choices) -> None:
        """Let groups keep the one share that gives the layer its width."""
        ratios = units / choices.units
        ratios[groups] = 0.0
        missing = self.widths[layer.name] - layer.out_channels * kept_share(produced(layer), ratios)
        total = layer.out_channels * sum(produced(layer)[group] for group in groups)
        for group in groups:
            units[group] = max(1, round(missing / total * choices.units[group]))

    def _conflict(self, layer: Layer, owners: Sequence[str]) -> str:
        """Why a layer cannot have its width."""
        width = self.widths[layer.name]
        others = [name for name in owners if name != layer.name]
        if not owners:
            return f"{layer.name} keeps its {layer.out_channels} channels: it cannot have {width}"
        if not others:
            return f"{layer.name} cannot be cut to {width} of its {layer.out_channels} channels"
        return (
            f"{layer.name} cannot have {width} channels and {others[0]} "
            f"{self.widths[others[0]]}: they share a width"
        )
