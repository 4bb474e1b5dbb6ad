"""What a strategy is: from the program of a network to continuous widths."""

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
"""Status of widths that were given, not solved for."""


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


Solver = Callable[[Program], Solution]


@dataclass(frozen=True)
class Strategy:
    """How the widths of a plan are found; subclasses are values too.

    A subclass either is called itself, or overrides `solver`. It gets the program with the
    structure, the costs and their limits, the bounds and steps of all widths, and the penalty of
    the balance term; whole units follow from what it returns.
    """

    balance = BALANCE
    """Weight of the balance term in the program that it gets, gamma in docs/method.md."""
    follows_every_call = False
    """Whether repeated steps of recurrent layers must all be read."""

    @property
    def budgeted(self) -> bool:
        """Whether it needs a budget."""
        return True

    def record(self) -> dict[str, Any]:
        """What a plan says of it among its options: its balance, objective and rule if it has any.

        By default the rule is the name of its class. A strategy of one's own may have attributes of
        these names that mean something else: what is no number or text is not recorded.
        """
        usual = {"balance": BALANCE, "objective": "synexp", "rule": type(self).__name__}
        own = {name: getattr(self, name, None) for name in usual}
        return usual | {name: v for name, v in own.items() if isinstance(v, (int, float, str))}

    def solver(self, network: Network) -> Solver:
        """The strategy for one network.

        Raises:
            PrecropError: it names layers that the network does not have.
        """
        return self

    def __call__(self, problem: Program) -> Solution:
        """Widths within every budget, before rounding."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__ or solver")


def solver_of(strategy: Strategy, network: Network) -> Solver:
    """The solver of a strategy for one network; what a user's own returns is checked.

    Raises:
        PrecropError: the strategy fails; so does its solver, which may also return no widths.
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
    """What a solution is instead of one; None if nothing is wrong with it."""
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
