"""Tensors that forward makes of lists and arrays: of as many numbers as a width, or as ever."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped
from tests.versions import needs_torch

IMAGE = (3, 8, 8)
WIDTH = 32
LIST = [1.0 + i for i in range(WIDTH)]


class Scaled(nn.Module):
    """A convolution whose channels are scaled by some numbers."""

    def __init__(self, numbers: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.numbers = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), numbers
        self.width = WIDTH

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.numbers(self, x).view(-1, 1, 1)


def scaled(numbers: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    ends = nn.Conv2d(3, WIDTH, 3, 1, 1), nn.Conv2d(WIDTH, 24, 3, 1, 1), nn.Conv2d(24, 8, 1)
    return nn.Sequential(ends[0], Scaled(numbers), *ends[1:])


FOLLOWING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "list": lambda m, x: torch.tensor([2.0] * x.shape[1]),
    "list on the device": lambda m, x: torch.tensor([2.0] * x.shape[1], device=x.device),
    "list of places": lambda m, x: torch.tensor([math.sin(i) for i in range(x.shape[1])]),
    "list of the stated width": lambda m, x: torch.as_tensor([2.0] * m.width),
    "new tensor": lambda m, x: x.new_tensor([2.0] * x.shape[1]),
    "array": lambda m, x: torch.from_numpy(np.ones(x.shape[1], dtype=np.float32)),
    "window": lambda m, x: torch.from_numpy(np.hanning(x.shape[1])).float(),
    "two lists": lambda m, x: torch.tensor([[1.0] * x.shape[1], [2.0] * x.shape[1]]).sum(0),
}


MADE_ON_META = needs_torch("2.15", "a trace does not show numbers that are made on meta tensors")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=MADE_ON_META if name in ("list on the device", "new tensor") else ()
        )
        for name in FOLLOWING
    ],
)
def test_as_many_numbers_as_channels_follow_the_width(name: str) -> None:
    plan, built = cropped(scaled(FOLLOWING[name]), IMAGE, movable=["1.conv"])
    block, width = built[1], built[1].conv.out_channels
    assert width < WIDTH
    assert not plan.frozen
    x = torch.randn(2, built[0].out_channels, 8, 8)
    y = block.conv(x)
    numbers = FOLLOWING[name](block, y)
    assert numbers.shape == (width,)
    assert torch.equal(block(x), y * numbers.view(-1, 1, 1))


FIXED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "list": lambda m, x: torch.tensor(LIST),
    "array": lambda m, x: torch.from_numpy(np.array(LIST)).to(x),
    "two lists": lambda m, x: torch.cat([torch.tensor(LIST[:8]), torch.tensor(LIST[8:])]),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_list_holds_the_width_that_it_meets(name: str) -> None:
    plan, built = cropped(scaled(FIXED[name]), IMAGE, movable=["0", "2"], params=0.6)
    assert plan.frozen == {"1.conv": "tensor_of_numbers in Scaled keeps its sizes"}
    assert built[1].conv.out_channels == WIDTH


class PowerOfTwo(nn.Conv2d):
    """Signs of a weight, each kernel scaled by a power of two, as IR-Net has them."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        powers = (flat.abs().mean(-1).log() / math.log(2)).round()
        scale = torch.pow(torch.tensor([2] * flat.size(0)).to(x), powers).view(-1, 1, 1, 1)
        binary = self.weight.sign().detach() * scale.detach() + self.weight - self.weight.detach()
        return F.conv2d(x, binary, self.bias, self.stride, self.padding)


def test_numbers_in_a_weight_follow_its_width() -> None:
    layers = PowerOfTwo(3, 32, 3), nn.ReLU(), PowerOfTwo(32, 32, 3), nn.ReLU(), PowerOfTwo(32, 4, 1)
    plan, built = cropped(nn.Sequential(*layers), IMAGE, movable=["0", "2"])
    assert built[0].out_channels < 32
    assert not plan.frozen


class Photo(nn.Module):
    """An image is normalised, turned into other colours and blurred by numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, WIDTH, 3, 1, 1), nn.Conv2d(WIDTH, WIDTH, 3)
        self.head = nn.Conv2d(WIDTH, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).to(x)
        colours = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.6, -0.5, -0.1]])
        x = self.first(torch.einsum("bchw,dc->bdhw", x, colours.to(x)))
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
        x = F.conv2d(x, kernel.to(x), padding=1, groups=x.shape[1])
        out: Tensor = self.head(self.second(x).relu())
        return out


def test_numbers_that_meet_no_width_hold_nothing_and_take_no_time() -> None:
    plan, built = cropped(Photo(), IMAGE, movable=["first", "second"])
    assert built.first.out_channels < WIDTH
    assert not plan.frozen
    start = time.process_time()
    precrop.plan(Photo(), IMAGE, params=0.5)
    assert time.process_time() - start < 1
