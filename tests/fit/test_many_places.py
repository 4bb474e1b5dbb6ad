"""Networks whose code keeps sizes of its own in many places: held at once, not one by one."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.planning import ONE_BY_ONE
from precrop.read.lower import lower


def block(shape: tuple[int, ...]) -> nn.Module:
    """A residual block of a class of its own, which views 32 channels in a fixed shape."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            y = y.reshape(y.shape[0], *shape, *y.shape[2:]).flatten(1, -3)
            out: Tensor = x + self.down(y.relu())
            return out

    return Block()


def network(count: int) -> nn.Module:
    """A stem, many such blocks, a head."""
    blocks = (block((8, 4) if index % 2 else (4, 4, 2)) for index in range(count))
    return nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.Conv2d(16, 4, 1))


def attempts(model: nn.Module) -> tuple[int, precrop.Plan]:
    """How many plans were tried, and the last."""
    tried: list[Any] = []

    def counted(*args: Any) -> Any:
        tried.append(None)
        return lower(*args)

    with mock.patch("precrop.planning.lower", counted):
        plan = precrop.plan(model, (3, 8, 8), params=0.6, macs=0.6)
    return len(tried), plan


@pytest.mark.parametrize("count", [3, 2 * ONE_BY_ONE])
def test_attempts_do_not_grow_with_the_places(count: int) -> None:
    model = network(count)
    tried, plan = attempts(model)
    assert tried <= min(count + 1, ONE_BY_ONE + 3)
    # Only what such a view takes is kept.
    assert sorted(plan.frozen) == sorted(f"{index + 1}.up" for index in range(count))
    built = plan.build(model).eval()
    assert built(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)
