"""Rules that choose densities from the shapes of layers alone.

All but SynExp's define a family of densities that grow with a single number, the level, which is
raised until a budget is used up.
"""

from collections.abc import Callable

import numpy as np

from precrop.errors import BudgetError
from precrop.linear.closed_form import closed_form, layer_costs
from precrop.pruning.problem import Problem
from precrop.solve.structure import Floats

CLASSIFIER_SHARE = 0.2
"""Smallest density of the classifier under `uniform_plus`."""
_LOG_LEVELS = (-60.0, 60.0)
"""Bounds on the logarithm of the level that hold for every family of densities."""


def highest_synexp(problem: Problem) -> dict[str, float]:
    """The densities with the highest SynExp within the budgets (2203.02549): `closed_form`."""
    if _fits(problem):
        return dict.fromkeys(problem.layers, 1.0)
    return _named(problem, closed_form(_costs(problem), problem.limits))


def uniform(problem: Problem) -> dict[str, float]:
    """The same density for every layer: the largest that every budget allows."""
    return _highest(problem, lambda level: np.full(len(problem.layers), min(1.0, level)))


def uniform_plus(problem: Problem) -> dict[str, float]:
    """Uniform, except for a dense stem and a classifier that keeps at least a fifth.

    Gale et al. 2019 (1902.09574); budgets are met as in the code of Lee et al. 2021 (2010.07611).
    That of Liu et al. 2022 (2202.02643) has the same two floors and misses its budget a little.
    RigL's "uniform" has the dense stem and not the classifier's floor.

    Raises:
        BudgetError: the stem and a fifth of the classifier exceed a budget.
    """
    names = list(problem.layers)
    floor = np.zeros(len(names))
    floor[names.index(problem.classifier)] = CLASSIFIER_SHARE
    floor[names.index(problem.stem)] = 1.0
    for name, cost in _costs(problem).items():
        least, limit = cost @ floor, problem.limits.get(name, np.inf)
        if least >= limit and not _fits(problem):
            raise BudgetError(
                f"{name}={limit} is too small for uniform_plus: its stem and a fifth of its "
                f"classifier take {least:.0f} already"
            )
    return _highest(problem, lambda level: np.maximum(floor, min(1, level)))


def erk(problem: Problem) -> dict[str, float]:
    """Erdős–Rényi-Kernel: densities proportional to (in + out + kernel) / (in · out · kernel).

    Evci et al. 2020 (RigL, 1911.11134) with power scale 1: layers that would exceed density 1 stay
    dense and the rest is scaled up. Sums and products are over the axes of the weight tensor, as in
    the official code. That keeps MobileNets' depthwise layers, and some networks' stem, dense and
    outside the budget; here both are layers like any other. A depthwise layer counts one input
    channel, which is our reading of the formula.
    """
    weights = problem.weights()
    shapes = [weights[name].shape for name in problem.layers]
    raw = np.array([sum(shape) / np.prod(shape) for shape in shapes])
    return _highest(problem, lambda level: np.minimum(1, level * raw))


def igq(problem: Problem) -> dict[str, float]:
    """Ideal gas quotas: ``p_l = 1 / (1 + F n_l)`` with one force F for all layers.

    Vysogorets and Kempe 2023 (2107.02306): layers are cylinders of gas that one force compresses.
    """
    weights = _costs(problem)["params"]
    return _highest(problem, lambda level: level / (level + weights))


def _highest(problem: Problem, family: Callable[[float], Floats]) -> dict[str, float]:
    """Return the densities of the highest level within all budgets; all 1 if the network fits."""
    from scipy.optimize import brentq

    costs = _costs(problem)

    def excess(log_level: float) -> float:
        densities = family(float(np.exp(log_level)))
        used = [costs[name] @ densities / limit for name, limit in problem.limits.items()]
        return float(max(used)) - 1

    if _fits(problem):
        return dict.fromkeys(problem.layers, 1.0)
    return _named(problem, family(float(np.exp(brentq(excess, *_LOG_LEVELS, xtol=1e-14)))))


def _fits(problem: Problem) -> bool:
    """Return whether the dense network is within every budget."""
    return all(problem.totals[name] <= limit for name, limit in problem.limits.items())


def _costs(problem: Problem) -> dict[str, Floats]:
    return layer_costs(problem.layers.values())


def _named(problem: Problem, densities: Floats) -> dict[str, float]:
    return dict(zip(problem.layers, densities.tolist(), strict=True))
