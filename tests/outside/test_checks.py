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
