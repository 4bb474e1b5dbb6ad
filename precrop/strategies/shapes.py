"""Scale widths of a given shape to the size that the budgets allow."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from precrop.solve.program import Program
from precrop.solve.relax import Allocation
from precrop.solve.structure import Floats
from precrop.strategies.strategy import Solution


def shaped(problem: Program, shape: Floats, targets: Mapping[str, float]) -> Solution:
    """Return log ratios ``shape``, all shifted by one number to the size that budgets allow."""
    lower, upper = problem.choices.log_bounds
    x = _rescaled(problem, shape, lower, upper)
    near = nearest(problem, x, fills=bool(problem.limits))
    at_cap = np.flatnonzero((upper > 0) & (x >= upper))
    multipliers = dict.fromkeys(problem.limits, 0.0)
    allocation = Allocation(x, near.value(x), "rule", 0, multipliers, tuple(at_cap.tolist()))
    return Solution(near, allocation, near.value, targets)


def nearest(problem: Program, x: Floats, *, fills: bool) -> Program:
    """Return the program that maximises minus the squared distance from ``x``."""
    return replace(problem, gain=2 * x, penalty=diagonal(np.ones(len(x))), fills=fills)


def _rescaled(problem: Program, x: Floats, lower: Floats, upper: Floats) -> Floats:
    """Shift log ratios by one number, within bounds, so that the tightest budget is used up."""
    from scipy.optimize import brentq

    def shifted(shift: float) -> Floats:
        return np.clip(x + shift, lower, upper)

    def excess(shift: float) -> float:
        return float(problem.used(shifted(shift)).max()) - 1

    far = float(np.abs(x).max(initial=0) + np.abs([lower, upper]).max(initial=0)) + 1
    if not problem.limits or excess(far) <= 0:
        return shifted(far if problem.limits else 0.0)
    return shifted(float(brentq(excess, -far, far, xtol=1e-12)))


def diagonal(entries: Floats) -> Any:
    """Return a sparse diagonal matrix."""
    from scipy.sparse import dia_array

    return dia_array((entries[None, :], [0]), shape=(len(entries), len(entries))).tocsr()
