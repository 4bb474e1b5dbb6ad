"""Other ways to widths: the exact objective, given densities, and densities first."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.linear.closed_form import closed_form, layer_costs
from precrop.linear.expected import Expectation, ScoreExpectation
from precrop.models import cifar_vgg16_bn, resnet20
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.program import EXPANSION, Program, program
from precrop.solve.relax import Allocation, allocate
from precrop.solve.rounding import round_units
from precrop.solve.structure import Floats, Layer, Structure
from precrop.strategies import exact as exact_module
from precrop.strategies.exact import climb
from precrop.strategies.match import Match
from precrop.strategies.objectives import OBJECTIVES
from precrop.strategies.shapes import shaped
from precrop.strategies.strategy import Solution
from precrop.strategies.synexp import SynExp
from precrop.strategies.two_step import RULES, TwoStep
from precrop.strategies.uniform import Uniform
from tests.general_solver import maximised
from tests.networks import SHAPE, small
from tests.structures import (
    chain,
    dense,
    evaluate,
    limits_of,
    mobile,
    residual,
    scrambled,
    vgg16,
)

IMAGE = (3, 32, 32)
STRUCTURES = {
    "vgg": vgg16(),
    "chain": chain([16, 24, 32]),
    "residual": residual([16, 32, 64], 2),
    "dense": dense([3, 2]),
    "mobile": mobile([32, 16, 24, 64]),
    "scrambled": scrambled(5, 10, widest=64),
}


def ends(structure: Structure) -> Floats:
    """What every group holds of both ends of every layer, shape (layers, groups)."""
    matrix = np.zeros((len(structure.layers), len(structure.groups)))
    for row, layer in enumerate(structure.layers):
        for end in (layer.inputs, layer.outputs):
            for group, share in end.items():
                matrix[row, group] += share
    return matrix


def named(structure: Structure, log_densities: Floats) -> dict[str, float]:
    pairs = zip(structure.layers, np.exp(log_densities), strict=True)
    return {layer.name: min(1.0, float(density)) for layer, density in pairs}


def cost_of(problem: Program, log_ratios: Floats) -> dict[str, float]:
    """The share of every budget that is used."""
    units = (problem.choices.units * np.exp(log_ratios)).tolist()
    return {
        name: evaluate(problem.structure, name, units) / limit
        for name, limit in problem.limits.items()
    }


def slope(function: Any, x: Floats, step: float = 1e-5) -> Floats:
    found = [
        (function(x + step * one) - function(x - step * one)) / (2 * step) for one in np.eye(len(x))
    ]
    return np.array(found)


# --- the exact objective --------------------------------------------------------------------------


def exact(
    model: nn.Module,
    shape: Any,
    shares: Mapping[str, float],
    kind: type[Expectation] = ScoreExpectation,
) -> tuple[Program, Expectation]:
    network = read_network(model, Inputs(shape))
    structure = lower(network).structure
    return program(structure, limits_of(structure, shares)), kind(network)


KINDS = [ScoreExpectation, Expectation]


BUDGETS = [{"params": 0.3, "macs": 0.3}, {"params": 0.03}]
CASES = [(name, budget) for name in ("resnet20", "dense", "inception") for budget in BUDGETS]


def network_of(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return (resnet20(), IMAGE) if name == "resnet20" else (small(name, 64, 96), SHAPE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "shares"), CASES)
def test_exact_climbs_from_both_starts(
    name: str, shares: dict[str, float], kind: type[Expectation]
) -> None:
    problem, expectation = exact(*network_of(name), shares, kind)
    solved: list[Allocation] = []

    def watched(of: Program) -> Allocation:
        solved.append(allocate(of))
        return solved[-1]

    with mock.patch.object(exact_module, "allocate", watched):
        found = climb(expectation, problem)
    starts = found.report["starts"]
    assert list(starts) == ["synexp", "dense"]
    # Solved are: both starts, then the points of either climb, the last of which is no better.
    first = starts["synexp"]["rounds"] + 1
    for start, points, end in (
        (solved[0], solved[2 : 2 + first], starts["synexp"]),
        (solved[1], solved[2 + first :], starts["dense"]),
    ):
        assert len(points) == end["rounds"] + 1
        values = [found.value(point.log_ratios) for point in (start, *points)]
        steps = np.diff(values)
        assert (steps[:-1] > exact_module.CLIMBED).all()
        assert -1e-6 < steps[-1] <= exact_module.CLIMBED
        assert end["objective"] == pytest.approx(values[-2])
        ends_of = ends(problem.structure) @ (start, *points)[-2].log_ratios
        assert end[kind.label] == pytest.approx(expectation.value(ends_of))

    best = found.value(found.allocation.log_ratios)
    assert best == max(end["objective"] for end in starts.values())
    assert best >= found.value(SynExp()(problem).allocation.log_ratios)
    used = cost_of(problem, found.allocation.log_ratios)
    assert max(used.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("name", "shares"), CASES)
def test_the_rounded_problem_has_the_exact_slope(name: str, shares: dict[str, float]) -> None:
    problem, expectation = exact(*network_of(name), shares)
    found = climb(expectation, problem)
    x = found.allocation.log_ratios
    np.testing.assert_allclose(
        slope(found.problem.value, x), slope(found.value, x), rtol=1e-5, atol=1e-5
    )


def test_exact_differs_where_densities_are_low() -> None:
    problem, expectation = exact(*network_of("resnet20"), {"params": 0.03})
    found, default = climb(expectation, problem), SynExp()(problem)
    gain = found.value(found.allocation.log_ratios) - found.value(default.allocation.log_ratios)
    assert gain > 0.5
    assert np.ptp(found.allocation.log_ratios - default.allocation.log_ratios) > 0.2


def test_exact_is_the_default_in_a_chain() -> None:
    model = cifar_vgg16_bn()
    problem, expectation = exact(model, IMAGE, {"params": 0.3, "macs": 0.3})
    found, default = climb(expectation, problem), SynExp()(problem)
    np.testing.assert_allclose(
        found.allocation.log_ratios, default.allocation.log_ratios, atol=1e-6
    )
    np.testing.assert_allclose(found.problem.gain, default.problem.gain, rtol=1e-9)
    plans = [
        precrop.plan(model, IMAGE, params=0.3, macs=0.3, objective=name)
        for name in ("synexp", "exact", "exact-output")
    ]
    assert plans[0].widths == plans[1].widths == plans[2].widths
    for plan in plans[1:]:
        assert [start["rounds"] for start in plan.solver["starts"].values()] == [0, 0]


def test_exact_needs_layers_that_are_applied_once() -> None:
    with pytest.raises(PrecropError, match="applied several times in a row"):
        precrop.plan(small("reused"), SHAPE, params=0.5, objective="exact")


@pytest.mark.parametrize("block", ["squeeze excite", "depthwise", "mixed"])
def test_exact_plans_build(block: str) -> None:
    model = small(block)
    plan = precrop.plan(model, SHAPE, params=0.5, objective="exact")
    assert 0.45 < plan.params / plan.base_params <= 0.5
    assert sum(p.numel() for p in plan.build(model).parameters()) == plan.params
    assert set(plan.solver["starts"]) == {"synexp", "dense"}
    assert plan.options["objective"] == "exact"


def test_exact_needs_weights_that_are_not_all_zero() -> None:
    model = resnet20()
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(PrecropError, match="all weights of a layer are zero"):
        precrop.plan(model, IMAGE, params=0.5, objective="exact")


# --- given densities ------------------------------------------------------------------------------


def oracle(problem: Program, targets: Mapping[str, float], balance: float, factor: float) -> Floats:
    """Least squares and balance stated for cvxpy, straight from the layers."""
    structure = problem.structure
    x = cvxpy.Variable(len(structure.groups))
    objective, aims = 0, set()
    for layer in structure.layers:
        if layer.name not in targets or not (layer.inputs or layer.outputs):
            continue
        both = [sum(s * x[g] for g, s in end.items()) for end in (layer.inputs, layer.outputs)]
        aim = min(0.0, math.log(targets[layer.name]) + math.log(factor))
        objective -= cvxpy.square(sum(both) - aim)
        if layer.inputs and layer.outputs:
            objective -= balance * cvxpy.square(both[0] - both[1])
        aims |= {*layer.inputs, *layer.outputs}
    for group in set(range(len(structure.groups))) - aims:
        objective -= cvxpy.square(x[group])
    return maximised(problem, x, objective)[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shares", [{}, {"params": 0.4}, {"params": 0.3, "macs": 0.2}])
@pytest.mark.parametrize("name", STRUCTURES)
def test_matched_agrees_with_a_general_solver(name: str, shares: dict[str, float]) -> None:
    structure = STRUCTURES[name]
    random = np.random.default_rng(1)
    problem = program(structure, limits_of(structure, shares))
    targets = named(structure, np.log(random.uniform(0.1, 1, len(structure.layers))))
    for some in (targets, dict(list(targets.items())[::2])):
        found = Match(some, 1.0)(problem)
        assert found.report["collapsed"] == []
        expected = oracle(problem, some, 1.0, found.report["target_factor"])
        np.testing.assert_allclose(found.allocation.log_ratios, expected, atol=2e-4)
        assert found.targets == some


@pytest.mark.parametrize("name", STRUCTURES)
def test_densities_that_some_widths_have_are_recovered(name: str) -> None:
    structure = STRUCTURES[name]
    random = np.random.default_rng(2)
    x = np.log(random.uniform(0.3, 0.9, len(structure.groups)))
    wanted = ends(structure) @ x
    bases = {n: evaluate(structure, n, structure.units) for n in structure.costs}
    units = np.exp(x) * structure.units
    limits = {n: int(evaluate(structure, n, units.tolist())) + 1 for n in bases}
    for budgets in ({}, limits):
        found = Match(named(structure, wanted), 1e-7)(program(structure, budgets))
        reached = ends(structure) @ found.allocation.log_ratios
        np.testing.assert_allclose(reached, wanted, atol=1e-3)
        assert found.value(found.allocation.log_ratios) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("factory", [cifar_vgg16_bn, resnet20])
def test_a_plan_follows_from_its_densities(factory: Any) -> None:
    model = factory()
    plan = precrop.plan(model, IMAGE, params=0.3, macs=0.3, divisor=1)
    asked = plan.densities
    again = precrop.plan(model, IMAGE, densities=asked, balance=1e-5)
    assert again.widths == plan.widths
    assert again.budgets == {}
    assert {layer.name: layer.target for layer in again.layers} == asked
    budgets: dict[str, Any] = {"params": 0.3, "macs": 0.3, "divisor": 1}
    bounded = precrop.plan(model, IMAGE, densities=asked, balance=1e-5, **budgets)
    assert bounded.widths == plan.widths
    # With the usual balance some of the match is given for it.
    balanced_one = precrop.plan(model, IMAGE, densities=asked)
    for one, two in zip(plan.layers, balanced_one.layers, strict=True):
        assert two.density == pytest.approx(one.density, rel=0.12)


@pytest.mark.parametrize("groups", ["keep", "scale"])
def test_the_density_of_a_layer_in_groups_is_that_of_its_weights(groups: Any) -> None:
    """Groups that keep their width lose weights as channels, not as the square of them."""
    layers = nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=16)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    plan = precrop.plan(model, (3, 8, 8), densities={"2": 0.25}, groups=groups)
    assert plan.densities["2"] == 0.25
    built = plan.build(model)
    assert built.get_parameter("2.weight").numel() == model.get_parameter("2.weight").numel() // 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_budgets_are_used_up_whatever_the_densities(share: float) -> None:
    model = resnet20()
    for density in (0.05, 0.6):
        names = [layer.name for layer in read_network(model, Inputs(IMAGE)).layers]
        asked = dict.fromkeys(names, density)
        plan = precrop.plan(model, IMAGE, densities=asked, params=share)
        assert 0.98 * share < plan.params / plan.base_params <= share
        assert (plan.solver["target_factor"] > 1.01) == (density < share)


def test_no_factor_lifts_a_target_above_one() -> None:
    model = resnet20()
    names = [layer.name for layer in read_network(model, Inputs(IMAGE)).layers]
    plan = precrop.plan(model, IMAGE, densities=dict.fromkeys(names, 0.25), params=1.0)
    assert plan.params == plan.base_params
    assert plan.solver["target_factor"] == pytest.approx(4)


def test_collapsed_layers_are_reported_and_leave_their_neighbours_alone() -> None:
    model = cifar_vgg16_bn()
    network = read_network(model, Inputs(IMAGE))
    layers = {layer.name: layer.weights for layer in lower(network).structure.layers}
    asked = dict.fromkeys(layers, 0.25)
    gone = ["features.27", "features.30", "features.37"]
    asked |= {name: 1 / layers[name] for name in gone}
    plan = precrop.plan(model, IMAGE, densities=asked)
    assert plan.solver["collapsed"] == gone
    widths = {name: outputs for name, (_, outputs) in plan.widths.items()}
    assert widths["features.27"] == 1  # the one width that no other layer has
    others = [n for n in widths if n not in ("features.27", "classifier")]
    for layer in plan.layers:
        if layer.name in others:
            assert layer.out_channels == pytest.approx(layer.base_out / 2, rel=0.35)


def test_a_layer_between_fixed_ends_is_not_collapsed() -> None:
    model = resnet20()
    names = [layer.name for layer in read_network(model, Inputs(IMAGE)).layers]
    asked = dict.fromkeys(names, 0.5)
    plan = precrop.plan(model, IMAGE, densities=asked, ignore=["conv1", "layer1*"])
    assert plan.solver["collapsed"] == []
    assert plan.widths["layer1.2.conv2"] == (16, 16)
    whole = precrop.plan(model, IMAGE, densities=asked, ignore=["*"])
    assert (whole.params, whole.solver["collapsed"]) == (whole.base_params, [])


def test_widths_that_no_density_speaks_of_stay() -> None:
    model = cifar_vgg16_bn()
    for balance in (0.0, 1.0):
        plan = precrop.plan(model, IMAGE, densities={"features.14": 0.25}, balance=balance)
        narrower = [layer.name for layer in plan.layers if layer.out_channels < layer.base_out]
        assert narrower == ["features.10", "features.14"]
        assert plan.layers[4].density == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("method", ["erk", "igq", "synflow"])
def test_densities_of_any_method_are_accepted(method: str) -> None:
    torch.manual_seed(0)
    model = resnet20()
    options: dict[str, Any] = {"rounds": 5} if method == "synflow" else {}
    asked = precrop.densities(model, IMAGE, method=method, params=0.5, **options)
    plan = precrop.plan(model, IMAGE, densities=asked, params=0.5, macs=0.4, divisor=1)
    assert plan.params <= 0.5 * plan.base_params
    assert plan.macs <= 0.4 * plan.base_macs
    logs = [(math.log(layer.target or 1), math.log(layer.density)) for layer in plan.layers]
    assert np.corrcoef(np.array(logs).T)[0, 1] > 0.5


# --- densities first ------------------------------------------------------------------------------


def combined(rule: str, ratios: Sequence[float]) -> float:
    if rule == "geometric-mean":
        return float(np.exp(np.mean(np.log(ratios))))
    return min(ratios) if rule == "sqrt-min" else max(ratios)


def by_hand(problem: Program, rule: str, targets: Mapping[str, float]) -> Floats:
    """Ratios before they are scaled, one group at a time."""
    ratios = []
    for group in range(len(problem.structure.groups)):
        asked = []
        for layer in problem.structure.layers:
            p = targets.get(layer.name, 1.0)
            if group in layer.inputs or group in layer.outputs:
                asked.append(p**0.5 if layer.inputs and layer.outputs else p)
        ratios.append(combined(rule, asked) if asked else 1.0)
    return np.array(ratios)


def scaled(problem: Program, ratios: Floats) -> Floats:
    """All ratios times the largest factor that fits, found by halving."""
    choices = problem.choices
    lower, upper = choices.lower / choices.units, choices.upper / choices.units
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        fits = max(cost_of(problem, np.log(np.clip(middle * ratios, lower, upper))).values()) <= 1
        low, high = (middle, high) if fits else (low, middle)
    return np.clip(low * ratios, lower, upper)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", STRUCTURES)
def test_rules_by_hand(name: str, rule: str) -> None:
    structure = STRUCTURES[name]
    random = np.random.default_rng(3)
    given = named(structure, np.log(random.uniform(0.05, 1, len(structure.layers))))
    for shares in ({"params": 0.3}, {"params": 0.4, "macs": 0.2}):
        problem = program(structure, limits_of(structure, shares))
        for targets in ({}, given):
            found = TwoStep(rule, targets)(problem)
            used = targets or best_densities(problem, shares)
            assert found.targets == pytest.approx(used, rel=1e-2)
            expected = scaled(problem, by_hand(problem, rule, found.targets))
            reached = np.exp(found.allocation.log_ratios)
            np.testing.assert_allclose(reached, expected, rtol=1e-6)
            assert max(cost_of(problem, np.log(reached)).values()) == pytest.approx(1, abs=1e-6)
            assert found.allocation.status == "rule"


def best_densities(problem: Program, shares: Mapping[str, float]) -> dict[str, float]:
    """SynExp's, for the same shares of the layers' own costs."""
    layers: Sequence[Layer] = problem.structure.layers
    costs = layer_costs(layers)
    limits = {cost: share * costs[cost].sum() for cost, share in shares.items()}
    found = closed_form(costs, limits)
    return {layer.name: float(p) for layer, p in zip(layers, found, strict=True)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", STRUCTURES)
def test_whole_units_lie_next_to_the_scaled_ones(name: str, rule: str) -> None:
    structure = STRUCTURES[name]
    random = np.random.default_rng(4)
    targets = named(structure, np.log(random.uniform(0.1, 0.9, len(structure.layers))))
    for limits in ({}, limits_of(structure, {"params": 0.3})):
        problem = program(structure, limits)
        found = TwoStep(rule, targets)(problem)
        start = found.allocation
        units = round_units(found.problem, start.log_ratios, start.multipliers)
        aimed = np.exp(start.log_ratios) * problem.choices.units
        if not limits:
            assert np.abs(units - aimed).max() <= 1
            continue
        used = max(cost_of(problem, np.log(units / structure.units)).values())
        assert 0.95 < used <= 1
        # What is left over is spent, and wide groups give way to narrow ones.
        assert (np.abs(units - aimed) <= np.maximum(2, 0.1 * aimed)).all()


def test_a_rule_may_widen() -> None:
    structure = vgg16()
    problem = program(structure, limits_of(structure, {"params": 1.0}), cap=EXPANSION)
    found = TwoStep("geometric-mean", {})(problem)
    ratios = np.exp(found.allocation.log_ratios)
    assert ratios[0] == pytest.approx(4)
    assert ratios[9] < 1
    assert found.allocation.at_cap[0] == 0
    assert max(found.targets.values()) > 10
    plenty = program(structure, limits_of(structure, {"params": 99.0}), cap=EXPANSION)
    found = TwoStep("geometric-mean", {})(plenty)
    assert np.exp(found.allocation.log_ratios) == pytest.approx(4)
    assert found.allocation.at_cap == tuple(range(13))


def test_uniform_is_one_multiplier() -> None:
    for structure in STRUCTURES.values():
        for shares in ({"params": 0.3}, {"params": 0.4, "macs": 0.2}):
            problem = program(structure, limits_of(structure, shares))
            found = Uniform()(problem)
            x = found.allocation.log_ratios
            assert np.ptp(x) < 1e-9
            assert max(cost_of(problem, x).values()) == pytest.approx(1, abs=1e-6)
            units = round_units(found.problem, x, found.allocation.multipliers)
            used = max(cost_of(problem, np.log(units / structure.units)).values())
            assert 0.95 < used <= 1


def test_plans_of_one_share() -> None:
    plan = precrop.plan(resnet20(), IMAGE, params=0.3, macs=0.3, rule="uniform")
    shares = [layer.out_channels / layer.base_out for layer in plan.layers if layer.group]
    assert max(shares) - min(shares) <= 1 / 16
    assert max(plan.params / plan.base_params, plan.macs / plan.base_macs) > 0.29
    by_memory = precrop.plan(resnet20(), IMAGE, memory=0.5, rule="uniform")  # needs no densities
    assert by_memory.budgets["memory"].used <= by_memory.budgets["memory"].limit


@pytest.mark.parametrize("rule", RULES)
def test_plans_by_rule(rule: str) -> None:
    model = resnet20()
    plan = precrop.plan(model, IMAGE, params=0.3, macs=0.3, rule=rule)
    assert max(plan.params / plan.base_params, plan.macs / plan.base_macs) > 0.29
    assert plan.params <= 0.3 * plan.base_params
    assert plan.macs <= 0.3 * plan.base_macs
    assert plan.options["rule"] == rule
    assert all(0 < (layer.target or 0) <= 1 for layer in plan.layers)
    assert sum(p.numel() for p in plan.build(model).parameters()) == plan.params
    given = precrop.plan(model, IMAGE, densities={"layer2.0.conv2": 0.25}, rule=rule)
    narrow = {layer.name for layer in given.layers if layer.out_channels < layer.base_out}
    assert ("layer2.0.conv1" in narrow) == (rule != "sqrt-max")
    assert "layer1.0.conv1" not in narrow


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sqrt"}, "rule='sqrt' is unknown: choose from balanced, uniform, sqrt-min"),
        (
            {"objective": "snip"},
            "objective='snip' is unknown: choose from synexp, dense-layers, inner-layers, exact",
        ),
        ({"densities": {"conv1": 0}}, r"density of conv1 is 0: write a number in \(0, 1\]"),
        ({"densities": {"conv1": 1.5}}, "density of conv1 is 1.5"),
        ({"densities": {"conv1": math.nan}}, "density of conv1 is nan"),
        ({"densities": {"conv1": "a"}}, "density of conv1 is 'a'"),
        ({"densities": {"conv": 0.5}}, "'conv' that is not there; did you mean conv1"),
        ({"densities": {}}, "densities= is empty"),
        (
            {"densities": {"conv1": 0.5}, "objective": "exact"},
            "objective='exact' excludes densities= and rule=",
        ),
        ({"rule": "sqrt-min", "objective": "exact"}, "excludes densities= and rule="),
        ({"rule": "uniform", "densities": {"conv1": 0.5}}, "uniform' looks at no densities"),
        ({"rule": "sqrt-min", "balance": 0.5}, "rule='sqrt-min' has no balance: drop balance=0.5"),
        (
            {"rule": "sqrt-max", "densities": {"conv1": 0.5}, "balance": 0},
            "rule='sqrt-max' has no balance",
        ),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecropError, match=message):
        precrop.plan(resnet20(), IMAGE, params=0.5, **options)


@pytest.mark.parametrize("options", [{"objective": "exact"}, {"rule": "sqrt-min"}, {}])
def test_a_budget_is_needed_where_no_density_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(BudgetError):
        precrop.plan(resnet20(), IMAGE, **options)


def test_infeasible_budgets_are_refused_whatever_the_way() -> None:
    for options in ({"rule": "sqrt-max"}, {"objective": "exact"}, {"densities": {"fc": 0.5}}):
        with pytest.raises(BudgetError, match="the least possible"):
            precrop.plan(resnet20(), IMAGE, params=100, **options)


def test_a_plan_of_a_removed_objective_still_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files name their objective, but widths are all that building needs."""
    monkeypatch.setitem(OBJECTIVES, "root-macs", lambda known: np.ones(len(known.layers)))
    model = precrop.models.resnet20()
    precrop.plan(model, (3, 32, 32), macs=0.5, objective="root-macs").save(tmp_path / "old.json")
    monkeypatch.delitem(OBJECTIVES, "root-macs")
    plan = precrop.Plan.load(tmp_path / "old.json")
    built = plan.build(model)
    assert sum(p.numel() for p in built.parameters()) == plan.params
    with pytest.raises(PrecropError, match="'root-macs' was removed: it chose worse widths"):
        precrop.plan(model, (3, 32, 32), macs=0.5, objective="root-macs")


# --- as values ----------------------------------------------------------------------------------


SAID: list[tuple[precrop.Strategy, dict[str, Any]]] = [
    (precrop.SynExp(), {}),
    (precrop.SynExp(balance=0.1), {"balance": 0.1}),
    (precrop.SynExp(objective="inner-layers"), {"objective": "inner-layers"}),
    (precrop.Exact(), {"objective": "exact"}),
    (precrop.Exact("exact-output", 2.0), {"objective": "exact-output", "balance": 2.0}),
    (precrop.Uniform(), {"rule": "uniform"}),
    (precrop.TwoStep("sqrt-min"), {"rule": "sqrt-min"}),
    (precrop.Match({"features.0": 0.5}), {"densities": {"features.0": 0.5}}),
    (precrop.Widths({"classifier.0": 20}), {"widths": {"classifier.0": 20}}),
]


@pytest.mark.parametrize(("strategy", "keywords"), SAID, ids=lambda given: str(given)[:30])
def test_a_strategy_is_what_its_keywords_say(
    strategy: precrop.Strategy, keywords: dict[str, Any]
) -> None:
    model = alexnet_like()
    one = precrop.plan(model, SHAPE, params=0.5, strategy=strategy)
    other = precrop.plan(model, SHAPE, params=0.5, **keywords)
    assert (one.widths, one.options, one.layers) == (other.widths, other.options, other.layers)


def alexnet_like() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    classifier = nn.Sequential(nn.Linear(128, 60), nn.ReLU(), nn.Linear(60, 10))
    parts = {"features": features, "flat": nn.Flatten(), "classifier": classifier}
    return nn.Sequential(OrderedDict(parts))


class Pyramid(precrop.Strategy):
    """The later a layer, the more of its width it keeps."""

    def __call__(self, problem: Program) -> Solution:
        return shaped(problem, np.linspace(-1.0, 0.0, len(problem.gain)), {})


def test_a_strategy_of_ones_own_in_a_few_lines() -> None:
    plan = precrop.plan(alexnet_like(), SHAPE, params=0.5, strategy=Pyramid())
    first, second = plan.layers[0], plan.layers[1]
    assert first.out_channels / 32 < 0.6 < second.out_channels / 60
    assert plan.params <= 0.5 * plan.base_params
    assert plan.options["rule"] == "Pyramid"
    assert precrop.Plan.from_json(plan.to_json()) == plan


def test_attributes_of_a_strategy_of_ones_own_that_are_no_options_leave_the_plan_savable() -> None:
    strategy = Pyramid()
    strategy.rule, strategy.objective = (lambda: None), object()  # type: ignore[attr-defined]
    plan = precrop.plan(alexnet_like(), SHAPE, params=0.5, strategy=strategy)
    assert (plan.options["rule"], plan.options["objective"]) == ("Pyramid", "synexp")
    assert precrop.Plan.from_json(plan.to_json()) == plan


class Told(precrop.Strategy):
    """Does as it is told."""

    def __init__(self, solve: Any) -> None:
        vars(self)["solve"] = solve

    def __call__(self, problem: Program) -> Solution:
        solution: Solution = vars(self)["solve"](problem)
        return solution


def changed(problem: Program, **changes: Any) -> Solution:
    """The widths of `Pyramid`, but for parts of its allocation."""
    solution = Pyramid()(problem)
    return replace(solution, allocation=replace(solution.allocation, **changes))


@pytest.mark.parametrize(
    ("solve", "message"),
    [
        (lambda p: p.nothing, r"fails \(test_strategies.py, line \d+\): AttributeError: "),
        (lambda p: None, "must return a Solution, as `shaped` does, not None"),
        (lambda p: shaped(p, np.full(len(p.gain), np.nan), {}), "fails "),
        (lambda p: changed(p, log_ratios=None), "must give 2 log ratios, all finite numbers"),
        (lambda p: changed(p, log_ratios=p.gain * np.nan), "must give 2 log ratios, all finite"),
        (lambda p: changed(p, multipliers={}), "must give 1 multipliers of the limits"),
        (lambda p: replace(Pyramid()(p), value=lambda x: np.nan), "gives nan as the value of its"),
    ],
)
def test_what_a_strategy_of_ones_own_returns_is_checked(solve: Any, message: str) -> None:
    with pytest.raises(PrecropError, match=f"^strategy Told {message}"):
        precrop.plan(alexnet_like(), SHAPE, params=0.5, strategy=Told(solve))


def test_what_is_no_strategy_is_refused() -> None:
    model = alexnet_like()
    with pytest.raises(
        PrecropError,
        match=r"strategy='uniform' is not a strategy: give an instance, such as precrop.SynExp",
    ):
        precrop.plan(model, SHAPE, params=0.5, strategy="uniform")  # type: ignore[arg-type]
    with pytest.raises(PrecropError, match="strategy= says how widths are found: drop objective="):
        precrop.plan(model, SHAPE, params=0.5, strategy=precrop.Uniform(), balance=2.0)
    with pytest.raises(PrecropError, match="objective='best' is unknown: choose from synexp"):
        precrop.plan(model, SHAPE, params=0.5, strategy=precrop.SynExp(objective="best"))
    with pytest.raises(PrecropError, match="rule='best' is unknown: choose from sqrt-min"):
        precrop.plan(model, SHAPE, params=0.5, strategy=precrop.TwoStep("best"))
    with pytest.raises(PrecropError, match="write a budget|budget"):
        precrop.plan(model, SHAPE, strategy=precrop.Uniform())
    with pytest.raises(PrecropError, match="widths= is empty"):
        precrop.plan(model, SHAPE, strategy=precrop.Widths({}))
