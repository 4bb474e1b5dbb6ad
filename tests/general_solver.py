"""The programs as cvxpy states and solves them: an oracle for ours."""

from typing import Any

import cvxpy
import numpy as np

from precrop.solve.program import Program
from precrop.solve.structure import Floats
from tests.structures import terms_of


def maximised(problem: Program, x: Any, objective: Any) -> tuple[float, Floats]:
    """The largest value of an objective of log ratios ``x`` within the bounds and the limits."""
    structure, units = problem.structure, problem.choices.units
    lower, upper = problem.choices.lower / units, problem.choices.upper / units
    rules = [x >= np.log(lower), x <= np.log(upper)]
    for name, limit in problem.limits.items():
        exponents = []
        for key, coefficient in terms_of(structure.costs[name]).items():
            scale = coefficient * np.prod([float(units[g]) for g in key])
            exponents.append(np.log(scale / limit) + sum(x[g] for g in key))
        rules.append(cvxpy.log_sum_exp(cvxpy.hstack(exponents)) <= 0)
    statement = cvxpy.Problem(cvxpy.Maximize(objective), rules)
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    statement.solve(solver="CLARABEL", **tight)
    value: Floats = x.value
    return float(statement.value), value
