"""Sizes that a module keeps in a `functools.partial`, asks a child for, or has from a tensor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped


class PaddedShortcut(nn.Module):
    """A residual block that fills its shortcut up with zeros, to a width that a partial holds."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = partial(padded, width=width) if inputs < width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.second(self.first(x).relu())
        return out.relu()


def padded(x: Tensor, width: int) -> Tensor:
    zeros = torch.zeros(x.shape[0], width - x.shape[1], *x.shape[2:], device=x.device)
    return torch.cat([x, zeros], 1)


class Cell(nn.Module):
    """A convolutional LSTM's cell, which makes its own first state."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.zeros(x.shape[0], self.hidden, *x.shape[-2:], device=x.device)
        return state, state

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.conv(torch.cat([x, state[0]], 1)).split(self.hidden, 1)
        memory = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * memory.tanh(), memory


class Sequences(nn.Module):
    """Two cells, one after the other, each over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: Any = nn.ModuleList([Cell(3, 12), Cell(12, 16)])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = [*x.unbind(1)]
        for cell in self.cells:
            state = cell.first(steps[0])
            for place, step in enumerate(steps):
                state = cell(step, state)
                steps[place] = state[0]
        out: Tensor = self.head(steps[-1])
        return out


def test_a_shortcut_is_padded_to_the_new_width() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        PaddedShortcut(16, 16),
        PaddedShortcut(16, 32),
        PaddedShortcut(32, 48),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 4),
    )
    _, built = cropped(model, (3, 12, 12), movable=["0", "2.first", "2.second", "3.second"])
    width = built[2].second.out_channels
    assert built[2].shortcut.keywords == {"width": width} != {"width": 32}
    assert model[2].shortcut.keywords == {"width": 32}


def test_a_method_of_a_child_makes_states_of_the_new_width() -> None:
    _, built = cropped(Sequences(), (3, 3, 6, 6), movable=["cells.0.conv", "cells.1.conv"])
    for cell in built.cells:
        assert 4 * cell.hidden == cell.conv.out_channels
    assert [cell.hidden for cell in built.cells] != [12, 16]


class KeptTokens(nn.Module):
    """Reads some tokens alone, picked by an index that is repeated over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside, self.head = nn.Linear(6, 32), nn.Linear(32, 40), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        order = torch.rand(h.shape[:2], device=x.device).argsort(1)[:, :4]
        h = h.gather(1, order[..., None].repeat(1, 1, h.shape[2]))
        out: Tensor = self.head(self.inside(h).relu()).mean(1)
        return out


def test_an_index_is_repeated_over_the_new_width() -> None:
    cropped(KeptTokens(), (9, 6), movable=["embed", "inside"])


class Replicated(nn.Module):
    """Adds its input, copied once for every channel (V-Net), as often as ``copies`` says."""

    def __init__(self, copies: Callable[["Replicated", Tensor], int]) -> None:
        super().__init__()
        self.width, self.copies = 32, copies
        self.enter, self.inside = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 40, 3)
        self.head = nn.Conv2d(40, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        y = self.inside((y + torch.cat([x] * self.copies(self, y), 1)).relu())
        out: Tensor = self.head(y.relu())
        return out


@pytest.mark.parametrize("copies", [lambda m, y: m.width, lambda m, y: y.shape[1]])
def test_copies_are_as_many_as_channels(copies: Callable[[Replicated, Tensor], int]) -> None:
    cropped(Replicated(copies), (1, 8, 8), movable=["enter", "inside"])


def test_copies_whose_number_is_in_the_code_are_as_many_as_before() -> None:
    plan = precrop.plan(Replicated(lambda m, y: 32), (1, 8, 8), params=0.5)
    assert plan.frozen == {"enter": "cat in Replicated keeps its sizes"}
    assert plan.widths["enter"] == (1, 32)


class FanIn(nn.Conv2d):
    """Divides by the root of its fan-in, which it counts on its first filter."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight[0].numel() ** 0.5
        return F.conv2d(x, weight, self.bias, padding=self.padding)


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "a map's size": lambda x: x * x[0, 0].shape[0],
    "the last channel": lambda x: x * torch.ones_like(x[:, -1])[:, None],
    "where a channel is": lambda x: x.to(x[:, 0].device),
}


def test_the_first_entry_is_there_at_any_width() -> None:
    convs = FanIn(3, 32, 3, padding=1), nn.ReLU(), FanIn(32, 32, 3, padding=1)
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    plan, _ = cropped(model, (3, 8, 8), ["0", "2"])
    assert not plan.frozen


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_one_channel_holds_none(look: str) -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(LOOKS[look](self.first(x))).mean((2, 3)))

    plan, _ = cropped(Looking(), (3, 8, 8), ["first", "second"])
    assert not plan.frozen
