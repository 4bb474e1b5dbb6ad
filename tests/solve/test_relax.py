"""The continuous program against a general solver, known values and its own properties."""

import dataclasses
from typing import Any

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precrop.errors import BudgetError, PrecropError
from precrop.solve.choices import Choices
from precrop.solve.program import EXPANSION, Program, program
from precrop.solve.relax import Allocation, allocate
from precrop.solve.structure import Cost, Floats, Group, Layer, Structure
from tests.general_solver import maximised
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


def oracle(problem: Program) -> tuple[float, Floats]:
    """The same program stated for cvxpy, straight from the layers."""
    structure = problem.structure
    x = cvxpy.Variable(len(structure.groups))
    objective = 0
    for layer in structure.layers:
        ends = [sum(s * x[g] for g, s in end.items()) for end in (layer.inputs, layer.outputs)]
        objective += sum(ends)
        if layer.inputs and layer.outputs:
            objective -= cvxpy.square(ends[0] - ends[1])
    return maximised(problem, x, objective)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize(
    "structure",
    [vgg16(), residual([16, 32, 64], 3), mobile([32, 16, 24, 64]), dense([3, 2]), chain([7])]
    + [scrambled(seed, 8, widest=64) for seed in range(6)],
)
def test_agrees_with_a_general_solver(structure: Structure, expand: bool) -> None:
    for shares in ({"params": 0.4}, {"params": 0.4, "macs": 0.4}, {"params": 0.9, "macs": 0.2}):
        problem = program(structure, limits_of(structure, shares), cap=EXPANSION if expand else 1.0)
        found = allocate(problem)
        value, x = oracle(problem)
        assert found.status == "solved"
        assert found.objective == pytest.approx(value, abs=1e-6, rel=1e-6)
        np.testing.assert_allclose(found.log_ratios, x, atol=2e-5)


def ratios(structure: Structure, shares: dict[str, float], **options: Any) -> Allocation:
    return allocate(program(structure, limits_of(structure, shares), **options))


def test_vgg16_known_values() -> None:
    found = ratios(vgg16(), {"params": 0.3, "macs": 0.3})
    known = [0.70, 0.60, 0.59, 0.57, 0.56, 0.50, 0.52, 0.48, 0.44, 0.49, 0.57, 0.60, 0.80]
    assert np.exp(found.log_ratios).round(2).tolist() == known
    found = ratios(vgg16(), {"params": 1.0, "macs": 1.0}, cap=EXPANSION)
    known = [1.30, 1.10, 1.08, 1.05, 1.02, 0.91, 0.94, 0.88, 0.80, 0.90, 1.04, 1.10, 1.46]
    assert np.exp(found.log_ratios).round(2).tolist() == known
    assert found.at_cap == ()


def test_the_cap_is_reported_where_it_binds() -> None:
    found = ratios(vgg16(), {"params": 1.0}, cap=EXPANSION)
    assert found.at_cap == (0, 1)
    np.testing.assert_allclose(np.exp(found.log_ratios[:2]), 4, atol=1e-5)
    assert np.exp(ratios(vgg16(), {"params": 1.0}, cap=16.0).log_ratios[0]) > 7.2
    assert ratios(vgg16(), {"params": 0.99}).at_cap == ()


def test_slack_budgets_give_the_cap_exactly() -> None:
    found = ratios(vgg16(), {"params": 1.0, "macs": 2.0})
    assert (found.log_ratios == 0).all()
    assert (found.status, found.multipliers) == ("slack", {"params": 0, "macs": 0})
    assert (np.exp(ratios(chain([8, 8]), {"params": 99.0}, cap=EXPANSION).log_ratios) == 4).all()


def test_balance_goes_from_uniform_to_degenerate() -> None:
    uniform = ratios(vgg16(), {"macs": 0.25}, balance=1e5).log_ratios
    assert np.ptp(uniform) < 1e-3
    zigzag = np.exp(ratios(vgg16(), {"params": 0.3, "macs": 0.3}, balance=0).log_ratios)
    np.testing.assert_allclose(zigzag[:7], [1, 0.38, 1, 0.36, 1, 0.25, 1], atol=0.02)
    objectives = [ratios(vgg16(), {"macs": 0.2}, balance=g).objective for g in (0, 0.1, 1, 10)]
    assert objectives == sorted(objectives, reverse=True)


def test_multipliers_are_the_slope_of_the_optimum() -> None:
    structure = residual([160, 320, 640], 2)
    limits = limits_of(structure, {"params": 0.3, "macs": 0.3})
    found = allocate(program(structure, limits))
    for name, multiplier in found.multipliers.items():
        step = limits[name] // 1000
        ends = [
            allocate(program(structure, {**limits, name: limits[name] + side * step})).objective
            for side in (-1, 1)
        ]
        assert multiplier == pytest.approx((ends[1] - ends[0]) * 5, rel=1e-3, abs=1e-6)
        assert type(multiplier) is float


def test_weights_are_scaled_to_mean_one() -> None:
    structure = vgg16()
    limits = limits_of(structure, {"params": 0.3})
    plain = allocate(program(structure, limits)).log_ratios
    scaled = allocate(program(structure, limits).weighed(np.full(14, 7.0))).log_ratios
    np.testing.assert_allclose(plain, scaled, atol=1e-7)
    weights = np.array([0.5] * 9 + [4.0] + [0.5] * 4)
    tilted = allocate(program(structure, limits).weighed(weights)).log_ratios
    assert (tilted > plain + 0.01).nonzero()[0].tolist() == [8, 9]


def test_infeasible_budgets_name_the_least() -> None:
    structure = vgg16()
    narrowest = [8] * 13
    least = evaluate(structure, "params", narrowest)
    with pytest.raises(BudgetError, match=rf"divisor=8 and min_width=1 is {least}$"):
        program(structure, {"params": least - 1}, divisors=[8])
    found = allocate(program(structure, {"params": least}, divisors=[8]))
    np.testing.assert_allclose(np.exp(found.log_ratios) * structure.units, narrowest, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        *({"divisors": [0]}, {"min_width": 0}, {"cap": 0.5}),
        *({"balance": -1}, {"balance": float("nan")}, {"balance": float("inf")}),
    ],
)
def test_senseless_options(options: dict[str, Any]) -> None:
    with pytest.raises(PrecropError, match="write"):
        ratios(chain([8, 8]), {"params": 0.5}, **options)


@pytest.mark.parametrize(
    ("group", "options", "allowed"),
    [
        (Group("g", 10, 10, 1, 10), {"divisors": [4]}, [4, 8, 10]),
        (Group("g", 10, 10, 1, 10), {"divisors": [4], "cap": 2.0}, [4, 8, 10, 12, 16, 20]),
        (Group("g", 6, 6, 1, 6), {"divisors": [8]}, [6]),
        (Group("g", 6, 6, 1, 6), {"divisors": [8], "cap": 4.0}, [6, 8, 16, 24]),
        (Group("g", 8, 8, 1, 8), {"divisors": [16], "cap": 4.0}, [8, 16, 32]),
        (Group("g", 8, 8, 1, 8), {"divisors": [64], "cap": 4.0}, [8]),
        (Group("g", 4, 4, 1, 4), {"min_width": 4, "cap": 2.0}, [4, 5, 6, 7, 8]),
        (Group("g", 4, 4, 1, 4), {"min_width": 7, "cap": 2.0}, [4, 7, 8]),
        (Group("g", 4, 4, 1, 4), {"min_width": 9, "cap": 2.0}, [4]),
        (Group("g", 8, 8, 1, 8, 8), {"divisors": [16], "cap": 4.0}, [8]),
        (Group("g", 64, 4, 16, 64), {"divisors": [8]}, [1, 2, 3, 4]),
        (Group("g", 48, 4, 12, 48), {"divisors": [8]}, [2, 4]),
        (Group("g", 16, 8, 1, 8), {"min_width": 3}, [3, 4, 5, 6, 7, 8]),
        (Group("g", 5, 5, 1, 5), {"min_width": 9}, [5]),
        (Group("g", 1, 1, 1, 1), {}, [1]),
    ],
)
def test_choices(group: Group, options: dict[str, Any], allowed: list[int]) -> None:
    choices = Choices.of([group], **options)
    units, found = choices.lower, [int(choices.lower[0])]
    while (above := choices.next(units))[0] > units[0]:
        assert choices.previous(above)[0] == units[0]
        units = above
        found.append(int(units[0]))
    assert found == allowed
    assert choices.upper[0] == allowed[-1]
    for value in np.arange(0.5, 2 * allowed[-1], 0.5):
        assert choices.floor(np.array([value]))[0] == max(
            [a for a in allowed if a <= value] or allowed[:1]
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.sampled_from([1.0, EXPANSION]))
def test_bounds_budget_and_growth(seed: int, share: float, cap: float) -> None:
    structure = scrambled(seed, 7, widest=64, narrowest=16)
    objectives = []
    for part in (share, share * 1.05):
        problem = program(structure, limits_of(structure, {"params": part}), cap=cap)
        found = allocate(problem)
        kept = problem.choices.units * np.exp(found.log_ratios)
        assert (kept >= problem.choices.lower * (1 - 1e-9)).all()
        assert (kept <= problem.choices.upper * (1 + 1e-9)).all()
        assert evaluate(structure, "params", kept.tolist()) <= problem.limits["params"] * (1 + 1e-7)
        objectives.append(found.objective)
    assert objectives[1] >= objectives[0] - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_order_of_layers_and_terms_does_not_matter(seed: int) -> None:
    structure = scrambled(seed, 10, widest=64)
    costs = {n: Cost(dict(list(terms_of(c).items())[::-1])) for n, c in structure.costs.items()}
    turned = dataclasses.replace(structure, layers=structure.layers[::-1], costs=costs)
    shares = {"params": 0.3, "macs": 0.3}
    one, two = ratios(structure, shares), ratios(turned, shares)
    np.testing.assert_allclose(one.log_ratios, two.log_ratios, atol=1e-6)


def test_repeats_exactly() -> None:
    structure = bottlenecks([3, 4, 6, 3])
    assert len(structure.groups) == 37
    runs = [ratios(structure, {"params": 0.5, "macs": 0.5}).log_ratios for _ in range(2)]
    assert (runs[0] == runs[1]).all()


@pytest.mark.parametrize(
    "structure", [dense([6, 12, 48, 32]), residual([16, 32, 64], 200), dense([6, 12, 24, 16])]
)
def test_large_networks(structure: Structure) -> None:
    for cap in (1.0, EXPANSION):
        assert ratios(structure, {"params": 0.2, "macs": 0.3}, cap=cap).status == "solved"


def test_macs_of_layers_follow_the_weights() -> None:
    """Of layers without common widths: every second one of a chain, the others' ends fixed."""
    layers, groups = [], []
    for index, side in enumerate((64, 16, 4, 1)):
        groups.append(Group(f"hidden {index}", 1000, 1000, 1, 1000))
        macs, width = 1000 * 10 * side, Cost({(index,): 1})
        layers.append(Layer(f"l{index}", "conv", 10_000, macs, 10, 1000, width, {}, {index: 1.0}))
    cost = Cost({(index,): 10 * side for index, side in enumerate((64, 16, 4, 1))})
    structure = Structure(tuple(groups), tuple(layers), {"params": cost, "macs": cost})
    limits = {"macs": int(0.02 * cost([1000] * 4))}
    for weights in (np.ones(4), np.array([8.0, 4.0, 2.0, 1.0])):
        problem = program(structure, limits).weighed(weights)
        kept = np.exp(allocate(problem).log_ratios) * [layer.macs for layer in layers]
        share = kept / weights
        np.testing.assert_allclose(share, share[0], rtol=1e-4)
