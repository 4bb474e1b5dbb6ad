"""Activation memory as a cost: no moment that could be the worst is left out, at any widths."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import precrop
from precrop.costs.batches import at_batch, follow
from precrop.costs.memory import memory
from precrop.models import cifar_mobilenet_v2, resnet20
from precrop.read.inputs import Inputs
from precrop.read.known import Product
from precrop.read.lifetimes import INPUT, Lifetimes
from precrop.read.lower import Lowered, lower
from precrop.read.network import read_network
from precrop.solve.structure import Peak
from tests.costs.allocations import allocated_peak, tensor_peak
from tests.networks import SHAPE, Net, assemble, networks

IMAGE = (3, 32, 32)
ATTENTION = ("attention", "torch attention")


def reading(model: nn.Module, shape: Any, batch: int = 1) -> tuple[Lifetimes, Lowered]:
    network, lives = follow(read_network(model, Inputs(shape)), batch)
    lowered = lower(network, {"memory": memory(lives)})
    return lives, lowered


def every_moment(lives: Lifetimes, lowered: Lowered, units: list[int]) -> int:
    """Most bytes alive at the end of any call, each storage counted at these widths."""
    sizes, batch = lowered.sizes(units), at_batch(lowered.network, lives)

    def held(life: Any) -> int:
        if life.call == INPUT:
            return int(life.bytes * life.elements)
        axes = list(batch.axes(life.call, life.output))
        return sizes.product(Product(life.bytes * batch.growth[life.call][life.output], axes))

    moments = range(INPUT, len(lives.sizes))
    return max(sum(held(x) for x in lives.lives if x.call <= m <= x.last) for m in moments)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks(max_blocks=5), st.data())
def test_no_moment_that_can_be_the_worst_is_dropped(net: Net, data: st.DataObject) -> None:
    lives, lowered = reading(net, SHAPE)
    structure = lowered.structure
    cost = structure.costs["memory"]
    assert cost(structure.units) == every_moment(lives, lowered, structure.units)
    for _ in range(5):
        units = [data.draw(st.integers(1, 3 * group.units)) for group in structure.groups]
        assert cost(units) == every_moment(lives, lowered, units)


@pytest.mark.parametrize("batch", [1, 3])
def test_concatenations(batch: int) -> None:
    net = assemble([("dense", 8), ("inception", 24), ("dense", 12)])
    lives, lowered = reading(net, SHAPE, batch)
    structure = lowered.structure
    assert isinstance(structure.costs["memory"], Peak)
    for share in (1, 2, 3):
        units = [max(n // share, 1) for n in structure.units]
        expected = every_moment(lives, lowered, units)
        assert structure.costs["memory"](units) == expected
    plan = precrop.plan(net, SHAPE, memory=0.7, batch_size=batch)
    built = plan.build(net)
    assert plan.budgets["memory"].used == allocated_peak(built, SHAPE, batch)
    assert plan.budgets["memory"].base == allocated_peak(net, SHAPE, batch)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("build", "size"),
    [(resnet20, 32), (cifar_mobilenet_v2, 32), (torchvision.models.densenet121, 64)],
)
def test_what_a_plan_says_is_what_the_allocator_sees(
    build: Callable[[], nn.Module], size: int, batch: int
) -> None:
    model, shape = build(), (3, size, size)
    plan = precrop.plan(model, shape, memory=0.7, params=0.6, batch_size=batch)
    budget = plan.budgets["memory"]
    assert budget.base == allocated_peak(model, shape, batch)
    assert budget.used == allocated_peak(plan.build(model), shape, batch)
    assert budget.used <= budget.limit


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("blocks", [["attention"], ["torch attention"], ["conv", *ATTENTION]])
def test_attention(blocks: list[str], batch: int) -> None:
    model = assemble([(block, 16) for block in blocks], stem=16)
    plan = precrop.plan(model, SHAPE, memory=1.0, params=0.6, batch_size=batch)
    assert plan.budgets["memory"].base == tensor_peak(model, SHAPE, batch)
    assert plan.budgets["memory"].used == tensor_peak(plan.build(model), SHAPE, batch)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["mobilevit_xxs", "edgenext_xx_small"])
def test_networks_of_convolutions_and_attention(name: str, batch: int) -> None:
    model, shape = timm.create_model(name), (3, 64, 64)
    plan = precrop.plan(model, shape, memory=0.7, batch_size=batch)
    assert plan.budgets["memory"].base == tensor_peak(model, shape, batch)
    assert plan.budgets["memory"].used == tensor_peak(plan.build(model), shape, batch)


LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "a fraction": lambda x: torch.full_like(x, 0.5),
    "noise": torch.rand_like,
    "detached": lambda x: torch.ones_like(x).detach(),
    "of new sizes": lambda x: x.new_zeros(x.shape),
    "of no input": lambda x: torch.zeros(x.shape),
}


@pytest.mark.parametrize("made", LIKE)
def test_tensors_made_like_others(made: str) -> None:
    """PyTorch detaches some of them where a record holds them: no call of the network's."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            moved = LIKE[made](x)
            moved[..., 1:] = x[..., :-1]
            result: Tensor = self.second(moved + x)
            return result

    plan = precrop.plan(Shifted(), SHAPE, memory=0.7)
    assert plan.budgets["memory"].base == tensor_peak(Shifted(), SHAPE, 1)
    assert plan.budgets["memory"].used == tensor_peak(plan.build(Shifted()), SHAPE, 1)


def test_layers_at_streams_with_widths_of_their_own() -> None:
    """What they read is a view of the stream, what they write is padded to it."""
    model = resnet20()
    plan = precrop.plan(model, IMAGE, memory=1.0, params=0.5, residual="crop")
    assert plan.streams
    assert plan.budgets["memory"].used == allocated_peak(plan.build(model), IMAGE, 1)


def test_rows_are_the_moments_that_matter() -> None:
    """A fraction of all calls; none of those that are kept is below another everywhere."""
    lives, lowered = reading(resnet20(), IMAGE)
    cost = lowered.structure.costs["memory"]
    assert isinstance(cost, Peak)
    assert 1 < len(cost.parts) < len(lives.sizes) / 3
    for one in cost.parts:
        for other in cost.parts:
            below = all(n <= other.terms.get(key, 0) for key, n in one.terms.items())
            assert one is other or not below


def test_memory_grows_with_the_batch_alone() -> None:
    single, several = (reading(resnet20(), IMAGE, batch)[1].structure for batch in (1, 7))
    units = single.units
    assert several.costs["memory"](units) == 7 * single.costs["memory"](units)


def test_costs_that_are_not_asked_for_are_not_counted() -> None:
    plan = precrop.plan(resnet20(), IMAGE, params=0.5)
    assert set(plan.budgets) == {"params"}
    assert not {"batch_size", "device_profile"} & set(plan.options)
    plan = precrop.plan(resnet20(), IMAGE, memory=0.5)
    assert plan.options["batch_size"] == 1
    assert "device_profile" not in plan.options
