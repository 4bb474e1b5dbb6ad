"""Find widths that come close to given densities."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from precrop.errors import PrecropError
from precrop.linear.densities import check_densities
from precrop.read.network import Network
from precrop.solve.program import BALANCE, Program, balance_penalty, end_shares
from precrop.solve.relax import allocate
from precrop.solve.structure import Floats
from precrop.strategies.shapes import diagonal
from precrop.strategies.strategy import Solution, Solver, Strategy

_NARROWEST = 1e-9
_SHIFT = 1e-4
"""Precision of the log factor that raises targets; rounding spends what it leaves."""


@dataclass(frozen=True)
class Match(Strategy):
    """The widths whose densities come closest to given ones: least squares of the logarithms.

    The balance term is added, as in the balanced program. Densities set the shape and budgets the
    size: if the closest widths leave every budget unused, all targets are raised by one factor,
    but none beyond 1, until a budget is used up.

    A target of at most one unit at both ends means a collapsed layer, which says nothing about its
    neighbours: it is left out, and widths that it shares with no fitted layer become as narrow as
    allowed. Layers without a target are left out, too; widths of theirs alone aim to stay.

    Attributes:
        densities: densities by layer name, in (0, 1].
        balance: weight of the balance term.
    """

    densities: Mapping[str, float]
    balance: float = BALANCE
    rule = "balanced"
    budgeted = False  # densities alone say how large the network is

    def solver(self, network: Network) -> Solver:
        """Return this strategy with checked densities.

        Raises:
            PrecropError: there are none, one is outside (0, 1], or a layer does not exist.
        """
        return replace(self, densities=checked(self.densities, network))

    def __call__(self, problem: Program) -> Solution:
        """Solve the least-squares program within the budgets."""
        fit = _LeastSquares(problem, self.densities, self.balance)
        shift = fit.shift()
        found = fit.program(shift)
        allocation = allocate(found)
        report = {"collapsed": fit.collapsed, "target_factor": math.exp(shift)}
        return Solution(found, allocation, partial(fit.value, shift), self.densities, report)


class _LeastSquares:
    """Squared distance of log densities from targets, which any one factor may raise."""

    def __init__(self, problem: Program, targets: Mapping[str, float], balance: float) -> None:
        self.problem = problem
        structure, choices = problem.structure, problem.choices
        layers, ends = structure.layers, sum(end_shares(structure))
        named = np.array([layer.name in targets for layer in layers], bool)
        logs = np.array([math.log(targets.get(layer.name, 1.0)) for layer in layers])
        varies = np.array([layer.varies for layer in layers], bool)
        one_unit = ends @ np.log(1 / choices.units)
        collapsed = named & varies & (logs <= one_unit + _NARROWEST)
        counted = named & varies & ~collapsed
        self.collapsed = [layers[index].name for index in np.flatnonzero(collapsed)]
        self.ends, self.logs = ends[counted], logs[counted]
        self.floored = (_touched(ends[collapsed]) & ~_touched(ends[counted])).astype(float)
        idle = ~_touched(ends[named])
        self.lower, _ = choices.log_bounds
        self.penalty = balance * balance_penalty(structure, counted)
        self.square = self.ends.T @ self.ends + self.penalty + diagonal(self.floored + idle)

    def program(self, shift: float) -> Program:
        """Return the program that fits the targets times ``exp(shift)``."""
        wanted = np.minimum(self.logs + shift, 0.0)
        gain = 2 * (self.ends.T @ wanted + self.floored * self.lower)
        fills = bool(self.problem.limits)
        return replace(self.problem, gain=gain, penalty=self.square, fills=fills)

    def value(self, shift: float, x: Floats) -> float:
        """Return the negative sum of the squared distance and the balance term."""
        off = self.ends @ x - np.minimum(self.logs + shift, 0.0)
        return -float(off @ off + x @ (self.penalty @ x))

    def shift(self) -> float:
        """Return by how much all log targets must rise to use up a budget."""
        from scipy.optimize import brentq

        def excess(shift: float) -> float:
            free = replace(self.program(shift), limits={})
            return float(self.problem.used(allocate(free).log_ratios).max()) - 1

        most = float(-self.logs.min(initial=0.0))
        if not self.problem.limits or excess(0.0) >= 0:
            return 0.0
        return most if excess(most) <= 0 else float(brentq(excess, 0.0, most, xtol=_SHIFT))


def _touched(ends: Any) -> Any:
    """Return which groups occur in any of these layers, shape (groups,)."""
    return np.asarray(ends.sum(axis=0)).ravel() > 0


def checked(densities: Mapping[str, float], network: Network) -> dict[str, float]:
    """Check densities of a network's layers and return them as floats.

    Raises:
        PrecropError: there are none, one is outside (0, 1], or a layer does not exist.
    """
    if not densities:
        raise PrecropError("densities= is empty: give {layer name: density}")
    return check_densities(densities, [layer.name for layer in network.layers])
