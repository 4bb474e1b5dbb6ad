"""The ways in which a study makes a network smaller."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.models import cifar_vgg16_bn, resnet20
from precrop.plans.plan import Plan
from precrop.study import torch_pruning
from precrop.study.variants import WAYS, HowEntry, PlanKeys, UniformKeys, Variant, VariantRequest
from tests.planning import counted_macs, counted_params

IMAGE = (3, 32, 32)


def variant_of(entry: dict[str, Any]) -> Variant:
    return HowEntry.model_validate({"name": "x", **entry}).variant()


def planned(way: str, model: nn.Module, budgets: Any, **options: Any) -> Plan:
    return WAYS[way](VariantRequest(model, IMAGE, budgets, options))


@pytest.mark.parametrize(
    ("entry", "kind", "method", "granularity"),
    [
        ({}, "dense", "", ""),
        ({"plan": {}}, "cropped", "synexp", "channel"),
        ({"plan": None}, "cropped", "synexp", "channel"),
        ({"plan": {"objective": "exact"}}, "cropped", "exact", "channel"),
        ({"plan": {"widths": {"conv1": 8}}}, "cropped", "given", "channel"),
        ({"plan": {}, "densities": "erk"}, "cropped", "erk", "channel"),
        ({"plan": {}, "mask": "kernel"}, "masked", "synexp", "kernel"),
        ({"plan": {}, "mask": "filter", "densities": "snip"}, "masked", "snip", "filter"),
        ({"uniform": {"divisor": 8}}, "cropped", "uniform", "channel"),
        ({"uniform": {}, "mask": "weight"}, "masked", "uniform", "weight"),
        ({"torch-pruning": {}}, "cropped", "torch-pruning", "channel"),
        ({"mask": "synflow"}, "masked", "synflow", "weight"),
        ({"mask": "erk:channel"}, "masked", "erk", "channel"),
    ],
)
def test_what_a_variant_is(entry: dict[str, Any], kind: str, method: str, granularity: str) -> None:
    variant = variant_of(entry)
    assert (variant.kind, variant.method, variant.granularity) == (kind, method, granularity)
    assert variant.budgeted == (kind != "dense" and method != "given")


def test_options_of_a_method_are_part_of_what_is_asked() -> None:
    plain = variant_of({"mask": "snip"})
    entry = {"mask": "snip", "method_options": {"batch_norm": "stored"}}
    stored = variant_of(entry)
    assert "method_options" not in plain.to_json()
    assert stored.to_json() == {**plain.to_json(), "method_options": {"batch_norm": "stored"}}


def test_a_plan_has_every_option_but_what_the_study_says() -> None:
    options = set(inspect.signature(precrop.plan).parameters)
    # Budgets of a study are shares of params and MACs: it compares accuracy, whatever the device.
    deployed = {"latency", "memory", "batch_size", "device_profile"}
    shapes = {"input_shape", "example_inputs", "example_kwargs"}  # a study's inputs are images
    in_python = {"strategy", "costs"}  # values of a type of its own, costs of a plugin
    said = {"model", *shapes, "params", "macs", "densities", *deployed, *in_python}
    assert set(PlanKeys.__annotations__) == options - said
    # What would compete with uniform width or with given widths is none of its options.
    assert set(UniformKeys.__annotations__) == options - said - {
        "balance", "objective", "rule", "widths"
    }  # fmt: skip


def test_plan_is_precrops() -> None:
    model = resnet20()
    budgets = {"params": 0.3, "macs": 0.4}
    found = planned("plan", model, budgets, divisor=2, balance=0.5)
    same = precrop.plan(model, IMAGE, params=0.3, macs=0.4, divisor=2, balance=0.5)
    assert found.widths == same.widths
    assert planned("plan", model, budgets).options["divisor"] == 1
    assert planned("uniform", model, budgets).options["divisor"] == 1
    auto = planned("plan", model, {"macs": 0.3}, divisor="auto")
    assert auto.widths == precrop.plan(model, IMAGE, macs=0.3).widths
    assert auto.options["divisor"] == 8
    densities = {"layer3.0.conv1": 0.1, "layer1.0.conv1": 0.9}
    request = VariantRequest(model, IMAGE, budgets, {}, densities)
    asked = precrop.plan(model, IMAGE, params=0.3, macs=0.4, densities=densities, divisor=1)
    assert WAYS["plan"](request).widths == asked.widths != same.widths


def test_uniform_is_one_share_of_every_width() -> None:
    model = cifar_vgg16_bn()
    for share in (0.5, 0.1):
        plan = planned("uniform", model, {"params": share, "macs": share})
        ratios = [layer.out_channels / layer.base_out for layer in plan.layers[:-1]]
        # As near as whole channels come: the narrowest layer has 64.
        assert max(ratios) - min(ratios) < 1 / 64
        assert max(plan.params / plan.base_params, plan.macs / plan.base_macs) > 0.98 * share


class TestTorchPruning:
    @pytest.mark.parametrize(
        "options", [{}, {"importance": "magnitude", "global_pruning": True}, {"round_to": 4}]
    )
    def test_it_meets_every_budget(self, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        model = resnet20()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        plan = planned("torch-pruning", model, {"params": 0.5, "macs": 0.3}, **options)
        assert plan.params <= 0.5 * plan.base_params
        assert 0.25 * plan.base_macs < plan.macs <= 0.3 * plan.base_macs
        built = plan.build(model)
        assert type(built) is type(model)
        assert (counted_params(built), counted_macs(built, IMAGE)) == (plan.params, plan.macs)
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
        if "round_to" in options:
            assert all(width % 4 == 0 for _, width in list(plan.widths.values())[:-1])

    def test_it_is_what_its_pruner_makes(self) -> None:
        model = resnet20()
        request = VariantRequest(model, IMAGE, {"macs": 0.3}, {})
        plan = torch_pruning.plan(request)
        steps = [step / 1024 for step in range(1, 1024)]
        shapes = {layer.name: layer.out_channels for layer in plan.layers}

        def widths(ratio: float) -> dict[str, int]:
            pruned = torch_pruning.pruned(request, ratio, ["fc"])
            return torch_pruning.widths_of(pruned, list(shapes))

        fitting = next(ratio for ratio in steps[400:] if widths(ratio) == shapes)
        larger = precrop.plan(model, IMAGE, widths=widths(fitting - 0.02))
        assert larger.macs > 0.3 * larger.base_macs

    def test_a_seed_gives_the_same_network_each_time(self) -> None:
        torch.manual_seed(3)
        model = resnet20()
        state = torch.get_rng_state()
        options = {"importance": "magnitude", "global_pruning": True}
        first, second = (planned("torch-pruning", model, {"macs": 0.3}, **options) for _ in "ab")
        assert first.widths == second.widths
        assert state.equal(torch.get_rng_state())

    def test_mistakes(self) -> None:
        with pytest.raises(
            PrecropError, match="importance 'taylor' is unknown; choose from random"
        ):
            planned("torch-pruning", resnet20(), {"macs": 0.3}, importance="taylor")
        with pytest.raises(BudgetError, match="params=200 cannot be met by Torch-Pruning"):
            planned("torch-pruning", resnet20(), {"params": 200})

    def test_what_it_cannot_prune(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: Any, **options: Any) -> None:
            raise RuntimeError("no\ntrace")

        monkeypatch.setattr("torch_pruning.pruner.MetaPruner", fails)
        with pytest.raises(PrecropError, match="fails on the network: RuntimeError: no trace$"):
            planned("torch-pruning", resnet20(), {"params": 0.5})

    def test_it_may_not_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
        with pytest.raises(
            PrecropError, match="torch_pruning, which is not installed: pip install"
        ):
            planned("torch-pruning", resnet20(), {"macs": 0.3})


def test_matching() -> None:
    synflow, plan = Variant("a", densities="synflow", mask="weight"), Variant("b", "plan")
    assert plan.matched(synflow).match == synflow
    assert plan.matched(synflow).to_json()["match"] == synflow.to_json()
    with pytest.raises(PrecropError, match="match: b has no budgets of its own"):
        plan.matched(plan.matched(synflow))
