"""Latency and memory as rows of the convex program, against a general solver."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import cvxpy
import numpy as np
import pytest
from torch import nn

from precrop.costs.batches import follow
from precrop.costs.latency import latency
from precrop.costs.memory import memory
from precrop.costs.profiles import roofline
from precrop.errors import BudgetError
from precrop.models import resnet20
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.program import EXPANSION, program, rows
from precrop.solve.relax import allocate
from precrop.solve.structure import Cost, Peak, Structure
from tests.networks import SHAPE, assemble
from tests.planning import planned
from tests.structures import limits_of

DEVICE = roofline(1e11, 1e10, launch=1e-8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "dense": (lambda: assemble([("dense", 32), ("conv", 24)], stem=32), SHAPE),
    "inception": (lambda: assemble([("inception", 36), ("squeeze excite", 8)], stem=24), SHAPE),
}
SHARES = [
    {"latency": 0.5},
    {"memory": 0.7},
    {"latency": 0.6, "memory": 0.7},
    {"params": 0.4, "macs": 0.4, "latency": 0.55, "memory": 0.75},
]


@cache
def structure_of(name: str) -> Structure:
    build, shape = NETWORKS[name]
    network, lives = follow(read_network(build(), Inputs(shape)), 2)
    models = {"latency": latency(DEVICE, lives), "memory": memory(lives)}
    return lower(network, models).structure


def oracle(structure: Structure, limits: Mapping[str, int], expand: bool) -> tuple[float, Any]:
    """The program stated for cvxpy, with the largest moment as one constraint."""
    units = np.array(structure.units, float)
    x = cvxpy.Variable(len(units))
    objective = 0
    for layer in structure.layers:
        ends = [sum(s * x[g] for g, s in end.items()) for end in (layer.inputs, layer.outputs)]
        objective += sum(ends)
        if layer.inputs and layer.outputs:
            objective -= cvxpy.square(ends[0] - ends[1])
    most = np.maximum(units, np.floor(units * (4.0 if expand else 1.0) + 1e-9))
    rules = [x >= -np.log(units), x <= np.log(most / units)]
    for name, limit in limits.items():
        sums = []
        for part in structure.costs[name].parts:
            terms = [(key, c) for key, c in part.terms.items() if c]
            scales = [c * np.prod([units[g] for g in key]) / limit for key, c in terms]
            powers = [
                np.log(scale) + sum(x[g] for g in key)
                for scale, (key, _) in zip(scales, terms, strict=True)
            ]
            sums.append(cvxpy.log_sum_exp(cvxpy.hstack(powers)))
        rules.append(cvxpy.maximum(*sums) <= 0 if len(sums) > 1 else sums[0] <= 0)
    statement = cvxpy.Problem(cvxpy.Maximize(objective), rules)
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    statement.solve(solver="CLARABEL", **tight)
    return statement.value, x.value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_a_general_solver(name: str, shares: dict[str, float], expand: bool) -> None:
    structure = structure_of(name)
    limits = limits_of(structure, shares)
    found = allocate(program(structure, limits, cap=EXPANSION if expand else 1.0))
    value, x = oracle(structure, limits, expand)
    assert found.status == "solved"
    assert found.objective == pytest.approx(value, abs=1e-6, rel=1e-6)
    np.testing.assert_allclose(found.log_ratios, x, atol=1e-4)
    kept = (np.array(structure.units) * np.exp(found.log_ratios)).tolist()
    for cost, limit in limits.items():
        parts = structure.costs[cost].parts
        assert max(part(kept) for part in parts) <= limit * (1 + 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_multipliers_are_the_slope_of_the_optimum(name: str) -> None:
    """That of a budget is the sum over its rows."""
    structure = structure_of(name)
    limits = limits_of(structure, {"latency": 0.6, "memory": 0.7})
    found = allocate(program(structure, limits)).multipliers
    for budget, limit in limits.items():
        ends = [
            allocate(program(structure, {**limits, budget: limit + side * limit // 2000})).objective
            for side in (-1, 1)
        ]
        total = sum(found[row] for row in rows(budget, structure.costs[budget]))
        assert total == pytest.approx((ends[1] - ends[0]) * 10, rel=5e-3, abs=1e-6)


def test_a_plan_says_the_sum_of_its_rows_multipliers() -> None:
    build, shape = NETWORKS["inception"]
    plan, choice = planned(
        build(), shape, latency=0.6, memory=0.7, device_profile=DEVICE, batch_size=2
    )
    prices = choice.solution.allocation.multipliers
    assert sum(row.startswith("memory ") for row in prices) > 1
    for name, budget in plan.budgets.items():
        found = [price for row, price in prices.items() if row.split()[0] == name]
        assert budget.multiplier == pytest.approx(sum(found), rel=1e-12)


def test_rows_of_costs() -> None:
    one, two = Cost({(): 3, (0,): 2}), Cost({(0,): 5})
    assert rows("memory", Peak((one, two))) == {"memory 0": one, "memory 1": two}
    assert rows("latency", one) == {"latency": one}
    peak = Peak((one, two))
    assert [peak([n]) for n in (0, 1, 2)] == [3, 5, 10]
    assert peak.parts == (one, two)
    assert one.parts == (one,)


@pytest.mark.parametrize("name", ["latency", "memory"])
def test_infeasible_budgets_name_the_least(name: str) -> None:
    structure = structure_of("resnet20")
    least = structure.costs[name]([1] * len(structure.groups))
    with pytest.raises(BudgetError, match=f"^{name}=.*cannot be met: the least possible"):
        program(structure, {name: least - 1})
    assert program(structure, {name: least}).limits
