"""Widths in steps: layers that several groups make up, and layers narrower than the step."""

import dataclasses
import itertools
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precrop
from precrop.costs.profiles import roofline
from precrop.fit.fitting import Fitter
from precrop.models import resnet20
from precrop.planning import Choice
from precrop.plans.table import multiples_lines
from precrop.read import network
from precrop.solve.structure import Group
from tests.networks import SHAPE as NET_SHAPE
from tests.networks import networks
from tests.planning import counted_macs, counted_params, planned

SHAPE = (3, 8, 8)


class Parted(nn.Module):
    """A convolution whose output is cut in two parts that go different ways."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.parts = [first, second]
        self.stem = nn.Conv2d(3, first + second, 3)
        self.a, self.b = nn.Conv2d(first, 24, 3), nn.Conv2d(second, 24, 3)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).split(self.parts, dim=1)
        return self.head(torch.cat([self.a(a), self.b(b)], 1).mean((2, 3)))


class Joined(nn.Module):
    """A depthwise convolution over a concatenation of two layers."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, first, 3), nn.Conv2d(3, second, 3)
        self.mixed = nn.Conv2d(first + second, first + second, 3, groups=first + second)
        self.last, self.head = nn.Conv2d(first + second, 24, 1), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixed(torch.cat([self.a(x), self.b(x)], 1))
        return self.head(self.last(y).mean((2, 3)))


def even(plan: precrop.Plan, divisor: int) -> bool:
    """Whether every layer is a multiple of the divisor or as it was."""
    return all(
        layer.out_channels % divisor == 0 or layer.out_channels == layer.base_out
        for layer in plan.layers
    )


@pytest.mark.parametrize("kind", [Parted, Joined])
@pytest.mark.parametrize("sizes", [(20, 28), (20, 44), (12, 36), (24, 40)])
def test_parts_of_a_layer_sum_to_a_multiple(kind: type[nn.Module], sizes: tuple[int, int]) -> None:
    for share in (0.9, 0.7, 0.5, 0.35):
        model = kind(*sizes)
        plan = precrop.plan(model, SHAPE, params=share, divisor=8)
        assert even(plan, 8)
        assert "uneven" not in plan.solver
        assert sum(p.numel() for p in plan.build(model).parameters()) == plan.params
    whole = precrop.plan(kind(*sizes), SHAPE, params=1.0, divisor=8)
    assert whole.params == whole.base_params


def test_a_part_narrower_than_the_divisor_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    from precrop.plans.table import show

    plan = precrop.plan(Joined(5, 40), SHAPE, params=0.5, divisor=8)
    assert plan.widths["a"] == (3, 5)
    assert plan.solver["uneven"] == ["mixed"]
    assert plan.widths["mixed"][1] % 8 == 5
    show(plan)
    told = capsys.readouterr().out
    assert "multiples of 8 in 2 of 5 layers and those of the original in others." in told
    assert "Not a multiple of 8: a, mixed (too narrow)." in told
    assert "Not a multiple of 8: head (the network's output, or frozen)." in told


def narrow() -> nn.Sequential:
    """Two convolutions of eight channels."""
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *ends)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, range(1, 33)),
        ({"min_width": 7}, range(7, 33)),
        ({"min_width": 8}, range(8, 33)),
        ({"min_width": 13}, [8, *range(13, 33)]),
        ({"divisor": 8}, [8, 16, 24, 32]),
        ({"divisor": 16}, [8, 16, 32]),
        ({"divisor": 5, "min_width": 11}, [8, 15, 20, 25, 30]),
    ],
)
def test_layers_narrower_than_the_step_may_widen(
    options: dict[str, int], allowed: list[int]
) -> None:
    plan = precrop.plan(narrow(), SHAPE, params=3.0, expand=True, **options)  # type: ignore[arg-type]
    widths = [plan.widths[name][1] for name in ("0", "2")]
    assert max(widths) > 8
    assert set(widths) <= {*allowed}
    for more in ({"divisor": 64}, {"min_width": 40}):
        kept = precrop.plan(narrow(), SHAPE, params=3.0, expand=True, **more)  # type: ignore[arg-type]
        assert kept.params == kept.base_params


def group_divisor(group: Group, divisor: int) -> int:
    """By counting: the largest half with a multiple that is narrower than the original."""
    while divisor > 1:
        if any(kept * group.grain % divisor == 0 for kept in range(1, group.units)):
            return divisor
        divisor //= 2
    return 1


def check_steps(plan: precrop.Plan, choice: Choice) -> None:
    """Every group keeps its width or a multiple of its own divisor in every layer."""
    divisor = plan.options["divisor"]
    for group, kept in zip(choice.structure.groups, choice.units, strict=True):
        own = group_divisor(group, divisor)
        assert kept == group.units or kept * group.grain % own == 0, group
    told = {name for names in plan.solver.get("no_multiples", {}).values() for name in names}
    assert told == {layer.name for layer in plan.layers if layer.out_channels % divisor}


def check_used(plan: precrop.Plan, choice: Choice) -> None:
    """What binds is used up, or there is no smaller step."""
    problem, allocation = choice.solution.problem, choice.solution.allocation
    dearest = max(plan.budgets.values(), key=lambda budget: budget.multiplier)
    if plan.options["divisor"] > 1 and dearest.multiplier:
        assert dearest.used >= 0.98 * dearest.limit
    elif plan.options["divisor"] > 1:
        used = problem.used(allocation.log_ratios)
        shares = [budget.used / budget.limit for budget in plan.budgets.values()]
        assert max(shares) >= 0.98 * min(1.0, max(used))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    networks(),
    st.sampled_from([("params",), ("macs",), ("params", "macs")]),
    st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0]),
    st.booleans(),
)
def test_the_largest_step_that_uses_the_budgets(
    net: nn.Module, names: tuple[str, ...], share: float, expand: bool
) -> None:
    budgets: dict[str, Any] = dict.fromkeys(names, share)
    try:
        plan, choice = planned(net, NET_SHAPE, expand=expand, **budgets)
    except precrop.BudgetError:
        with pytest.raises(precrop.BudgetError):
            precrop.plan(net, NET_SHAPE, expand=expand, divisor=1, **budgets)
        return
    built = plan.build(net)
    assert counted_params(built) == plan.params
    assert counted_macs(built, NET_SHAPE) == plan.macs
    assert all(budget.used <= budget.limit for budget in plan.budgets.values())
    check_steps(plan, choice)
    check_used(plan, choice)


@pytest.mark.parametrize(
    ("name", "divisor", "odd"),
    [
        ("resnet50", 16, ["fc"]),
        ("mobilenet_v2", 16, ["features.1.conv.1", "classifier.1"]),
        ("resnet18", 16, ["fc"]),
    ],
)
def test_half_of_usual_networks_in_steps_of_sixteen(
    name: str, divisor: int, odd: list[str]
) -> None:
    plan = precrop.plan(getattr(torchvision.models, name)(), (3, 64, 64), params=0.5, macs=0.5)
    assert plan.options["divisor"] == divisor
    assert [layer.name for layer in plan.layers if layer.out_channels % divisor] == odd
    assert max(budget.used / budget.limit for budget in plan.budgets.values()) >= 0.98


def test_squeeze_layers_have_steps_of_their_own() -> None:
    model = torchvision.models.efficientnet_b0()
    plan = precrop.plan(model, (3, 64, 64), params=0.05)
    squeezed = [layer for layer in plan.layers if layer.name.endswith(".fc1")]
    assert plan.options["divisor"] == 16
    narrow = [layer for layer in squeezed if layer.base_out <= 16]
    assert {layer.base_out for layer in narrow} == {4, 6, 8, 10}
    assert any(layer.out_channels < layer.base_out for layer in narrow)
    named = precrop.plan(model, (3, 64, 64), params=0.1, divisor=16)
    kept = [layer for layer in named.layers if layer.name in {layer.name for layer in narrow}]
    assert all(layer.out_channels == layer.base_out for layer in kept)
    assert {layer.name for layer in narrow} <= set(plan.solver["no_multiples"]["narrow"])


@pytest.mark.parametrize(
    ("step", "tried"),
    [(16, [16, 8, 4, 2, 1]), (24, [24, 12, 6, 3, 1]), (10, [10, 5, 1]), (7, [7, 1]), (1, [1])],
)
def test_divisors_that_are_tried_divide_each_other(step: int, tried: list[int]) -> None:
    profile = roofline(1e11, 1e10, step=step)
    stopped = mock.patch("precrop.api.choose", side_effect=KeyboardInterrupt)
    with stopped as asked, pytest.raises(KeyboardInterrupt):
        precrop.plan(narrow(), SHAPE, latency=0.5, device_profile=profile)
    assert asked.call_args.args[1].divisors == tried
    assert all(large % small == 0 for large, small in itertools.pairwise(tried))


def test_the_step_is_halved_down_to_one() -> None:
    model = narrow()
    least = precrop.plan(model, SHAPE, params=1.0, divisor=1)
    for params in range(100, least.base_params, 47):
        plan = precrop.plan(model, SHAPE, params=params)
        smaller = [d for d in (16, 8, 4, 2) if d < plan.options["divisor"]]
        share = plan.params / params
        assert plan.params <= params
        assert share >= 0.98 or plan.options["divisor"] == 1, (params, share, smaller)
    with pytest.raises(precrop.BudgetError, match="the least possible with divisor=1"):
        precrop.plan(model, SHAPE, params=20)


@pytest.mark.parametrize(("params", "taken"), [(0.7, 16), (0.3, 8), (0.05, 4)])
def test_smaller_steps_need_no_further_reading_nor_fit(params: float, taken: int) -> None:
    model = torchvision.models.resnet18() if taken == 16 else resnet20()
    counts = []
    named: dict[str, Any] = {"divisor": taken}
    for options in ({}, named):
        with (
            mock.patch.object(network, "followed", side_effect=network.followed) as read,
            mock.patch.object(Fitter, "fit", autospec=True, side_effect=Fitter.fit) as fit,
        ):
            plan = precrop.plan(model, (3, 32, 32), macs=params, **options)
        assert plan.options["divisor"] == taken
        counts.append((read.call_count, fit.call_count))
    assert counts[0] == counts[1]


def test_what_was_chosen_elsewhere_is_taken_as_it_is() -> None:
    model = narrow()
    given_widths = precrop.plan(model, SHAPE, widths={"0": 5, "2": 7})
    assert given_widths.options["divisor"] == 1
    assert given_widths.widths["2"] == (5, 7)
    densities = {"0": 5 / 8, "2": 35 / 64, "6": 7 / 8}
    close = precrop.plan(model, SHAPE, densities=densities, balance=1e-5)
    assert close.widths == given_widths.widths
    assert "divisor_asked" not in close.options


def test_what_a_divisor_guarantees_is_told() -> None:
    plan = precrop.plan(torchvision.models.mobilenet_v2(), (3, 64, 64), params=0.5, macs=0.5)
    lines = list(multiples_lines(plan))
    assert lines == [
        "Widths are multiples of 16 in 51 of 53 layers.",
        "Not a multiple of 16: classifier.1 (the network's output, or frozen).",
        "Not a multiple of 16: features.1.conv.1 (too narrow).",
    ]
    assert lines[0] in plan.summary()
    one = precrop.plan(narrow(), SHAPE, params=0.5, divisor=1)
    assert list(multiples_lines(one)) == []
    uneven = precrop.plan(Joined(5, 40), SHAPE, params=0.5, divisor=8)
    old = {name: value for name, value in uneven.solver.items() if name != "no_multiples"}
    assert list(multiples_lines(dataclasses.replace(uneven, solver=old))) == [
        "Widths are multiples of 8 in 2 of 5 layers and those of the original in others.",
        "Not a multiple of 8: mixed (the sum of several widths).",
    ]
