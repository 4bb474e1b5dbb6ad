"""Passes at any batch size: read again where they copy, refused where they run other code."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.costs.batches import at_batch, follow
from precrop.errors import PrecropError
from precrop.models import resnet20
from precrop.read.copies import with_own_widths
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from tests.networks import SHAPE, assemble, small


@pytest.mark.parametrize("batch_size", [1, 3])
def test_equal_calls_are_those_that_were_read(batch_size: int) -> None:
    network = read_network(resnet20(), Inputs((3, 32, 32)))
    same, lives = follow(network, batch_size)
    batch = at_batch(network, lives)
    assert same is network
    assert all(a is b for a, b in zip(batch.calls, network.passes[0].trace.calls, strict=True))
    assert batch.inputs == batch_size
    assert batch.growth[0] == (batch_size,)


def test_a_pass_that_copies_is_read() -> None:
    network = read_network(small("attention"), Inputs(SHAPE))
    single, several = (at_batch(*follow(network, n)) for n in (1, 3))
    copies = [sum(call.name == "clone" for call in b.calls) for b in (single, several)]
    assert copies[0] < copies[1]
    assert several.inputs == 1
    assert all(set(ratios) == {1} for ratios in several.growth if ratios)


class Nested(nn.Module):
    """Takes its images in lists and dicts, beside a number."""

    def __init__(self) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3))

    def forward(self, scale: Any, images: Any) -> Any:
        return self.op(images["all"][0] * scale).mean((2, 3)) + images["all"][1]


@pytest.mark.parametrize("cost", ["latency", "memory"])
def test_inputs_in_lists_and_dicts_beside_numbers_have_budgets(cost: str) -> None:
    images = {"all": [torch.ones(2, 3, 48, 48), torch.ones(2, 16)]}
    budget: dict[str, Any] = {cost: 0.9}
    plan = precrop.plan(Nested(), example_inputs=(2, images), **budget)
    assert plan.budgets[cost].used <= plan.budgets[cost].limit


def test_a_copy_of_a_network_has_its_pass_read_again() -> None:
    network = read_network(assemble([("attention", 16), ("conv", 16)]), Inputs(SHAPE))
    network, lives = follow(network, 3)
    before = at_batch(network, lives)
    assert at_batch(network, lives).readings[0] is before.readings[0]
    again = at_batch(with_own_widths(network), lives)
    assert again.calls == before.calls
    assert again.readings[0] is not before.readings[0]


class Other(nn.Module):
    """Runs other code for several images: an activation, a layer, a shuffle of channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if x.shape[0] > 2:
            y = self.more(y)
        return self.second(y)

    def more(self, y: Tensor) -> Tensor:
        if self.how == "activation":
            return y.relu()
        if self.how == "layer":
            return self.second(y).mean(1, keepdim=True) + y
        return y.view(-1, 2, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape)


@pytest.mark.parametrize("how", ["activation", "layer", "shuffle"])
def test_other_code_is_refused(how: str) -> None:
    model = Other(how)
    assert precrop.plan(model, (3, 8, 8), memory=0.7, batch_size=2).layers
    line = "^the network runs other code at this batch size: write batch_size=1$"
    with pytest.raises(PrecropError, match=line):
        precrop.plan(model, (3, 8, 8), memory=0.7, batch_size=3)


class Longer(nn.Module):
    """Every run of it takes a step more, as a detector's number of boxes changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for _ in range(next(STEPS)):
            y = y.relu()
        return self.second(y)


STEPS = itertools.count()


def test_what_no_two_runs_compute_alike_is_refused() -> None:
    with pytest.raises(PrecropError, match="depends on values, so its latency and memory cannot"):
        precrop.plan(Longer(), (3, 8, 8), memory=0.7)
