"""Chooses the widths of a network that was read: allocate, round, fit, and hold what won't fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from precrop.errors import BudgetError
from precrop.fit.constraints import Constraints, constrained, tightened
from precrop.fit.fitting import Fit, Fitter, Lessons, Mismatch
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
        solver: from the program to continuous widths.
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
    """One attempt at widths that fit.

    Attributes:
        constraints: what is held by now.
        narrow_first: whether a budget was refused before. Then the narrowest network decides what
            is held, which has the smallest steps.
        differed: how many attempts led to a network that was not as predicted.
        message: how the last of these differed.
    """

    constraints: Constraints
    narrow_first: bool = False
    differed: int = 0
    message: str = ""

    def all_frozen(self) -> "_Attempt":
        """With no width that varies: such a network is always as predicted."""
        reason = f"the network differs from its prediction: {self.message}"
        return replace(self, constraints=replace(self.constraints, frozen=reason))


def choose(network: Network, request: PlanRequest, constraints: Constraints) -> Choice:
    """Allocate, round and fit; where the fitted network is not as predicted, hold and repeat.

    Raises:
        BudgetError: a budget is below the cost of the narrowest network.
    """
    lessons, tried = Lessons(network), 0
    found: Choice | _Attempt = _Attempt(constraints)
    while isinstance(found, _Attempt):
        # Everything is frozen at most once more for every budget that is refused.
        attempt = found if tried < MAX_ATTEMPTS else found.all_frozen()
        found, tried = _attempted(attempt, request, lessons), tried + 1
    return found


def _attempted(attempt: _Attempt, request: PlanRequest, lessons: Lessons) -> Choice | _Attempt:
    """Widths that fit, or the next attempt, which holds more."""
    constraints = attempt.constraints
    network = constrained(constraints, lessons)
    lowered = lower(network, request.models, constraints.most_read)
    fitter = Fitter(lowered.network, lessons)
    limits = _limits(lowered, request)
    found = None if attempt.narrow_first else _large_steps(lowered.structure, limits, request)
    if found is None:
        problem = _problem(attempt, fitter, lowered, limits, request)
        if isinstance(problem, _Attempt):
            return problem
        found = _whole(request.solver(problem))
    solution, units = found
    sizes = lowered.sizes(units)
    bounds = further_bounds(network, sizes, constraints.most_read)
    if bounds:
        return replace(attempt, constraints=constraints.bounded(bounds))
    fit = fitter.fit(sizes)
    if fit.mismatch is not None:
        return _tighter(attempt, fitter, fit, fit.mismatch, sizes)
    budgets = _budgets(lowered, units, limits, solution, request)
    return Choice(lowered, units, sizes, fit, solution, budgets)


def _tighter(
    attempt: _Attempt, fitter: Fitter, fit: Fit, mismatch: Mismatch, sizes: Sizes
) -> _Attempt:
    """The next attempt after a network that was not as predicted."""
    differed = attempt.differed + 1
    further = fitter.further(fit, sizes) if differed > ONE_BY_ONE else []
    constraints = tightened(attempt.constraints, mismatch, further, fitter.lessons)
    return _Attempt(constraints, attempt.narrow_first, differed, mismatch.message)


def _large_steps(
    structure: Structure, limits: Mapping[str, int], request: PlanRequest
) -> tuple[Solution, list[int]] | None:
    """Widths in multiples of the first divisor that will do, but for the last; None if none."""
    for start in range(len(request.divisors) - 1):
        try:
            divisors = request.divisors[start:]
            problem = program(structure, limits, divisors=divisors, **request.options)
        except BudgetError:
            continue
        solution, units = _whole(request.solver(problem))
        if _uses_up(solution, units):
            return solution, units
    return None


def _problem(
    attempt: _Attempt,
    fitter: Fitter,
    lowered: Lowered,
    limits: Mapping[str, int],
    request: PlanRequest,
) -> Program | _Attempt:
    """The program, or the next attempt.

    The least cost that a message names must be possible, so the narrowest network is fitted
    before a budget is refused. Wider networks may have held what that one does not need: then
    all begins anew with it.
    """
    explain = partial(explained, lowered)
    try:
        problem = program(
            lowered.structure,
            limits,
            divisors=request.divisors[-1:],
            explain=explain,
            **request.options,
        )
    except BudgetError:
        tighter = _narrowest(attempt, fitter, lowered, request)
        if tighter is None and (attempt.narrow_first or not attempt.constraints.levels):
            raise
        released = replace(attempt, constraints=attempt.constraints.released(), narrow_first=True)
        return tighter or released
    tighter = _narrowest(attempt, fitter, lowered, request) if attempt.narrow_first else None
    return tighter or problem


def _narrowest(
    attempt: _Attempt, fitter: Fitter, lowered: Lowered, request: PlanRequest
) -> _Attempt | None:
    """The next attempt if the narrowest network is not as predicted; else None."""
    least = request.options["min_width"]
    choices = Choices.of(lowered.structure.groups, request.divisors[-1:], least)
    sizes = lowered.sizes(choices.lower.tolist())
    fit = fitter.fit(sizes)
    if fit.mismatch is None:
        return None
    return _tighter(attempt, fitter, fit, fit.mismatch, sizes)


def _limits(lowered: Lowered, request: PlanRequest) -> dict[str, int]:
    bases = {name: _base(lowered, name) for name in lowered.structure.costs}
    return parse_budgets(request.budgets, bases) if request.budgets else {}


def _base(lowered: Lowered, name: str) -> int:
    """What the original costs, with what the built network is to be without."""
    more = lowered.network.left_out_params if name == "params" else 0
    return lowered.structure.costs[name](lowered.structure.units) + more


def _budgets(
    lowered: Lowered,
    units: Sequence[int],
    limits: Mapping[str, int],
    solution: Solution,
    request: PlanRequest,
) -> dict[str, BudgetPlan]:
    budgets = {}
    for name, limit in limits.items():
        cost, prices = lowered.structure.costs[name], solution.allocation.multipliers
        multiplier = sum(prices[row] for row in rows(name, cost))
        used, base = cost(units), _base(lowered, name)
        budgets[name] = BudgetPlan(request.budgets[name], limit, used, base, multiplier)
    return budgets
