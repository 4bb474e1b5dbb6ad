"""What a plan says of uniform width, and of a starved classifier."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import precrop
from precrop.models import cifar_mobilenet_v2, nats_sss, resnet20
from precrop.plans.plan import Plan
from precrop.plans.table import uniform_lines
from precrop.solve.program import EXPANSION, program
from precrop.solve.structure import Cost, Group, Layer, Structure
from precrop.strategies.uniform import beside_uniform, uniform_share
from tests.structures import chain


def test_the_share_uses_the_tightest_budget_up() -> None:
    structure = chain([16, 32, 64])
    limits = {"params": 3000, "macs": structure.costs["macs"](structure.units)}
    problem = program(structure, limits)
    share = uniform_share(problem)
    units = [share * n for n in structure.units]
    assert problem.costs["params"](units) == pytest.approx(3000)
    assert problem.costs["macs"](units) <= limits["macs"]
    assert uniform_share(program(structure, {"params": 10**9})) == 1
    wide = {"params": 4 * structure.costs["params"](structure.units)}
    assert uniform_share(program(structure, wide, cap=EXPANSION)) > 1


def test_uniform_width_is_no_distance_from_itself() -> None:
    structure = chain([16, 32, 64])
    problem = program(structure, {"params": 3000})
    x = np.full(len(structure.groups), np.log(uniform_share(problem)))
    found = beside_uniform(problem, x)
    assert found["gain"] == pytest.approx(0, abs=1e-9)
    assert found["apart"] == pytest.approx(0, abs=1e-9)
    x[1] += 0.3
    found = beside_uniform(problem, x)
    assert found["most"][0] == structure.groups[1].name
    assert found["apart"] == pytest.approx(0.3 / len(x) ** 0.5)
    assert beside_uniform(program(structure, {}), x) == {}


def test_plans_say_how_far_they_are() -> None:
    near = precrop.plan(resnet20(), (3, 32, 32), params=0.3, macs=0.3, divisor=1)
    assert near.solver["uniform"]["apart"] < 0.1
    assert "expect the same accuracy" in "\n".join(uniform_lines(near))
    options: dict[str, Any] = {"params": 0.3, "macs": 0.3, "divisor": 1}
    far = precrop.plan(cifar_mobilenet_v2(), (3, 32, 32), **options)
    found = far.solver["uniform"]
    assert found["gain"] > near.solver["uniform"]["gain"] > 0
    assert found["apart"] > 0.1
    assert found["most"][0] in "\n".join(uniform_lines(far))
    uniform = precrop.plan(cifar_mobilenet_v2(), (3, 32, 32), rule="uniform", **options)
    assert uniform.solver["uniform"]["apart"] < 0.05
    assert precrop.Plan.from_json(far.to_json()) == far


def test_a_starved_classifier_is_named() -> None:
    def plan(classes: int, **budgets: float) -> Plan:
        asked: dict[str, Any] = dict(budgets)
        return precrop.plan(nats_sss((16, 32, 32, 64, 64), classes), (3, 32, 32), **asked)

    starving = plan(100, params=0.5)
    assert starving.solver["starved"]["layer"] == "classifier"
    assert "100 classes" in "\n".join(uniform_lines(starving))
    for other in (plan(100, params=0.5, macs=0.5), plan(10, params=0.5)):
        assert "starved" not in other.solver
    quiet = dataclasses.replace(starving, solver={})
    assert list(uniform_lines(quiet)) == []


@pytest.mark.parametrize("terms", [{(0, 1, 2): 10, (0, 0, 0): 3}, {(0, 0, 1): 7, (2,): 5, (): 40}])
def test_costs_of_degree_three(terms: dict[tuple[int, ...], int]) -> None:
    groups = tuple(Group(f"g{index}", 9, 9, 1, 9) for index in range(3))
    ends = [(Cost({(i + 1,): 1}), {i: 1.0}, {i + 1: 1.0}) for i in range(2)]
    layers = tuple(Layer(f"l{i}", "conv", 81, 81, 9, 9, *end) for i, end in enumerate(ends))
    structure = Structure(groups, layers, {"params": Cost(terms)})
    for limit in (500, 1000, 3000):
        problem = program(structure, {"params": limit})
        share = uniform_share(problem)
        assert problem.used(np.full(3, np.log(share))) == pytest.approx([1.0])
