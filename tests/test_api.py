"""The public functions: what they accept, what they refuse, and in which words."""

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.costs.profiles import roofline
from precrop.errors import BudgetError, PrecropError
from precrop.models import cifar_vgg16_bn, resnet20
from precrop.solve.budgets import parse_budget
from precrop.solve.structure import Floats, Structure
from precrop.strategies.objectives import OBJECTIVES
from tests.networks import SHAPE, small
from tests.planning import counted_macs, counted_params


def refused(model: nn.Module, shape: Any, **options: Any) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(PrecropError) as caught:
        precrop.plan(model, shape, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "budget", [0, 0.0, -0.5, -3, math.nan, math.inf, 1, "0%", "nan", "half", "", True, None, 101.0]
)
def test_senseless_budgets(budget: Any) -> None:
    with pytest.raises(BudgetError):
        precrop.plan(small("conv"), SHAPE, params=budget)
    refused(small("conv"), SHAPE, macs=budget)


def test_numbers_of_numpy_are_kept_in_a_file(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "expand": np.True_,
        "divisor": np.int64(2),
        "min_width": np.int64(2),
        "params": np.float32(0.5),
        "macs": np.int64(60_000),
        "balance": np.float64(2),
    }
    plan = precrop.plan(small("conv"), SHAPE, **given)
    plan.save(tmp_path / "plan.json")
    assert precrop.Plan.load(tmp_path / "plan.json") == plan
    assert plan.options["expand"] is True


def test_an_example_for_a_reading_is_refused() -> None:
    reading = precrop.Reading(small("conv"), SHAPE)
    with pytest.raises(PrecropError, match="a reading has its inputs already"):
        precrop.plan(reading, example_inputs=np.ones((1, *SHAPE)), params=0.5)


def test_no_budget() -> None:
    assert "no budget given" in refused(small("conv"), SHAPE)


def test_an_infeasible_budget_says_the_least_that_can() -> None:
    model = small("conv")
    message = refused(model, SHAPE, params=20)
    least = int(message.rpartition(" ")[2])
    plan = precrop.plan(model, SHAPE, params=least)
    assert (plan.params, set(plan.widths.values())) == (least, {(3, 1), (1, 1), (1, 5)})
    assert "params=" in refused(model, SHAPE, params=least - 1)


@pytest.mark.parametrize(
    ("option", "text"), [("divisor", "divisor=8"), ("min_width", "min_width=8")]
)
def test_an_infeasible_budget_names_the_rule_behind_it(option: str, text: str) -> None:
    assert text in refused(small("conv"), SHAPE, params=100, **{option: 8})


@pytest.mark.parametrize(
    "shape", [(), (0, 8, 8), (3, -1, 8), (3.0, 8, 8), "3x8x8", None, [], [(3, 8), "x"], 7, [[]]]
)
def test_what_is_no_shape(shape: Any) -> None:
    assert "is not a shape" in refused(small("conv"), shape, params=0.5)


@pytest.mark.parametrize(
    "shape", [(4, 8, 8), (3, 8), (8,), [(3, 8, 8), (3, 8, 8)], {"y": (3, 8, 8)}]
)
def test_shapes_that_the_network_does_not_take(shape: Any) -> None:
    message = refused(small("conv"), shape, params=0.5)
    assert message.startswith("the network fails on input")


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("first line\nsecond line")


def test_a_network_that_fails_in_forward() -> None:
    message = refused(Failing(), (3,), params=0.5)
    assert message == "the network fails on input 3: RuntimeError: first line second line"


class Uncopiable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.stream = (n for n in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_network_that_cannot_be_copied() -> None:
    assert "the network cannot be copied" in refused(Uncopiable(), (3,), params=0.5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ignore": ["layer9.*"]}, "ignore pattern 'layer9.*' matches no layer"),
        ({"ignore": "blocks"}, "'blocks' matches no layer; for the layers in it write 'blocks.*'"),
        ({"balance": 10**400}, "… makes no sense: write a number from 0 to 1,000,000,000"),
        ({"ignore": "nothing"}, "stem.0"),
        ({"groups": "merge"}, "groups='merge' is unknown: write 'keep' or 'scale'"),
        ({"divisor": 0}, "divisor=0"),
        ({"min_width": 0}, "min_width=0"),
        ({"balance": -1.0}, "balance=-1.0"),
        ({"balance": math.nan}, "balance=nan"),
        ({"divisor": "x"}, "divisor='x' is unknown: write a number of channels, or 'auto'"),
        ({"divisor": "8"}, "divisor='8' is unknown"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": "2"}, "batch_size='2'"),
        ({"batch_size": 8}, "batch_size=8 is for budgets of latency and memory"),
        ({"device_profile": "cuda", "divisor": 8}, "is for latency= and divisor='auto'"),
        (
            {"device_profile": "cuda", "divisor": 1, "memory": 0.5},
            "is for latency= and divisor='auto'",
        ),
        ({"divisor": 2.0}, "divisor=2.0 makes no sense: write a whole number"),
        ({"min_width": 2.5}, "min_width=2.5 makes no sense: write a whole number"),
        ({"device_profile": "gpu"}, "cpu or cuda"),
        ({"latency": 8}, "latency=8 has no unit: write a share"),
        ({"memory": "12ms"}, "memory='12ms' is not understood"),
        ({"macs": "20MMACs"}, "; MACs are half of FLOPs: macs='1G'"),
        ({"costs": {"flops": 0.5}}, "memory, latency; MACs are half of FLOPs"),
    ],
)
def test_options_without_sense(options: dict[str, Any], text: str) -> None:
    assert text in refused(small("conv"), SHAPE, params=0.5, **options)


@pytest.mark.parametrize("option", ["divisor", "min_width", "balance"])
@pytest.mark.parametrize("value", [10**30, -(10**30), math.nan, math.inf, -1, True, [8], "8", {}])
def test_values_without_sense(option: str, value: Any) -> None:
    message = refused(small("conv"), SHAPE, params=0.5, **{option: value})
    assert message.startswith(f"{option}=")


OPTIONS = [name for name in inspect.signature(precrop.plan).parameters if name != "model"]
STRANGE = [object(), "x", b"x", -1.5, [8], {"a": 1}, {8}, 1 + 2j, np.array([0.5]), nn.ReLU(), int]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_value_of_any_kind_is_taken_or_refused_in_one_line(option: str) -> None:
    model = small("conv")
    given: dict[str, Any] = {"input_shape": SHAPE, "params": 0.5}
    for value in STRANGE:
        try:
            precrop.plan(model, **{**given, option: value})
        except PrecropError as error:
            assert "\n" not in str(error)
            assert str(error)


@pytest.mark.parametrize("value", [*STRANGE, None, 0.5])
def test_a_network_densities_masks_and_paths_of_any_kind(value: Any) -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, params=0.5)
    densities = precrop.densities(model, SHAPE, method="magnitude", params=0.5)
    with pytest.raises(PrecropError):
        precrop.plan(value, SHAPE, params=0.5)
    if not isinstance(value, nn.Module):
        with pytest.raises(PrecropError, match="is .*not a network"):
            plan.build(value)
    with pytest.raises(PrecropError):
        precrop.masks(model, value, "filter")
    with pytest.raises(PrecropError, match="granularity .* is unknown"):
        precrop.masks(model, densities, value)
    with pytest.raises(PrecropError):
        precrop.apply_masks(model, value)
    with pytest.raises(PrecropError, match="path=.* is not a path|cannot read"):
        precrop.Plan.load(value)


@pytest.mark.parametrize("ignore", ["blocks.*", ["blocks.*"], ["blocks.0.0", "head.*"]])
def test_ignored_layers_keep_their_output(ignore: Any) -> None:
    plan = precrop.plan(small("conv"), SHAPE, params=0.7, ignore=ignore)
    assert plan.widths["blocks.0.0"][1] == 24
    assert plan.widths["stem.0"][1] < 16
    assert "ignored" in plan.frozen["blocks.0.0"]


@pytest.mark.parametrize(
    ("asked", "limit"),
    [(0.5, 2046), ("50%", 2046), (2000, 2000), ("2_000", 2000), ("2K", 2000), ("0.5", 2046)],
)
def test_a_budget_in_every_form(asked: Any, limit: int) -> None:
    plan = precrop.plan(small("conv"), SHAPE, params=asked)
    assert plan.base_params == 4093
    assert (plan.budgets["params"].asked, plan.budgets["params"].limit) == (asked, limit)
    assert plan.params <= limit


def test_crop_is_plan_and_build() -> None:
    model = small("inception")
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6, divisor=2)
    built = precrop.crop(model, SHAPE, params=0.5, macs=0.6, divisor=2)
    expected = plan.build(model).state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in built.state_dict().items())
    reset = precrop.crop(model, SHAPE, params=0.5, macs=0.6, divisor=2, init="reset").state_dict()
    assert not torch.equal(reset["stem.0.weight"], expected["stem.0.weight"])


def test_totals_and_widths() -> None:
    model = small("residual")
    plan = precrop.plan(model, SHAPE, params=0.4, macs=0.5)
    built = plan.build(model)
    assert (plan.params, plan.base_params) == (counted_params(built), counted_params(model))
    assert plan.macs == counted_macs(built, SHAPE) <= plan.base_macs // 2
    assert plan.base_macs == counted_macs(model, SHAPE)
    for name, (inputs, outputs) in plan.widths.items():
        layer = built.get_submodule(name)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.weight.shape[:2] == (outputs, inputs)


def test_one_budget_leaves_the_other_alone() -> None:
    model = small("strided")
    by_params = precrop.plan(model, SHAPE, params=0.5)
    by_macs = precrop.plan(model, SHAPE, macs=0.5)
    assert list(by_params.budgets) == ["params"]
    assert list(by_macs.budgets) == ["macs"]
    assert by_macs.macs < by_params.macs


def test_widening_spends_what_narrowing_saves() -> None:
    with torch.device("meta"):
        model = cifar_vgg16_bn()
    plan = precrop.plan(model, (3, 32, 32), params=1.0, macs=1.0, expand=True)
    assert any(layer.out_channels > layer.base_out for layer in plan.layers)
    assert any(layer.out_channels < layer.base_out for layer in plan.layers)
    assert plan.params <= plan.base_params
    assert plan.macs <= plan.base_macs
    built = plan.build(model)
    assert counted_params(built) == plan.params
    assert counted_macs(built, (3, 32, 32)) == plan.macs


def test_the_same_input_gives_the_same_plan_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    try:
        plans = []
        for count in (1, 2):
            torch.set_num_threads(count)
            plans.append(precrop.plan(small("inception"), SHAPE, params=0.37, macs=0.41))
    finally:
        torch.set_num_threads(threads)
    assert plans[0].layers == plans[1].layers
    assert plans[0].solver == plans[1].solver


def test_saved_and_loaded_on_another_instance(tmp_path: Path) -> None:
    model = small("hierarchy")
    plan = precrop.plan(model, SHAPE, params=0.5)
    plan.save(tmp_path / "half.json")
    loaded = precrop.Plan.load(tmp_path / "half.json")
    assert loaded == plan
    ours, theirs = plan.build(model), loaded.build(small("hierarchy"))
    x = torch.randn(2, *SHAPE)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_random_state_is_not_touched() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = small("stochastic depth")
    precrop.plan(model, SHAPE, params=0.5, expand=True).build(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_of_other_types() -> None:
    model = small("conv").to(torch.float64)
    built = precrop.plan(model, SHAPE, params=0.5).build(model)
    assert built(torch.randn(2, *SHAPE, dtype=torch.float64)).dtype == torch.float64


def test_a_network_without_any_width() -> None:
    model = nn.Linear(3, 5)
    plan = precrop.plan(model, (3,), params=1.0)
    assert plan.widths == {"": (3, 5)}
    assert "cannot be met" in refused(model, (3,), params=0.5)


DEVICE = roofline(1e11, 1e10, launch=1e-8, step=4)


@pytest.mark.parametrize("name", ["latency", "memory"])
def test_the_least_latency_and_memory_that_are_named_are_enough(name: str) -> None:
    """The message has a unit, and what it names can be asked for."""
    model = small("inception")
    options: dict[str, Any] = {"batch_size": 2}
    if name == "latency":
        options["device_profile"] = DEVICE
    message = refused(model, SHAPE, **{name: 1e-3}, **options)
    assert f"{name}=" in message
    assert "cannot be met: the least possible with divisor=1 and min_width=1 is" in message
    least = message.rpartition(" ")[2]
    assert re.fullmatch(r"[\d.]+(kB|us)", least)
    asked: dict[str, Any] = {name: least}
    plan = precrop.plan(model, SHAPE, **asked, **options)
    budget = plan.budgets[name]
    assert budget.asked == least
    assert 0.999 * budget.limit <= budget.used <= budget.limit
    fewer = f"{float(least[:-2]) - 0.002:.3f}{least[-2:]}"
    assert "cannot be met" in refused(model, SHAPE, **{name: fewer}, **options)


def test_all_budgets_at_once(tmp_path: Path) -> None:
    model = small("residual")
    shares: dict[str, Any] = {"params": 0.7, "macs": 0.7, "latency": 0.7, "memory": 0.8}
    options: dict[str, Any] = {"device_profile": DEVICE, "batch_size": 3}
    plan = precrop.plan(model, SHAPE, **shares, **options)
    assert list(plan.budgets) == list(shares)
    for name, share in shares.items():
        budget = plan.budgets[name]
        assert budget.used <= budget.limit == parse_budget(name, share, budget.base)
    assert plan.options["batch_size"] == 3
    assert plan.options["device_profile"]["digest"] == DEVICE.digest
    again = precrop.plan(model, SHAPE, **shares, **options)
    assert dataclasses.replace(again, seconds=plan.seconds).to_json() == plan.to_json()
    plan.save(tmp_path / "plan.json")
    loaded = precrop.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    ours, theirs = (found.build(model).state_dict() for found in (plan, loaded))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("asked", ["2us", "0.000002s", "2000ns"])
def test_a_latency_in_every_unit(asked: str) -> None:
    plan = precrop.plan(small("conv"), SHAPE, latency=asked, device_profile=DEVICE)
    assert plan.budgets["latency"].limit == 2 * 10**9


def test_a_divisor_that_is_the_profiles_step() -> None:
    model = resnet20()
    image = (3, 32, 32)
    plan = precrop.plan(model, image, latency=0.6, device_profile=DEVICE)
    assert plan.options["divisor"] == 4
    assert plan.options["divisor_asked"] == "auto"
    assert {layer.out_channels % 4 for layer in plan.layers[:-1]} == {0}
    by_hand = precrop.plan(model, image, latency=0.6, device_profile=DEVICE, divisor=4)
    assert by_hand.layers == plan.layers
    assert "divisor_asked" not in by_hand.options
    other = precrop.plan(model, image, params=0.6, device_profile=DEVICE)
    assert other.options["divisor"] == 4
    assert precrop.plan(model, image, macs=0.3).options["divisor"] == 8
    assert precrop.plan(model, image, macs=0.3, divisor="auto").options["divisor"] == 8


def test_a_batch_changes_memory_and_not_macs() -> None:
    plans = [precrop.plan(small("conv"), SHAPE, memory=0.9, macs=0.9, batch_size=n) for n in (1, 4)]
    assert plans[1].budgets["memory"].base == 4 * plans[0].budgets["memory"].base
    assert plans[1].budgets["macs"].base == plans[0].budgets["macs"].base == plans[0].base_macs


def test_widths_from_elsewhere_are_checked_against_latency_and_memory() -> None:
    model = small("conv")
    widths = {"stem.0": 8}
    fits = precrop.plan(model, SHAPE, widths=widths, memory=0.99, latency=0.99)
    assert fits.widths["stem.0"] == (3, 8)
    for name in ("memory", "latency"):
        assert name in refused(model, SHAPE, widths=widths, **{name: 0.7})


def test_an_objective_of_ones_own_is_maximised(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(structure: Structure) -> Floats:
        return np.linspace(0.5, 1.5, len(structure.layers))

    monkeypatch.setitem(OBJECTIVES, "late", late)
    model = cifar_vgg16_bn()
    plans = {
        name: precrop.plan(model, (3, 32, 32), macs=0.5, objective=name)
        for name in ("synexp", "late")
    }
    usual, tilted = plans["synexp"].widths, plans["late"].widths
    names = list(usual)
    assert tilted[names[0]][1] < usual[names[0]][1]
    assert tilted[names[9]][1] > usual[names[9]][1]
    assert plans["late"].options["objective"] == "late"
