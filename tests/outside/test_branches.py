"""Values taken out of tensors in any way, for Python to branch on: both sides are read."""

import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import precrop
from tests.outside.cropping import counted


class Chosen(nn.Module):
    """Two branches of unequal code, and a choice between them by a map's values."""

    def __init__(self, choose: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.choose = choose
        self.stem, self.one = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 1)
        self.two, self.more = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.one(x) if self.choose(x) else self.more(self.two(x).relu())
        return self.head(x.mean((2, 3)))


CHOICES: dict[str, Callable[[Tensor], Any]] = {
    "fractions in a list": lambda x: x.mean((1, 2, 3)).tolist()[0] > 0.1,
    "truth values in a list": lambda x: any((x.mean((1, 2, 3)) > 0.1).tolist()),
    "places in a list": lambda x: x.flatten(1).mean(0, keepdim=True).argmax(1).tolist()[0] % 2,
    "a number as int": lambda x: int(x.mean().sign()) > 0,
    "a whole number": lambda x: (x.mean((1, 2, 3)) > 0).sum().item() > 0,
    "a place": lambda x: (x.mean() > 0).long().item() == 1,
    "an index": lambda x: [False, True][(x.mean() > 0).long()],
    "a float": lambda x: float(x.detach().mean()) > 0,
    "an array": lambda x: np.asarray(x.detach().mean((1, 2, 3)))[0] > 0,
    "an equal map": lambda x: torch.equal(x, x.abs()),
    "a map about as large": lambda x: torch.allclose(x, x.abs()),
    "an array of the tensor's": lambda x: x.detach().mean((1, 2, 3)).numpy().max() > 0,
}


@pytest.mark.parametrize("name", CHOICES)
def test_both_sides_are_read_and_built(name: str) -> None:
    model = Chosen(CHOICES[name])
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    assert not plan.frozen
    assert plan.params <= 0.5 * plan.base_params
    assert plan.widths["one"][1] == plan.widths["more"][1] == plan.widths["head"][0] < 24
    built: Any = plan.build(model)
    x = torch.randn(2, 3, 8, 8)
    before = [parameter.clone() for parameter in model.parameters()]
    seen = []
    for level in (-9.0, 9.0):
        nn.init.constant_(built.stem.bias, level)
        calls: list[Any] = []
        handle = built.more.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        assert built(x).shape == (2, 5)
        handle.remove()
        seen.append(bool(calls))
    assert "places" in name or sorted(seen) == [False, True]
    assert all(map(torch.equal, before, model.parameters()))


class Picked(nn.Module):
    """The same code goes on with one of two maps, which a map's values choose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two = (nn.Conv2d(n, 16, 1) for n in (3, 16, 16))
        self.kernel, self.other = (nn.Parameter(torch.randn(24, 16, 1, 1)) for _ in range(2))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        one, two, large = self.one(x), self.two(x), bool(x.mean() > 0)
        kernel = self.kernel if large else self.other
        return self.head(nn.functional.conv2d(one if large else two, kernel).mean((2, 3)))


def test_one_piece_of_code_takes_either_of_two_maps() -> None:
    model = Picked()
    plan = precrop.plan(model, (3, 8, 8), params=0.5, divisor=1)
    assert not plan.frozen
    assert plan.widths["one"][1] == plan.widths["two"][1] < 16
    built: Any = plan.build(model)
    assert sum(p.numel() for p in built.parameters()) == plan.params <= 0.5 * plan.base_params
    for level in (-9.0, 9.0):
        nn.init.constant_(built.stem.bias, level)
        assert built(torch.randn(2, 3, 8, 8)).shape == (2, 5)


class Counted(nn.Module):
    """A loop that runs as often as a map says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.step = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)
        self.first, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 5)
        self.change = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(int(x.mean().clamp(0, 3).round())):
            x = self.change(self.first(self.step(x)).relu())
        return self.head(self.first(x).mean((2, 3)))


def test_a_loop_that_a_value_counts() -> None:
    model = Counted()
    plan = precrop.plan(model, (3, 8, 8), params=0.6)
    built: Any = plan.build(model)
    assert {"step", "change"} <= plan.widths.keys()
    for level in (-9.0, 1.0, 9.0):
        nn.init.constant_(built.stem.bias, level)
        assert built(torch.randn(2, 3, 8, 8)).shape == (2, 5)


class EarlyExits(nn.Module):
    """Stages, each with an output of its own: in evaluation the first sure enough is the last."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.threshold = threshold
        widths = (3, 16, 24, 32)
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in pairwise(widths))
        self.exits = nn.ModuleList(nn.Linear(width, 5) for width in widths[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x).relu()
            found.append(leave(x.mean((2, 3))))
            if not self.training and found[-1].softmax(1).max().item() > self.threshold:
                break
        return found


def test_macs_are_those_of_the_longest_way() -> None:
    """What the network is read with instead of weights would always leave at the first exit."""
    model = EarlyExits(threshold=0.7)
    plan = precrop.plan(model, (3, 16, 16), macs=0.4, divisor=1)
    model.threshold = 1.1
    assert plan.base_macs == counted(model, (3, 16, 16))
    assert plan.macs == counted(plan.build(model), (3, 16, 16))
    assert plan.build(EarlyExits(threshold=0.0))(torch.randn(1, 3, 16, 16))[0].shape == (1, 5)


class Measured(nn.Module):
    """Sizes from a tensor that forward makes are sizes, and no choice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.stem(x).relu())
        sizes = torch.tensor([x.shape[2:]])
        height, width = sizes.tolist()[0]
        x = x.flatten(2).view(len(x), -1, height, width)
        return self.head(x.mean((2, 3)))


def test_sizes_in_a_tensor_are_no_choice() -> None:
    model = Measured()
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    assert not plan.frozen
    assert plan.widths["stem"][1] < 16
    assert plan.build(model)(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_passes_with_other_answers_are_not_held_at_once() -> None:
    """On real tensors, where each may be of a gigabyte."""
    held: list[weakref.ref[Tensor]] = []
    alive = []

    def choose(x: Tensor) -> bool:
        alive.append(sum(ref() is not None for ref in held))
        if not x.is_meta:
            held.append(weakref.ref(x))
        turned = sum(bool(value > 10) for value in x.mean(1).flatten()[:12])
        try:
            if turned > 6:
                raise KeyError("too many at once, so that each is tried alone")
        except KeyError as error:  # the error that it is raised from has frames, too
            raise ValueError("too many") from error
        return turned > 0

    plan = precrop.plan(Chosen(choose), (3, 8, 8), params=0.5)
    assert not plan.frozen
    assert len(held) > 10
    assert max(alive) <= 2, "eval and train mode are compared; no other pass is held"
