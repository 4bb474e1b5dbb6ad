"""Chooses the widths of a network that was read: allocate, round, fit, and hold what won't fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from precrop.errors import BudgetError
from precrop.fit.constraints import Constraints, constrained, tightened
from precrop.fit.fitting import Fit, Fitter
from precrop.fit.lessons import Lessons
from precrop.plans.multiples import uneven_layers
from precrop.plans.plan import BudgetPlan
from precrop.read.explaining import explained
from precrop.read.lower import CostModel, Lowered, further_bounds, lower
from precrop.read.network import Network, Sizes
from precrop.solve.budgets import Budget, parse_budgets
from precrop.solve.choices import Choices
from precrop.solve.program import Program, program, rows
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

    lowered: Lowered
    units: list[int]
    sizes: Sizes
    fit: Fit
    solution: Solution
    budgets: dict[str, BudgetPlan]

    @property
    def structure(self) -> Structure:
        """Of the network as it is constrained."""
        return self.lowered.structure


def _whole(solution: Solution) -> tuple[Solution, list[int]]:
    """Whole units; parts of one layer keep an odd original width all together or not at all.

    A part that has no multiple within its bounds stays as it is all the same.
    """
    while True:
        problem, allocation = solution.problem, solution.allocation
        units = round_units(problem, allocation.log_ratios, allocation.multipliers)
        choices = problem.choices
        uneven = uneven_layers(problem.structure, choices, units)
        parts = {group for layer in uneven for group in layer.produced}
        odd = (units == choices.units) & (units % choices.step > 0) & (choices.least <= units)
        barred = [group for group in sorted(parts) if odd[group]]
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
    aimed = problem.used(allocation.log_ratios)
    used = problem.used(np.log(units / problem.choices.units))
    prices = np.array([allocation.multipliers[name] for name in problem.limits])
    binding = int(np.argmax(prices if prices.any() else aimed))
    return bool(used[binding] >= USED * min(1.0, aimed[binding]))


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of the widths, and how they are found.

    Attributes:
        budgets: per cost, as the user wrote it.
        models: of the costs beside parameters and MACs.
        options: those of `precrop.solve.program.program`.
        divisors: of all widths, each a multiple of the next; tried in turn until one meets the
            budgets and uses them. Layers too narrow for it have multiples of a later one.
    """

    budgets: Mapping[str, Budget]
    models: Mapping[str, CostModel]
    options: Mapping[str, Any]
    solver: Solver
    divisors: Sequence[int]


@dataclass(frozen=True)
class _Attempt:
    """One attempt at widths that fit: what is asked, what was learnt and what is held by now.

    Attributes:
        narrow_first: whether a budget was refused before. Then the narrowest network decides what
            is held, which has the smallest steps.
        differed: how many attempts led to a network that was not as predicted, and ``message``
            how the last of them differed.
    """

    request: PlanRequest
    lessons: Lessons
    constraints: Constraints
    narrow_first: bool = False
    differed: int = 0
    message: str = ""

    @cached_property
    def lowered(self) -> Lowered:
        """The network as it is constrained."""
        network = constrained(self.constraints, self.lessons)
        return lower(network, self.request.models, self.constraints.most_read)

    def outcome(self) -> "Choice | _Attempt":
        """Widths that fit, or the next attempt, which holds more."""
        lowered = self.lowered
        bases = {name: self._base(name) for name in lowered.structure.costs}
        limits = parse_budgets(self.request.budgets, bases) if self.request.budgets else {}
        found = None if self.narrow_first else self._large_steps(limits)
        if found is None:
            problem = self._problem(limits)
            if isinstance(problem, _Attempt):
                return problem
            found = _whole(self.request.solver(problem))
        solution, units = found
        sizes = lowered.sizes(units)
        bounds = further_bounds(lowered.network, sizes, self.constraints.most_read)
        if bounds:
            return replace(self, constraints=self.constraints.bounded(bounds))
        fitted = self._fitted(sizes)
        if isinstance(fitted, _Attempt):
            return fitted
        budgets = {name: self._budget(name, limit, found) for name, limit in limits.items()}
        return Choice(lowered, units, sizes, fitted, solution, budgets)

    def all_frozen(self) -> "_Attempt":
        """With no width that varies: such a network is always as predicted."""
        reason = f"the network differs from its prediction: {self.message}"
        return replace(self, constraints=replace(self.constraints, frozen=reason))

    def _fitted(self, sizes: Sizes) -> "Fit | _Attempt":
        """What makes a network have these sizes; the next attempt if it is not as predicted."""
        fitter = Fitter(self.lowered.network, self.lessons)
        fit = fitter.fit(sizes)
        if fit.mismatch is None:
            return fit
        differed = self.differed + 1
        further = fitter.further(fit, sizes) if differed > ONE_BY_ONE else []
        constraints = tightened(self.constraints, fit.mismatch, further, self.lessons)
        message = fit.mismatch.message
        return replace(self, constraints=constraints, differed=differed, message=message)

    def _large_steps(self, limits: Mapping[str, int]) -> tuple[Solution, list[int]] | None:
        """Widths in multiples of the first divisor that will do, but the last; None if none."""
        for start in range(len(self.request.divisors) - 1):
            try:
                problem = self._program(limits, start)
            except BudgetError:
                continue
            solution, units = _whole(self.request.solver(problem))
            if _uses_up(solution, units):
                return solution, units
        return None

    def _program(self, limits: Mapping[str, int], start: int, **more: Any) -> Program:
        """The program with the divisors from one on."""
        more |= {"divisors": self.request.divisors[start:], **self.request.options}
        return program(self.lowered.structure, limits, **more)

    def _problem(self, limits: Mapping[str, int]) -> "Program | _Attempt":
        """The program, or the next attempt.

        The least cost that a message names must be possible, so the narrowest network is fitted
        before a budget is refused. Wider networks may have held what that one does not need: then
        all begins anew with it.
        """
        try:
            problem = self._program(limits, -1, explain=partial(explained, self.lowered))
        except BudgetError:
            tighter = self._narrowest()
            if tighter is None and (self.narrow_first or not self.constraints.levels):
                raise
            released = self.constraints.released()
            return tighter or replace(self, constraints=released, narrow_first=True)
        return (self._narrowest() if self.narrow_first else None) or problem

    def _narrowest(self) -> "_Attempt | None":
        """The next attempt if the narrowest network is not as predicted; else None."""
        groups, least = self.lowered.structure.groups, self.request.options["min_width"]
        choices = Choices.of(groups, self.request.divisors[-1:], least)
        fitted = self._fitted(self.lowered.sizes(choices.lower.tolist()))
        return fitted if isinstance(fitted, _Attempt) else None

    def _base(self, name: str) -> int:
        """What the original costs, with what the built network is to be without."""
        structure, network = self.lowered.structure, self.lowered.network
        more = network.left_out_params if name == "params" else 0
        return structure.costs[name](structure.units) + more

    def _budget(self, name: str, limit: int, found: tuple[Solution, list[int]]) -> BudgetPlan:
        (solution, units), cost = found, self.lowered.structure.costs[name]
        multiplier = sum(solution.allocation.multipliers[row] for row in rows(name, cost))
        asked = self.request.budgets[name]
        return BudgetPlan(asked, limit, cost(units), self._base(name), multiplier)


def choose(network: Network, request: PlanRequest, constraints: Constraints) -> Choice:
    """Allocate, round and fit; where the fitted network is not as predicted, hold and repeat.

    Raises:
        BudgetError: a budget is below the cost of the narrowest network.
    """
    tried = 0
    found: Choice | _Attempt = _Attempt(request, Lessons(network), constraints)
    while isinstance(found, _Attempt):
        # Everything is frozen at most once more for every budget that is refused.
        attempt = found if tried < MAX_ATTEMPTS else found.all_frozen()
        found, tried = attempt.outcome(), tried + 1
    return found
