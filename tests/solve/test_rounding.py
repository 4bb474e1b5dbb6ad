"""Whole widths: within budget, no step left that gains, as good as brute force."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import eye_array

from precrop.errors import BudgetError, PrecropError
from precrop.solve.choices import Choices
from precrop.solve.program import EXPANSION, Program, program
from precrop.solve.relax import allocate
from precrop.solve.rounding import round_units
from precrop.solve.structure import Cost, Floats, Group, Layer, Structure
from tests.structures import (
    bottlenecks,
    chain,
    dense,
    evaluate,
    limits_of,
    mobile,
    residual,
    scrambled,
    terms_of,
    vgg16,
)


def solve(problem: Program) -> list[int]:
    found = allocate(problem)
    return round_units(problem, found.log_ratios, found.multipliers).tolist()


def value(problem: Program, units: list[int]) -> float:
    return problem.value(np.log(np.array(units) / problem.choices.units))


def fits(problem: Program, units: list[int]) -> bool:
    limits = problem.limits.items()
    return all(evaluate(problem.structure, name, units) <= limit for name, limit in limits)


def check(problem: Program, units: list[int]) -> None:
    """Allowed, within every budget, and without one more step of any group that fits and gains."""
    choices = problem.choices
    held = np.array(units)
    assert (choices.floor(held.astype(float)) == held).all()
    assert fits(problem, units)
    above = choices.next(held)
    for group in np.flatnonzero(above > held):
        more = [*units]
        more[group] = int(above[group])
        assert not fits(problem, more) or value(problem, more) <= value(problem, units) + 1e-9


def allowed(choices: Choices) -> list[list[int]]:
    """Every group's choices, found by trying each number of units."""
    counts = range(1, int(choices.upper.max()) + 1)
    kept = [choices.floor(np.full(len(choices.units), float(count))) for count in counts]
    return [sorted({int(row[group]) for row in kept}) for group in range(len(choices.units))]


def brute_force(problem: Program) -> float:
    """The best value among all points within the budgets."""
    options = allowed(problem.choices)
    grid = np.array(np.meshgrid(*options, indexing="ij"), dtype=np.int64)
    inside = np.ones(grid.shape[1:], dtype=bool)
    for name, limit in problem.limits.items():
        terms = terms_of(problem.structure.costs[name]).items()
        inside &= sum(c * np.prod(grid[list(key)], axis=0) for key, c in terms) <= limit
    points = grid.reshape(len(grid), -1).T[inside.ravel()]
    x = np.log(points / problem.choices.units)
    return float((x @ problem.gain - ((problem.penalty @ x.T).T * x).sum(axis=1)).max())


def tiny(count: int) -> Iterator[Program]:
    """Random networks of 2 to 5 groups with at most 12 units each, and random budgets."""
    for seed in itertools.count():
        rng = random.Random(seed)
        structure = scrambled(seed, rng.randint(2, 5))
        names = rng.choice([["params"], ["macs"], ["params", "macs"]])
        limits = limits_of(structure, {name: rng.uniform(0.15, 0.95) for name in names})
        balance, divisor = rng.choice([0.1, 0.3, 1, 1, 1, 3]), rng.choice([1, 1, 1, 2, 3])
        try:
            yield program(structure, limits, divisors=[divisor], balance=balance)
        except BudgetError:
            continue
        count -= 1
        if not count:
            return


def chains(count: int) -> Iterator[Program]:
    """Random chains of 2 to 4 widths up to 16, with budgets of 5 to 95%."""
    for seed in itertools.count():
        rng = random.Random(seed)
        structure = chain([rng.randint(2, 16) for _ in range(rng.randint(2, 4))])
        names = rng.choice([["params"], ["macs"], ["params", "macs"]])
        limits = limits_of(structure, {name: rng.uniform(0.05, 0.95) for name in names})
        balance, divisor = rng.choice([0.1, 0.3, 1, 1, 1, 3, 10]), rng.choice([1, 1, 1, 2, 3])
        try:
            yield program(structure, limits, divisors=[divisor], balance=balance)
        except BudgetError:
            continue
        count -= 1
        if not count:
            return


def gaps(problems: Iterable[Program]) -> Floats:
    """How far below the best of all points within the budgets each network ends."""
    found = []
    for problem in problems:
        best, reached = brute_force(problem), value(problem, solve(problem))
        assert reached <= best + 1e-9
        found.append(best - reached if best - reached > 1e-9 else 0.0)
    return np.array(found)


@pytest.mark.parametrize("networks", [chains, tiny])
def test_small_networks_against_brute_force(networks: Callable[[int], Iterator[Program]]) -> None:
    lost = gaps(networks(300))
    assert np.mean(lost == 0) >= 0.99
    assert lost.max() <= 0.1


def test_what_is_left_is_not_spent_where_every_step_loses() -> None:
    structure = chain([16, 4, 6])
    problem = program(structure, limits_of(structure, {"params": 0.068, "macs": 0.068}))
    units = solve(problem)
    assert value(problem, units) == pytest.approx(brute_force(problem))
    check(problem, units)
    more = problem.choices.next(np.array(units))
    steps = [[*units[:i], int(more[i]), *units[i + 1 :]] for i in range(len(units))]
    assert any(fits(problem, step) for step in steps)


def test_budgets_that_say_the_size_are_spent_all_the_same() -> None:
    structure = residual([16, 32, 64], 3)
    problem = program(structure, limits_of(structure, {"params": 0.5, "macs": 0.5}))
    used = {}
    for fills in (False, True):
        shape = dataclasses.replace(uniform(problem), fills=fills)
        units = round_units(shape, np.full(len(structure.groups), np.log(0.69))).tolist()
        used[fills] = max(evaluate(structure, n, units) / m for n, m in problem.limits.items())
        above = problem.choices.next(np.array(units))
        ends = [[*units[:i], int(above[i]), *units[i + 1 :]] for i in range(len(units))]
        assert fills != any(fits(problem, end) for end in ends)
    assert used[False] < 0.96 < 0.99 < used[True] <= 1


def uniform(problem: Program) -> Program:
    """The objective that wants 11 of 16 channels everywhere."""
    x = np.full(len(problem.choices.units), np.log(11 / 16))
    return dataclasses.replace(problem, gain=2 * x, penalty=eye_array(len(x), format="csr"))


NETWORKS = {
    "vgg16": vgg16(),
    "resnet20": residual([16, 32, 64], 3),
    "resnet50": bottlenecks([3, 4, 6, 3]),
    "mobile": mobile([32, 16, 24, 24, 32, 32, 64, 64, 96, 160, 320]),
    "densenet121": dense([6, 12, 24, 16]),
    "resnet1202": residual([16, 32, 64], 200),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shares", [{"params": 0.5, "macs": 0.5}, {"params": 0.1, "macs": 0.2}])
def test_close_to_the_continuous_optimum(name: str, shares: dict[str, float]) -> None:
    structure = NETWORKS[name]
    problem = program(structure, limits_of(structure, shares))
    units = solve(problem)
    check(problem, units)
    best = allocate(problem).objective
    assert value(problem, units) >= best - 0.01 * abs(best)
    check(coarse := program(structure, limits_of(structure, shares), divisors=[8]), solve(coarse))


def test_slack_budgets_keep_the_original() -> None:
    for structure in NETWORKS.values():
        problem = program(structure, limits_of(structure, {"params": 1.0, "macs": 1.0}))
        assert solve(problem) == structure.units


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_allowed_within_budget_and_maximal(seed: int, data: st.DataObject) -> None:
    structure = scrambled(
        seed, data.draw(st.integers(1, 14)), widest=data.draw(st.integers(2, 200))
    )
    names = data.draw(st.sampled_from([["params"], ["macs"], ["params", "macs"]]))
    shares = {name: data.draw(st.floats(0.01, 1.5)) for name in names}
    try:
        problem = program(
            structure,
            limits_of(structure, shares),
            divisors=[data.draw(st.sampled_from([1, 2, 3, 8]))],
            min_width=data.draw(st.sampled_from([1, 1, 4])),
            cap=data.draw(st.sampled_from([1.0, EXPANSION])),
            balance=data.draw(st.sampled_from([0.0, 0.1, 1.0, 5.0])),
        )
    except BudgetError:
        return
    units = solve(problem)
    check(problem, units)
    assert units == solve(problem)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(-9, 3), min_size=8, max_size=8))
def test_any_start_ends_within_budget(seed: int, start: list[float]) -> None:
    structure = scrambled(seed, 8)
    x = np.array(start + [0.0] * (len(structure.groups) - 8))
    problem = program(structure, limits_of(structure, {"params": 0.6, "macs": 0.5}))
    check(problem, round_units(problem, x).tolist())


@pytest.mark.parametrize("seed", range(4))
def test_order_of_layers_and_terms_does_not_matter(seed: int) -> None:
    structure = scrambled(seed, 9, widest=64)
    costs = {n: Cost(dict(list(terms_of(c).items())[::-1])) for n, c in structure.costs.items()}
    turned = dataclasses.replace(structure, layers=structure.layers[::-1], costs=costs)
    limits = limits_of(structure, {"params": 0.3, "macs": 0.4})
    assert solve(program(structure, limits)) == solve(program(turned, limits))


def test_widths_just_below_a_unit_are_not_lost() -> None:
    structure = residual([16, 32], 2)
    limits = {"params": evaluate(structure, "params", [n // 2 for n in structure.units])}
    problem = program(structure, limits, balance=1e4)
    start = np.full(len(structure.groups), np.log(0.5) - 1e-8)
    assert round_units(problem, start).tolist() == [n // 2 for n in structure.units]


@pytest.mark.parametrize("terms", [{(0, 1, 2): 10, (0, 0, 0): 3}, {(0, 0, 1): 7, (2,): 5, (): 40}])
def test_costs_of_degree_three(terms: dict[tuple[int, ...], int]) -> None:
    groups = tuple(Group(f"g{index}", 9, 9, 1, 9) for index in range(3))
    ends = [(Cost({(i + 1,): 1}), {i: 1.0}, {i + 1: 1.0}) for i in range(2)]
    layers = tuple(Layer(f"l{i}", "conv", 81, 81, 9, 9, *end) for i, end in enumerate(ends))
    structure = Structure(groups, layers, {"params": Cost(terms)})
    for limit in (500, 1000, 2000, 3000):
        problem = program(structure, {"params": limit})
        units = solve(problem)
        check(problem, units)
        assert value(problem, units) == pytest.approx(brute_force(problem), rel=0.05)


def test_costs_beyond_64_bits_are_refused() -> None:
    width, groups = Cost({(0,): 1}), (Group("g", 8, 8, 1, 8),)
    layers = (Layer("l", "conv", 8, 8, 1, 8, width, {}, {0: 1.0}),)
    structure = Structure(groups, layers, {"macs": Cost({(0,): 2**60})})
    with pytest.raises(PrecropError, match="64-bit counting: write a smaller batch_size"):
        solve(program(structure, {"macs": 2**62}))
    large = Structure(groups, layers, {"macs": Cost({(0,): 2**58 + 1})})
    assert solve(program(large, {"macs": 5 * 2**58 + 5})) == [5]
    assert solve(program(large, {"macs": 5 * 2**58 + 4})) == [4]
