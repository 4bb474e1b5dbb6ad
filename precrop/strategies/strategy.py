"""The interface of strategies, which find continuous widths for a network's program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precrop.errors import PrecropError, brief
from precrop.own import calling_own, is_ours
from precrop.read.network import Network
from precrop.solve.program import BALANCE, Program
from precrop.solve.relax import Allocation
from precrop.solve.structure import Floats

GIVEN = "given"
"""Status of an allocation whose widths were given, not solved for."""


@dataclass(frozen=True)
class Solution:
    """Continuous widths, and the program whose objective guides their rounding.

    Attributes:
        problem: the program that `precrop.solve.rounding` gets.
        allocation: the widths.
        value: the strategy's true objective, as a function of log ratios.
        targets: target densities by layer name, if there are any.
        report: further entries for the plan's ``solver``.
    """

    problem: Program
    allocation: Allocation
    value: Callable[[Floats], float]
    targets: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


Solver = Callable[[Program], Solution]


@dataclass(frozen=True)
class Strategy:
    """A way to find the widths of a plan; immutable, as subclasses should be.

    A subclass defines ``__call__``, or overrides `solver`. Either gets the program: the structure,
    the costs and their limits, the bounds and steps of all widths, and the penalty of the balance
    term. The `Solution` that it returns is then rounded to whole units.
    """

    balance = BALANCE
    """Weight of the balance term in the program (gamma in docs/method.md)."""
    follows_every_call = False
    """Whether every repeated step of a recurrent layer must be read."""

    @property
    def budgeted(self) -> bool:
        """Whether the strategy needs a budget."""
        return True

    def record(self) -> dict[str, Any]:
        """Return the balance, objective and rule that a plan records among its options.

        By default the rule is the name of the class. A user's strategy may have attributes with
        these names but another meaning, so only numbers and strings are recorded.
        """
        usual = {"balance": BALANCE, "objective": "synexp", "rule": type(self).__name__}
        own = {name: getattr(self, name, None) for name in usual}
        return usual | {name: v for name, v in own.items() if isinstance(v, (int, float, str))}

    def solver(self, network: Network) -> Solver:
        """Return the strategy, prepared for one network.

        Raises:
            PrecropError: it names layers that the network does not have.
        """
        return self

    def __call__(self, problem: Program) -> Solution:
        """Return widths within every budget, before rounding."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__ or solver")


def solver_of(strategy: Strategy, network: Network) -> Solver:
    """Return a strategy's solver for one network; what a user's strategy returns is checked.

    Raises:
        PrecropError: the strategy fails. Its solver raises this if it fails or returns no widths.
    """
    kind = type(strategy)
    failure = f"strategy {kind.__name__} fails"
    with calling_own(failure, kind):
        solver = strategy.solver(network)

    def solve(problem: Program) -> Solution:
        with calling_own(failure, kind):
            solution = solver(problem)
            wrong = None if is_ours(kind) else _wrong(solution)
        if wrong is not None:
            raise PrecropError(f"strategy {kind.__name__} {wrong}")
        return solution

    return solve


def _wrong(solution: Any) -> str | None:
    """Return what is wrong with a solution, as the end of a message; None if nothing is."""
    if not isinstance(solution, Solution):
        return f"must return a Solution, as `shaped` does, not {brief(solution)}"
    problem, allocation = solution.problem, solution.allocation
    number = len(problem.structure.groups)
    prices = [allocation.multipliers.get(name, np.nan) for name in problem.limits]
    vectors: list[tuple[str, Any, int]] = [
        ("log ratios", allocation.log_ratios, number),
        ("slopes in its program's gain", problem.gain, number),
        ("multipliers of the limits", prices, len(prices)),
    ]
    for name, values, count in vectors:
        found = np.asarray(values, np.float64)
        if found.shape != (count,) or not np.isfinite(found).all():
            return f"must give {count} {name}, all finite numbers: it gives {brief(values)}"
    value = solution.value(allocation.log_ratios)
    return None if np.isfinite(value) else f"gives {brief(value)} as the value of its widths"
