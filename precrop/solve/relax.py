"""Solve the continuous relaxation: the best log ratios within every budget, before rounding.

The objective of `precrop.solve.program` is quadratic and every cost a sum of exponentials of
``x``, so one call of Clarabel (interior point, exponential cones) finds the optimum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from precrop.solve.program import Program
from precrop.solve.structure import Floats, Integers

SLACK = "slack"
"""Status of an allocation where no budget binds and the widest network is the optimum."""
_TOLERANCE, _TOLERATED = 1e-10, 1e-8
_ACCEPTED = ("Solved", "AlmostSolved")
"""Solver statuses: the first means that it met `_TOLERANCE`, the second only `_TOLERATED`."""
_AT_CAP, _FLAT = 1e-6, 1e-9
"""Largest distance of a log ratio that is at its bound; largest slope that counts as zero."""


@dataclass(frozen=True)
class Allocation:
    """The optimum of the continuous relaxation.

    Attributes:
        log_ratios: log of kept over original units, shape (groups,).
        objective: value of the objective there.
        status: ``slack`` if the widest network fits and is best, ``solved``, ``inaccurate`` if the
            solver missed its tolerances, or a strategy's own (``rule``, ``given``).
        iterations: number of iterations of the solver.
        multipliers: per budget (a dual) what one per cent more of it would add to the objective.
        at_cap: groups that are as wide as widening allows; empty when cropping.
    """

    log_ratios: Floats
    objective: float
    status: str
    iterations: int
    multipliers: Mapping[str, float]
    at_cap: tuple[int, ...]


def allocate(program: Program) -> Allocation:
    """Solve the continuous relaxation.

    No solver runs if the widest network fits and narrowing no group raises the objective there.
    """
    choices = program.choices
    lower, upper = choices.log_bounds
    widest = choices.upper.tolist()
    binding = [name for name, most in program.limits.items() if program.costs[name](widest) > most]
    multipliers = dict.fromkeys(program.limits, 0.0)
    x, status, iterations = upper, SLACK, 0
    free = np.flatnonzero(lower < upper)
    slope = program.gain - 2 * (program.penalty @ upper)
    if binding or (slope[free] < -_FLAT).any():
        monomials, costs, constants = _monomials(program, binding, free)
        solution = _solve(program, free, monomials, costs)
        status = "solved" if str(solution.status) in _ACCEPTED else "inaccurate"
        iterations = int(solution.iterations)
        x = lower.copy()
        x[free] = np.nan_to_num(solution.x[: len(free)], nan=-np.inf)
        x = np.clip(x, lower, upper)
        for name, dual, constant in zip(binding, solution.z, constants, strict=False):
            multipliers[name] = 0.01 * float(dual / (1 - constant))
    at_cap = np.flatnonzero((upper > 0) & (x > upper - _AT_CAP))
    return Allocation(x, program.value(x), status, iterations, multipliers, tuple(at_cap.tolist()))


def _monomials(
    program: Program, binding: Sequence[str], free: Integers
) -> tuple[list[tuple[int, ...]], Floats, Floats]:
    """Collect the distinct products of ratios (monomials) in the binding costs.

    Returns:
        The factors of every monomial as positions in ``free``; its coefficient in every cost,
        scaled so that each limit less the constant part is 1, shape (costs, monomials); the
        share of every limit that the constant part uses, shape (costs,).
    """
    position = {int(group): index for index, group in enumerate(free)}
    units = program.structure.units
    columns: dict[tuple[int, ...], int] = {(): 0}
    entries: list[tuple[int, int, float]] = []
    for row, name in enumerate(binding):
        for groups, coefficient in program.costs[name].terms.items():
            factors = tuple(position[group] for group in groups if group in position)
            share = coefficient * prod(units[group] for group in groups) / program.limits[name]
            entries.append((row, columns.setdefault(factors, len(columns)), share))
    costs = np.zeros((len(binding), len(columns)))
    for row, column, share in entries:
        costs[row, column] += share
    constants = costs[:, 0]
    return list(columns)[1:], costs[:, 1:] / (1 - constants)[:, None], constants


def _solve(
    program: Program, free: Integers, monomials: list[tuple[int, ...]], costs: Floats
) -> Any:
    """Solve the program with Clarabel in the variables ``x[free]`` and one ``t`` per monomial.

    Constraints, in this order: ``costs @ t <= 1``, ``x <= upper``, ``-x <= -lower``, and for every
    monomial the exponential cone ``exp(sum of its x) <= t`` as the triple (sum, 1, t).
    """
    import clarabel
    from scipy.sparse import csc_array, triu

    width, count, limits = len(free), len(monomials), len(costs)
    lower, upper = (bounds[free] for bounds in program.choices.log_bounds)
    owners = np.array([at for at, factors in enumerate(monomials) for _ in factors], int)
    factors = np.array([factor for factors in monomials for factor in factors], int)
    cones = limits + 2 * width + 3 * np.arange(count)
    priced = np.nonzero(costs)
    rows = [priced[0], limits + np.arange(2 * width), cones[owners], cones + 2]
    columns = [priced[1] + width, np.tile(np.arange(width), 2), factors, width + np.arange(count)]
    values = [costs[priced], np.ones(width), -np.ones(width + len(owners) + count)]
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    left = csc_array(entries, shape=(limits + 2 * width + 3 * count, width + count))
    right = np.concatenate([np.ones(limits), upper, -lower, np.tile([0.0, 1.0, 0.0], count)])
    square = triu(2 * program.penalty[free][:, free], format="coo")
    square.resize(width + count, width + count)
    slope = np.concatenate([-program.gain[free], np.zeros(count)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.direct_solve_method = "qdldl"
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = _TOLERANCE
    settings.reduced_tol_gap_abs = settings.reduced_tol_gap_rel = _TOLERATED
    settings.reduced_tol_feas = _TOLERATED
    kinds = [clarabel.NonnegativeConeT(limits + 2 * width)]
    kinds += [clarabel.ExponentialConeT()] * count
    return clarabel.DefaultSolver(square.tocsc(), slope, left, right, kinds, settings).solve()
