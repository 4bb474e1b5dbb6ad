"""Sizes that forward compares with an attribute follow; so do those that it builds from one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped

SHAPE = (3, 16, 16)


class Asserting(nn.Module):
    """Half the resolution, after a look at the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.channels, self.op = inputs, nn.Conv2d(inputs, outputs, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        out: Tensor = self.op(x)
        return out


class Raising(Asserting):
    """The same, by an exception of one's own, and by a number in a configuration."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.config = SimpleNamespace(width=inputs)

    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) != self.config.width:
            raise ValueError(f"{x.size(1)} channels in place of {self.config.width}")
        out: Tensor = self.op(x)
        return out


class Around(nn.Module):
    """Checks what it hands to a layer and what comes back."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before, self.after = inputs, outputs
        self.op = nn.Conv2d(inputs, outputs, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.before, "before"
        x = self.op(x)
        assert list(x.shape[1:2]) == [self.after], "after"
        return x.relu()


@pytest.mark.parametrize("kind", [Asserting, Raising, Around])
def test_checked_channels_follow(kind: Callable[[int, int], Any]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1), kind(32, 48), nn.SiLU(), kind(48, 24), nn.Conv2d(24, 3, 1)
    )
    plan, built = cropped(model, SHAPE, ["0", "1.op", "3.op"])
    assert not plan.frozen
    assert plan.widths["1.op"] == (built[1].op.in_channels, built[1].op.out_channels)
    assert plan.widths["1.op"][0] < 32


def test_a_checked_number_that_is_no_width_stays() -> None:
    class Sized(Asserting):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] == self.size
            out: Tensor = self.op(x)
            return out

    model: Any = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), Sized(16, 48), nn.Conv2d(48, 3, 1))
    model[1].size = 16
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
    built: Any = plan.build(model)
    assert built[1].size == 16
    assert built(torch.ones(1, *SHAPE)).shape == (1, 3, 8, 8)


class Patches(nn.Module):
    """Rows of patches with a property for their size, which forward compares with what it has.

    The property follows the last of several equal widths, and the length of a patch.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.settings = ((channels, 8, (2, channels)), (channels, 1, (2, channels)))
        self.patch, layers, before = patch, list[nn.Module](), 1
        for outputs, stride, groups in self.settings:
            layers += [nn.Conv2d(before, outputs, (1, stride), (1, stride)), nn.GroupNorm(*groups)]
            before = outputs
        self.body = nn.Sequential(*layers)
        self.beside = nn.Linear(patch, self.size)

    @property
    def size(self) -> int:
        return self.settings[-1][0] * (self.patch // 8)

    def forward(self, x: Tensor) -> Tensor:
        made = self.body(x.flatten(1, 2).unsqueeze(1)).transpose(1, 2).flatten(2)
        made = made + self.beside(x.flatten(1, 2))
        if made.shape[-1] != self.size:
            raise ValueError(f"{made.shape[-1]} in place of {self.size}")
        return made.transpose(1, 2)


@pytest.mark.parametrize("patch", [16, 32])
def test_a_compared_size_follows_one_of_equal_widths(patch: int) -> None:
    """At a patch of 32 its length is equal to the size, too, and stays."""
    channels = 32 // (patch // 8) if patch == 32 else 24
    size = channels * (patch // 8)
    model = nn.Sequential(Patches(channels, patch), nn.Conv1d(size, 96, 1), nn.Conv1d(96, 5, 1))
    plan = precrop.plan(model, (3, 4, patch), params=0.3)
    built: Any = plan.build(model)
    assert not plan.frozen
    last = built[0].body[2].out_channels
    assert last < channels
    assert built[0].settings[1][0] == last
    assert built[0].patch == patch
    assert built(torch.ones(2, 3, 4, patch)).shape == (2, 5, 12)


def test_several_numbers_compared_at_one_place_follow() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 48, 3)
            self.sizes = [32, 48]
            self.op = nn.Conv2d(80, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.left(x), self.right(x).sin()
            assert a.shape[1] == self.sizes[0]
            assert b.shape[1] == self.sizes[1]
            out: Tensor = self.op(torch.cat([a, b], 1))
            return out

    _, built = cropped(Both(), SHAPE, ["left", "right"])
    assert built.sizes == [built.left.out_channels, built.right.out_channels]
    assert max(built.sizes) < 48
