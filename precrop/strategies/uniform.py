"""Uniform width, the baseline of every method, and comparisons of a plan with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precrop.solve.program import Program
from precrop.solve.structure import Cost, Floats
from precrop.strategies.shapes import shaped
from precrop.strategies.strategy import Solution, Strategy

_LISTED = 3
_REAL = 1e-9
"""Imaginary part, relative to its magnitude, up to which a root counts as real."""
_MANY_CLASSES = 50
_STARVED = 0.85
"""Fraction of uniform width's share below which a classifier's input counts as starved."""


@dataclass(frozen=True)
class Uniform(Strategy):
    """The same share of every width: a width multiplier that uses the tightest budget up."""

    rule = "uniform"

    def __call__(self, problem: Program) -> Solution:
        """Find the multiplier; rounding then comes as close to it as the budgets allow."""
        return shaped(problem, np.zeros(len(problem.structure.groups)), {})


def uniform_share(program: Program) -> float:
    """Return the share of every width that uses up the tightest budget; 1 where none binds.

    Bounds and steps of widths are ignored.
    """
    units = program.structure.units
    shares = [_share(program.costs[row], limit, units) for row, limit in program.limits.items()]
    widening = bool((program.choices.upper > program.choices.units).any())
    return min(shares, default=1.0) if widening else min([1.0, *shares])


def _share(cost: Cost, limit: int, units: Sequence[int]) -> float:
    """Return the share of all units at which a cost (a polynomial in it) reaches its limit."""
    by_degree = np.zeros(1 + max(map(len, cost.terms), default=0))
    for groups, coefficient in cost.terms.items():
        by_degree[len(groups)] += coefficient * math.prod(units[group] for group in groups)
    if not by_degree[1:].any():
        return math.inf
    by_degree[0] -= limit
    # All other coefficients are positive, so at most one root is positive.
    roots = np.roots(by_degree[::-1])
    return max((float(r.real) for r in roots if abs(r.imag) <= _REAL * abs(r)), default=0.0)


def beside_uniform(program: Program, x: Floats) -> dict[str, Any]:
    """Compare log ratios ``x`` with uniform width within the same budgets.

    Returns:
        ``share``: the share of every width that uniform width keeps; ``gain``: by how much the
        objective of ``x`` is higher; ``apart``: the root mean square difference of the log ratios,
        where 0.1 is about 10% of a width; ``most``: the layers that differ most. Empty where no
        width can change or no budget is given.
    """
    share = uniform_share(program)
    free = np.flatnonzero(program.choices.lower < program.choices.upper)
    if not program.limits or not len(free) or not 0 < share < math.inf:
        return {}
    uniform = np.zeros(len(x))
    uniform[free] = math.log(share)
    differences = np.abs(x - uniform)[free]
    most = free[np.argsort(-differences, kind="stable")[:_LISTED]]
    return {
        "share": share,
        "gain": program.value(x) - program.value(uniform),
        "apart": float(np.sqrt((differences**2).mean())),
        "most": [program.structure.groups[group].name for group in most],
    }


def starved_classifier(program: Program, x: Floats) -> dict[str, Any]:
    """Report the last layer if a budget of parameters alone narrows its input far below the rest.

    A classifier of many classes has many parameters per input channel, so such a budget cuts there
    first. NATS-Bench shows no gain on many classes then (`precrop judge`); in training it did no
    harm (results/README.md).
    """
    layer = next(reversed(program.structure.layers), None)
    if layer is None or not layer.inputs or layer.outputs or set(program.limits) != {"params"}:
        return {}
    kept = sum(share * math.exp(x[group]) for group, share in layer.inputs.items())
    kept, uniform = kept / sum(layer.inputs.values()), uniform_share(program)
    if layer.out_channels < _MANY_CLASSES or kept >= _STARVED * uniform:
        return {}
    return {"layer": layer.name, "classes": layer.out_channels, "kept": kept, "uniform": uniform}
