"""The optimisation problem: `solve.relax` solves its relaxation, `solve.rounding` whole units.

With ``x`` the log ratios of the groups it is

    maximise    sum_l w_l log p_l - balance * sum_l (x_in - x_out)^2
    subject to  cost_k(units * exp(x)) <= limit_k,   log(lower / units) <= x <= log(upper / units)

where ``log p_l`` is the share-weighted sum of the log ratios at both ends of layer ``l``. Every
cost is a sum of exponentials of ``x`` with positive coefficients, so the relaxation is convex. A
cost that is the maximum of several such sums becomes one constraint for each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precrop.errors import BudgetError, PrecropError, brief
from precrop.solve.budgets import bound
from precrop.solve.choices import Choices
from precrop.solve.structure import Cost, Floats, Peak, Structure

BALANCE = 1.0
"""Default weight of the balance term (gamma in docs/method.md)."""

EXPANSION = 4.0
"""Largest ratio of a width to the original where widening is allowed."""

LARGEST = 10**9
"""Upper bound on divisors, minimum widths, caps and balances; more would overflow the solver."""


@dataclass(frozen=True)
class Program:
    """The objective ``gain @ x - x @ penalty @ x`` and the constraints on it.

    Attributes:
        structure: the network.
        costs: the polynomials that are limited, by the names that `rows` gives them.
        limits: the largest allowed value of each.
        choices: the units that every group may keep.
        gain: linear part of the objective, shape (groups,).
        penalty: quadratic part, such as the balance term: sparse, shape (groups, groups).
        fills: whether rounding spends the rest of the budgets even if the objective falls, as it
            must where the objective measures the distance from a shape and budgets set the size.
    """

    structure: Structure
    costs: Mapping[str, Cost]
    limits: Mapping[str, int]
    choices: Choices
    gain: Floats
    penalty: Any
    fills: bool = False

    def weighed(self, weights: Floats) -> "Program":
        """Return the problem with other weights of the log densities, scaled to mean 1."""
        scale = mean_one(self.structure, weights)
        return replace(self, gain=scale * (sum(end_shares(self.structure)).T @ weights))

    def used(self, x: Floats) -> Floats:
        """Return the share of every limit that is used at log ratios ``x``."""
        units, limits = (self.choices.units * np.exp(x)).tolist(), self.limits.items()
        return np.array([self.costs[name](units) / most for name, most in limits])

    def value(self, x: Floats) -> float:
        """Return the objective at log ratios ``x``."""
        return float(self.gain @ x - x @ (self.penalty @ x))


def program(
    structure: Structure,
    limits: Mapping[str, int],
    *,
    divisors: Sequence[int] = (1,),
    min_width: int = 1,
    cap: float = 1.0,
    balance: float = BALANCE,
    explain: Callable[[str, Sequence[int], str], str] | None = None,
) -> Program:
    """State the problem of finding widths within ``limits``, with equal weights for all layers.

    Args:
        structure: the network.
        limits: largest allowed value by cost name, such as ``{"params": 1_000_000}``.
        divisors: every layer's channels are a multiple of the first, or as in the original; groups
            too narrow for it follow a later one, as in `Choices.of`.
        min_width: no layer gets narrower, unless the original is.
        cap: largest ratio of a width to the original; 1 for cropping.
        balance: weight of the balance term, at least 0; large means uniform widths.
        explain: tells for messages what makes up the least cost, from its name, units and rule.

    Raises:
        BudgetError: a limit is below the cost of the narrowest network allowed.
        PrecropError: an option is out of range.
    """
    _check_options(divisor=divisors[0], min_width=min_width, cap=cap, balance=balance)
    choices = Choices.of(structure.groups, divisors, min_width, cap)
    least = choices.lower.tolist()
    costs: dict[str, Cost] = {}
    row_limits: dict[str, int] = {}
    for name, limit in limits.items():
        if (needed := structure.costs[name](least)) > limit:
            why = explain(name, least, choices.rule) if explain else ""
            raise BudgetError(
                f"{name}={bound(name, limit, up=False)} cannot be met: the least possible with "
                f"{choices.rule}{why and f' ({why})'} is {bound(name, needed, up=True)}",
                needed,
            )
        parts = rows(name, structure.costs[name])
        costs |= parts
        row_limits |= dict.fromkeys(parts, limit)
    penalty = float(balance) * balance_penalty(structure)
    flat = Program(structure, costs, row_limits, choices, np.zeros(len(structure.groups)), penalty)
    return flat.weighed(np.ones(len(structure.layers)))


def _check_options(**options: Any) -> None:
    """Refuse a divisor, minimum width, cap or balance that is out of range."""
    for name, value in options.items():
        whole, least = name in ("divisor", "min_width"), int(name != "balance")
        right = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        if not (right and least <= value <= LARGEST):
            noun = "whole number" if whole else "number"
            raise PrecropError(
                f"{name}={brief(value)} makes no sense: write a {noun} from {least} to {LARGEST:,}"
            )


def rows(name: str, cost: Cost | Peak) -> dict[str, Cost]:
    """Return the polynomials that a limit on a cost constrains, each under its own row name."""
    if isinstance(cost, Cost):
        return {name: cost}
    return {f"{name} {moment}": part for moment, part in enumerate(cost.parts)}


def end_shares(structure: Structure) -> tuple[Any, Any]:
    """Return each group's share of every layer's input, and output: sparse (layers, groups)."""
    layers, width = structure.layers, len(structure.groups)
    inputs = _shares([layer.inputs for layer in layers], width)
    return inputs, _shares([layer.outputs for layer in layers], width)


def _shares(ends: Sequence[Mapping[int, float]], width: int) -> Any:
    from scipy.sparse import csr_array

    columns = [group for end in ends for group in end]
    shares = [share for end in ends for share in end.values()]
    starts = np.cumsum([0, *map(len, ends)])
    return csr_array((np.array(shares, float), columns, starts), shape=(len(ends), width))


def balance_penalty(structure: Structure, counted: NDArray[np.bool_] | None = None) -> Any:
    """Return the matrix of the balance term at weight 1, sparse, shape (groups, groups).

    ``counted`` selects the layers that take part, shape (layers,); all by default.
    """
    inputs, outputs = end_shares(structure)
    both = np.array([bool(layer.inputs and layer.outputs) for layer in structure.layers], bool)
    chosen = np.flatnonzero(both if counted is None else both & counted)
    differences = inputs[chosen] - outputs[chosen]
    return differences.T @ differences


def mean_one(structure: Structure, weights: Floats) -> float:
    """Return the factor that scales weights, shape (layers,), to mean 1 over layers that vary.

    This makes ``balance`` mean the same for every objective.
    """
    variable = np.array([layer.varies for layer in structure.layers], bool)
    total = float(weights[variable].sum())
    return float(variable.sum()) / total if total > 0 else 1.0
