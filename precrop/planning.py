"""Chooses the widths of a network that was read: allocate, round, fit, and hold what won't fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from precrop.errors import BudgetError
from precrop.fit.fitting import Fit, Fitter
from precrop.fit.holding import Holds
from precrop.plans.plan import BudgetPlan
from precrop.read.axes import Tie
from precrop.read.explaining import explained
from precrop.read.lower import CostModel, further_bounds, lower
from precrop.read.network import Network, Sizes
from precrop.solve.budgets import Budget, parse_budgets
from precrop.solve.program import Choices, Program, produced, program, rows, uneven_layers
from precrop.solve.relax import SLACK
from precrop.solve.rounding import round_units
from precrop.solve.structure import Structure
from precrop.strategies.strategy import GIVEN, Solution, Solver

# A network that still differs from its prediction after this many plans is kept as it is.
MAX_ATTEMPTS = 200
# So often one place is held alone, since that may settle others; then all that differ are at once.
ONE_BY_ONE = 12
USED = 0.98
"""Share of the budget that binds below which the steps of widths count as too large for it."""


@dataclass(frozen=True)
class Choice:
    """Widths that were chosen, how, and what makes a network have them."""

    divisor: int
    structure: Structure
    ties: Sequence[Tie]
    units: list[int]
    sizes: Sizes
    fit: Fit
    solution: Solution
    budgets: dict[str, BudgetPlan]


def _whole(solution: Solution) -> tuple[Solution, list[int]]:
    """Whole units; parts of one layer keep an odd original width all together or not at all.

    A part that has no multiple within its bounds stays as it is all the same.
    """
    while True:
        problem, allocation = solution.problem, solution.allocation
        units = round_units(problem, allocation.log_ratios, allocation.multipliers)
        choices = problem.choices
        uneven = uneven_layers(problem.structure, choices, units)
        parts = {group for layer in uneven for group in produced(layer)}
        odd = (units == choices.units) & (units % choices.step > 0) & (choices.least <= units)
        barred = [group for group in sorted(parts) if odd[group] and choices.original[group]]
        if not barred or allocation.status == GIVEN:
            report = {"uneven": [layer.name for layer in uneven]} if uneven else {}
            return replace(solution, report={**solution.report, **report}), units.tolist()
        solution = replace(
            solution, problem=replace(problem, choices=choices.without_originals(barred))
        )


def _uses_up(solution: Solution, units: Sequence[int]) -> bool:
    """Whether whole units use the budget that binds as the continuous widths do, or nearly so.

    Of several that bind it is the one with the highest price.
    """
    problem, allocation = solution.problem, solution.allocation
    if allocation.status == SLACK:
        return True
    aimed = problem.used((problem.choices.units * np.exp(allocation.log_ratios)).tolist())
    prices = np.array([allocation.multipliers[name] for name in problem.limits])
    binding = int(np.argmax(prices if prices.any() else aimed))
    return bool(problem.used(units)[binding] >= USED * min(1.0, aimed[binding]))


@dataclass
class Chooser:
    """Repeats until the fitted network is as predicted; each attempt holds one more place.

    Attributes:
        network: as it was read.
        asked: per cost the budget, as the user wrote it.
        models: of the costs beside parameters and MACs.
        options: those of `precrop.solve.program.program`.
        solver: from the program to continuous widths.
        divisors: of all widths; tried in turn until one meets the budgets and uses them. Where
            there are several, layers too narrow for one have multiples of its halves.
    """

    network: Network
    asked: Mapping[str, Budget | None]
    models: Mapping[str, CostModel]
    options: Mapping[str, Any]
    solver: Solver
    divisors: Sequence[int]
    _fitter: Fitter = field(init=False)
    _holds: Holds = field(init=False)
    _most_read: dict[str, int] = field(default_factory=dict)
    _narrow_first: bool = False
    _message: str = ""
    _differed: int = 0

    def __post_init__(self) -> None:
        """Nothing is held yet."""
        self._fitter = Fitter(self.network)
        self._holds = Holds(self.network, self._fitter)

    def choose(self) -> Choice:
        """Allocate, round and fit; where the fitted network is not as predicted, hold and repeat.

        Raises:
            BudgetError: a budget is below the cost of the narrowest network.
        """
        for _ in range(MAX_ATTEMPTS):
            choice = self._attempt()
            if choice is not None:
                return choice
        while True:  # at most once more for every budget that is refused: nothing is left to hold
            self._holds.everything(f"the network differs from its prediction: {self._message}")
            choice = self._attempt()
            if choice is not None:
                return choice

    def _attempt(self) -> Choice | None:
        """Widths that fit; None where something had to be held, so that all is done again."""
        structure, ties = lower(self.network, self.models, self._most_read)
        limits = self._limits(structure)
        found = self._large_steps(structure, limits)
        if found is None:
            problem = self._problem(structure, ties, limits)
            if problem is None:
                return None
            found = _whole(self.solver(problem))
        solution, units = found
        sizes = self.network.sizes(ties, units)
        bounds = further_bounds(self.network, sizes, self._most_read)
        if bounds:
            self._most_read |= bounds
            return None
        fit = self._fitted(sizes)
        if fit is None:
            return None
        budgets = self._budgets(structure, units, limits, solution)
        divisor = solution.problem.choices.divisor
        return Choice(divisor, structure, ties, units, sizes, fit, solution, budgets)

    def _large_steps(
        self, structure: Structure, limits: Mapping[str, int]
    ) -> tuple[Solution, list[int]] | None:
        """Widths in multiples of the first divisor that will do, but for the last; None if none."""
        # Once a budget was refused, the narrowest network decides, which has the smallest steps.
        for divisor in () if self._narrow_first else self.divisors[:-1]:
            try:
                problem = program(structure, limits, divisor=divisor, halved=True, **self.options)
            except BudgetError:
                continue
            solution, units = _whole(self.solver(problem))
            if _uses_up(solution, units):
                return solution, units
        return None

    def _limits(self, structure: Structure) -> dict[str, int]:
        bases = {name: self._base(structure, name) for name in structure.costs}
        return parse_budgets(self.asked, bases) if self.asked else {}

    def _base(self, structure: Structure, name: str) -> int:
        """What the original costs, with what the built network is to be without."""
        more = self.network.left_out_params if name == "params" else 0
        return structure.costs[name](structure.units) + more

    def _problem(
        self, structure: Structure, ties: Sequence[Tie], limits: Mapping[str, int]
    ) -> Program | None:
        """The program; None if something was held.

        The least cost that a message names must be possible, so the narrowest network is fitted
        before a budget is refused. Wider networks may have held what that one does not need: then
        all begins anew with it.
        """
        problem, refused, divisor = None, None, self.divisors[-1]
        try:
            explain = partial(explained, self.network, structure, ties)
            problem = program(structure, limits, divisor=divisor, explain=explain, **self.options)
        except BudgetError as error:
            refused = error
        if refused or self._narrow_first:
            choices = Choices.of(structure.groups, divisor, self.options["min_width"])
            if self._fitted(self.network.sizes(ties, choices.lower.tolist())) is None:
                return None
        if refused is not None:
            if self._narrow_first or not self._holds.levels:
                raise refused
            self._narrow_first = True
            self._holds = Holds(self.network, self._fitter)
            self.network.read()
        return problem

    def _fitted(self, sizes: Sizes) -> Fit | None:
        """What gives a network these sizes; where that is not as predicted, hold it."""
        fit = self._fitter.fit(sizes)
        if fit.mismatch is None:
            return fit
        self._message = fit.mismatch.message
        self._differed += 1
        further = self._fitter.further(fit, sizes) if self._differed > ONE_BY_ONE else []
        self._holds.hold(fit.mismatch)
        self._holds.hold_too(further)
        return None

    def _budgets(
        self,
        structure: Structure,
        units: Sequence[int],
        limits: Mapping[str, int],
        solution: Solution,
    ) -> dict[str, BudgetPlan]:
        budgets = {}
        for name, limit in limits.items():
            cost, request = structure.costs[name], self.asked[name]
            assert request is not None
            prices = solution.allocation.multipliers
            multiplier = sum(prices[row] for row in rows(name, cost))
            used, base = cost(units), self._base(structure, name)
            budgets[name] = BudgetPlan(request, limit, used, base, multiplier)
        return budgets
