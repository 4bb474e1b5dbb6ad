"""Widths chosen elsewhere become plans as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import precrop
from precrop.errors import BudgetError, PrecropError
from precrop.models import cifar_efficientnet_b0, cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.plans.plan import Plan
from tests.networks import SHAPE, small
from tests.planning import counted_macs, counted_params

IMAGE = (3, 32, 32)
FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "vgg": cifar_vgg16_bn,
    "mobilenet": cifar_mobilenet_v2,
    "efficientnet": cifar_efficientnet_b0,
}


def outputs(plan: Plan) -> dict[str, int]:
    return {layer.name: layer.out_channels for layer in plan.layers}


def assert_same_network(plan: Plan, other: Plan) -> None:
    assert plan.widths == other.widths
    assert (plan.params, plan.macs) == (other.params, other.macs)
    assert plan.tensors == other.tensors
    assert plan.attributes == other.attributes


@pytest.mark.parametrize("name", FACTORIES)
def test_a_plans_widths_give_the_plan_again(name: str) -> None:
    model = FACTORIES[name]()
    plan = precrop.plan(model, IMAGE, params=0.3, macs=0.4)
    again = precrop.plan(model, IMAGE, widths=outputs(plan))
    assert_same_network(again, plan)
    assert again.budgets == {}
    assert again.solver["status"] == "given"
    built = again.build(model)
    assert counted_params(built) == again.params
    assert counted_macs(built, IMAGE) == again.macs


@pytest.mark.parametrize("name", ["dense", "inception", "conv", "residual"])
def test_small_networks_too(name: str) -> None:
    model = small(name, 64, 96)
    plan = precrop.plan(model, SHAPE, params=0.4)
    assert_same_network(precrop.plan(model, SHAPE, widths=outputs(plan)), plan)


def test_wider_networks_too() -> None:
    model = cifar_vgg16_bn()
    plan = precrop.plan(model, IMAGE, params=1.0, macs=1.0, expand=True)
    assert plan.widened
    again = precrop.plan(model, IMAGE, widths=outputs(plan), expand=True)
    assert_same_network(again, plan)
    with pytest.raises(PrecropError, match=r"cannot have \d+ channels, but 1 to 64 \(expand=True"):
        precrop.plan(model, IMAGE, widths=outputs(plan))


def test_what_is_not_named_stays() -> None:
    plan = precrop.plan(resnet20(), IMAGE, widths={"layer2.1.conv1": 5})
    changed = {layer.name for layer in plan.layers if layer.out_channels != layer.base_out}
    assert changed == {"layer2.1.conv1"}
    assert plan.widths["layer2.1.conv1"] == (32, 5)
    assert plan.widths["layer2.1.conv2"] == (5, 32)


def test_one_layer_of_a_shared_width_is_enough() -> None:
    plan = precrop.plan(resnet20(), IMAGE, widths={"layer1.2.conv2": 7})
    assert {plan.widths[name][1] for name in ("conv1", "layer1.0.conv2", "layer1.2.conv2")} == {7}


def test_a_width_can_be_cut_to_the_last_channel() -> None:
    model = small("conv")
    plan = precrop.plan(model, SHAPE, widths={"stem.0": 1, "blocks.0.0": 1})
    assert [width[1] for width in plan.widths.values()] == [1, 1, 5]
    assert plan.params == counted_params(plan.build(model))


def test_budgets_are_checked() -> None:
    model = resnet20()
    plan = precrop.plan(model, IMAGE, params=0.3, macs=0.3)
    within = precrop.plan(model, IMAGE, widths=outputs(plan), params=0.3, macs=plan.macs)
    assert_same_network(within, plan)
    assert within.budgets["macs"].used == within.budgets["macs"].limit == plan.macs
    with pytest.raises(
        BudgetError, match=f"macs={plan.macs - 1} .* the widths given cost {plan.macs}"
    ):
        precrop.plan(model, IMAGE, widths=outputs(plan), macs=plan.macs - 1)


def test_a_saved_plan_is_the_same(tmp_path: Any) -> None:
    plan = precrop.plan(resnet20(), IMAGE, widths={"conv1": 8, "layer3.0.conv1": 11})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


class Halves(nn.Module):
    """The output of one layer is two widths, each of which another layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(3, 16, 3, padding=1)
        self.both = nn.Conv2d(3, 24, 3, padding=1)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.one(x), self.two(x)], 1) + self.both(x))


def test_a_layer_of_two_widths() -> None:
    model = Halves()
    plan = precrop.plan(model, SHAPE, widths={"both": 14, "one": 4})
    assert outputs(plan) == {"one": 4, "two": 10, "both": 14, "head": 5}
    plan = precrop.plan(model, SHAPE, widths={"both": 12})
    assert outputs(plan) == {"one": 4, "two": 8, "both": 12, "head": 5}
    assert counted_params(plan.build(model)) == plan.params
    plan = precrop.plan(model, SHAPE, widths={"both": 13})
    assert outputs(plan) == {"one": 4, "two": 9, "both": 13, "head": 5}
    with pytest.raises(PrecropError, match="both cannot have 3 channels and one 4: they share"):
        precrop.plan(model, SHAPE, widths={"both": 3, "one": 4})


def test_widths_that_come_in_steps() -> None:
    model = nn.Sequential(nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, groups=4), nn.Conv2d(24, 2, 1))
    plan = precrop.plan(model, (4, 8, 8), widths={"0": 8})
    assert plan.widths["1"] == (8, plan.widths["2"][0])
    with pytest.raises(PrecropError, match="0 cannot be cut to 9 of its 24 channels"):
        precrop.plan(model, (4, 8, 8), widths={"0": 9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": {}}, "widths= is empty"),
        ({"widths": {"conv": 8}}, "widths name a layer 'conv' that is not there; did you mean"),
        ({"widths": {"conv1": 0}}, "width of conv1 is 0: write output channels, 1 or more"),
        ({"widths": {"conv1": 8.0}}, "width of conv1 is 8.0"),
        ({"widths": {"conv1": True}}, "width of conv1 is True"),
        ({"widths": {"conv1": 17}}, r"conv1 cannot have 17 channels, but 1 to 16"),
        ({"widths": {"fc": 9}}, "fc keeps its 10 channels: it cannot have 9"),
        (
            {"widths": {"conv1": 8, "layer1.0.conv2": 9}},
            "layer1.0.conv2 cannot have 9 channels and conv1 8: they share a width",
        ),
        (
            {"widths": {"conv1": 9}, "divisor": 8},
            "cannot have 9 channels, but 8 to 16 .* divisor=8",
        ),
        ({"widths": {"conv1": 8}, "densities": {"conv1": 0.5}}, "widths= excludes"),
        ({"widths": {"conv1": 8}, "rule": "sqrt-min"}, "widths= excludes"),
        ({"widths": {"conv1": 8}, "objective": "exact"}, "widths= excludes"),
        ({"widths": {"conv1": 8}, "balance": 2.0}, "widths= excludes .* balance="),
        ({"widths": {"conv1": 8}, "ignore": "conv1"}, "conv1 keeps its 16 channels"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        precrop.plan(resnet20(), IMAGE, **options)
    assert "\n" not in str(caught.value)


class Mixed(nn.Module):
    """A kernel that is mixed of several by the image: its outputs and inputs are one axis."""

    def __init__(self, inputs: int, outputs: int, kernels: int = 4) -> None:
        super().__init__()
        self.outputs, self.inputs, self.kernels = outputs, inputs, kernels
        self.weight = nn.Parameter(torch.randn(kernels, outputs, inputs, 3, 3) * 0.1)
        self.attention = nn.Linear(inputs, kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        shares = self.attention(x.mean((2, 3))).softmax(1)
        kernels = torch.mm(shares, self.weight.view(self.kernels, -1))
        kernels = kernels.view(batch * self.outputs, self.inputs, 3, 3)
        images = x.view(1, batch * channels, height, width)
        made = nn.functional.conv2d(images, kernels, padding=1, groups=batch)
        return made.view(batch, self.outputs, height, width)


def test_a_width_that_is_a_product_of_two() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), Mixed(16, 24), nn.ReLU(), Mixed(24, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    plan = precrop.plan(model, (3, 8, 8), params=0.5, divisor=1)
    assert not plan.frozen
    widths = {layer.name: layer.out_channels for layer in plan.layers}
    assert widths["1"] == plan.widths["0"][1] * plan.widths["3.attention"][0] * 9
    assert precrop.plan(model, (3, 8, 8), widths=widths).widths == plan.widths


class Parts(nn.Module):
    """A convolution of three parts, two of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [64, 64, 16]
        self.all = nn.Conv2d(3, sum(self.sizes), 1)
        self.product, self.other = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = torch.split(self.all(x), self.sizes, 1)
        out: torch.Tensor = self.product(first * second) + self.other(third)
        return out


def test_every_sum_of_several_widths_can_be_had() -> None:
    reading = precrop.Reading(Parts(), (3, 8, 8))
    for width in range(3, 145):
        plan = precrop.plan(reading, widths={"all": width}, divisor=1)
        assert plan.widths["all"] == (3, width)
        assert 2 * plan.widths["product"][0] + plan.widths["other"][0] == width


class Heads(nn.Module):
    """Attention whose projections have an axis for the heads and one for their channels."""

    def __init__(self, width: int, heads: int, keys: int, values: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(7, width), nn.Linear(width, 3)
        self.query = nn.Parameter(torch.randn(width, heads, keys) * 0.1)
        self.key = nn.Parameter(torch.randn(width, heads, keys) * 0.1)
        self.value = nn.Parameter(torch.randn(width, heads, values) * 0.1)
        self.back = nn.Parameter(torch.randn(heads, values, width) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        projected = (
            torch.einsum("bnd,dhk->bhnk", x, weight)
            for weight in (self.query, self.key, self.value)
        )
        query, key, value = projected
        seen = (query @ key.transpose(-1, -2)).softmax(-1) @ value
        out: torch.Tensor = self.head(torch.einsum("bhnk,hkd->bnd", seen, self.back))
        return out


@pytest.mark.parametrize("sizes", [(32, 4, 8, 8), (64, 8, 8, 12), (48, 3, 16, 4)])
@pytest.mark.parametrize("divisor", [1, 4])
def test_plans_of_heads_give_networks_of_their_size_again(sizes: Any, divisor: int) -> None:
    model = Heads(*sizes)
    reading = precrop.Reading(model, (5, 7))
    for share in (0.2, 0.35, 0.5, 0.7, 0.85):
        plan = precrop.plan(reading, params=share, divisor=divisor)
        again = precrop.plan(reading, widths=outputs(plan))
        assert (again.widths, again.params) == (plan.widths, plan.params)
        built = again.build(model)
        assert counted_params(built) == plan.params
        built(torch.randn(2, 5, 7)).sum().backward()


def test_a_product_keeps_its_heads_if_it_can() -> None:
    model = Heads(64, 8, 8, 8)
    shapes = {}
    for width in (56, 40, 28, 18):
        built: Any = precrop.plan(model, (5, 7), widths={"query": width}).build(model)
        shapes[width] = tuple(built.query.shape[1:])
    assert shapes == {56: (8, 7), 40: (8, 5), 28: (7, 4), 18: (6, 3)}


def test_what_shares_a_factor_is_heeded() -> None:
    model = Heads(64, 8, 8, 12)
    widths = {"query": 24, "value": 30}  # not three channels in each of 8 heads, but four in 6
    built: Any = precrop.plan(model, (5, 7), widths=widths).build(model)
    assert (built.query.shape[1:], built.value.shape[1:]) == ((6, 4), (6, 5))
    with pytest.raises(PrecropError, match="value cannot have 29 channels and query 24: they sh"):
        precrop.plan(model, (5, 7), widths={"query": 24, "value": 29})


def test_the_nearest_products_are_told() -> None:
    with pytest.raises(
        PrecropError, match="query cannot be cut to 17 .* channels, but to 16 or 18"
    ):
        precrop.plan(Heads(32, 4, 8, 8), (5, 7), widths={"query": 17})
    with pytest.raises(PrecropError, match="query cannot be cut to 33 .* channels, but to 32$"):
        precrop.plan(Heads(32, 4, 8, 8), (5, 7), widths={"query": 33})


class Beside(nn.Module):
    """The heads' channels beside those of a layer, as one width of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(7, 4, 8) * 0.1)
        self.layer, self.both, self.head = nn.Linear(7, 16), nn.Linear(7, 48), nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = torch.einsum("bd,dhk->bhk", x, self.heads).flatten(1)
        out: torch.Tensor = self.head(torch.cat([heads, self.layer(x)], 1) + self.both(x))
        return out


def test_a_sum_with_a_product_in_it() -> None:
    model = Beside()
    plan = precrop.plan(model, (7,), params=0.6, divisor=1)
    assert not plan.frozen
    widths = outputs(plan)
    assert widths["both"] == widths["heads"] + widths["layer"] < 48
    assert precrop.plan(model, (7,), widths=widths).widths == plan.widths
    alone = precrop.plan(model, (7,), widths={"both": 29})
    assert alone.widths["both"] == (7, 29)
    assert counted_params(alone.build(model)) == alone.params


class Columns(nn.Module):
    """A number of each column times a learnt vector of its own, as tabular transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.randn(6, 32)) for _ in range(2))
        self.hidden, self.head = nn.Linear(32, 48), nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.hidden(x[..., None] * self.weight + self.bias).mean(1))
        return out


def test_widths_and_tables_of_a_plan_give_the_plan_again() -> None:
    model = Columns()
    plan = precrop.plan(model, (6,), params=0.5)
    tables = {name: width for name, (_, width) in plan.solver["tables"].items()}
    assert list(tables) == ["weight"]
    assert_same_network(precrop.plan(model, (6,), widths=outputs(plan) | tables), plan)
