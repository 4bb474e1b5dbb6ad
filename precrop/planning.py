"""Choose the widths of a network as read: allocate, round, fit, and constrain what won't fit."""

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

# A network that still differs from its prediction after so many attempts keeps all its widths.
MAX_ATTEMPTS = 200
# So many times only the first mismatch is constrained, which may settle others; later all are.
ONE_BY_ONE = 12
USED = 0.98
"""Share of the binding budget that must be used; if less is, the divisor counts as too large."""


@dataclass(frozen=True)
class Choice:
    """The chosen widths, how they were found, and the edits that give a network these widths."""

    lowered: Lowered
    units: list[int]
    sizes: Sizes
    fit: Fit
    solution: Solution
    budgets: dict[str, BudgetPlan]

    @property
    def structure(self) -> Structure:
        """The structure of the constrained network."""
        return self.lowered.structure


def _whole(solution: Solution) -> tuple[Solution, list[int]]:
    """Round to whole units; groups of one layer keep original widths off their step only together.

    A group without a multiple of its step within its bounds keeps its width all the same.
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
    """Return whether whole units use the binding budget nearly as fully as the continuous widths.

    Of several budgets that bind, the one with the highest multiplier counts.
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
    """What the widths must satisfy, and the solver that finds them.

    Attributes:
        budgets: budgets as the user wrote them, by cost name.
        models: models of the costs other than parameters and MACs.
        options: options of `precrop.solve.program.program`.
        divisors: divisors of all widths, each a multiple of the next, tried in turn until one meets
            and uses up the budgets. Layers too narrow for it follow a later one.
    """

    budgets: Mapping[str, Budget]
    models: Mapping[str, CostModel]
    options: Mapping[str, Any]
    solver: Solver
    divisors: Sequence[int]


@dataclass(frozen=True)
class _Attempt:
    """One attempt at widths that fit: the request, what probing taught, and the constraints so far.

    Attributes:
        narrow_first: whether a budget was refused before; if so, the narrowest network is fitted
            first and determines the constraints.
        differed: the number of attempts whose network was not as predicted; ``message`` says how
            the last one differed.
    """

    request: PlanRequest
    lessons: Lessons
    constraints: Constraints
    narrow_first: bool = False
    differed: int = 0
    message: str = ""

    @cached_property
    def lowered(self) -> Lowered:
        """The constrained network with its groups, layers and costs."""
        network = constrained(self.constraints, self.lessons)
        return lower(network, self.request.models, self.constraints.most_read)

    def outcome(self) -> "Choice | _Attempt":
        """Return widths that fit, or the next attempt, which has more constraints."""
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
        """Return the attempt in which no width varies, whose network is always as predicted."""
        reason = f"the network differs from its prediction: {self.message}"
        return replace(self, constraints=replace(self.constraints, frozen=reason))

    def _fitted(self, sizes: Sizes) -> "Fit | _Attempt":
        """Return the fit to these sizes, or the next attempt if the network isn't as predicted."""
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
        """Return widths for the first divisor that will do, except the last; None if none does."""
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
        """Return the program with the divisors from index ``start`` on."""
        more |= {"divisors": self.request.divisors[start:], **self.request.options}
        return program(self.lowered.structure, limits, **more)

    def _problem(self, limits: Mapping[str, int]) -> "Program | _Attempt":
        """Return the program with the last divisor, or the next attempt.

        The least cost that an error message gives must be possible, so the narrowest network is
        fitted before a budget is refused. Constraints from wider networks may not be needed for it,
        so they are released and the attempts start again with the narrowest one.
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
        """Return the next attempt if the narrowest network is not as predicted, else None."""
        groups, least = self.lowered.structure.groups, self.request.options["min_width"]
        choices = Choices.of(groups, self.request.divisors[-1:], least)
        fitted = self._fitted(self.lowered.sizes(choices.lower.tolist()))
        return fitted if isinstance(fitted, _Attempt) else None

    def _base(self, name: str) -> int:
        """Return the cost of the original, including modules that the built network leaves out."""
        structure, network = self.lowered.structure, self.lowered.network
        more = network.left_out_params if name == "params" else 0
        return structure.costs[name](structure.units) + more

    def _budget(self, name: str, limit: int, found: tuple[Solution, list[int]]) -> BudgetPlan:
        (solution, units), cost = found, self.lowered.structure.costs[name]
        multiplier = sum(solution.allocation.multipliers[row] for row in rows(name, cost))
        asked = self.request.budgets[name]
        return BudgetPlan(asked, limit, cost(units), self._base(name), multiplier)


def choose(network: Network, request: PlanRequest, constraints: Constraints) -> Choice:
    """Allocate, round and fit; if the network is not as predicted, add constraints and repeat.

    Raises:
        BudgetError: a budget is below the cost of the narrowest network.
    """
    tried = 0
    found: Choice | _Attempt = _Attempt(request, Lessons(network), constraints)
    while isinstance(found, _Attempt):
        # This ends: all widths are frozen at most once more for every budget that is refused.
        attempt = found if tried < MAX_ATTEMPTS else found.all_frozen()
        found, tried = attempt.outcome(), tried + 1
    return found
