"""A budget that cannot be met is refused with what makes up the least cost, and why."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop import BudgetError


def refusal(model: nn.Module, shape: tuple[int, ...], **options: Any) -> str:
    """What a message says in brackets."""
    with pytest.raises(BudgetError) as caught:
        precrop.plan(model, shape, **options)
    return str(caught.value).partition(" (")[2].rpartition(") is ")[0]


class Features(nn.Module):
    """A discriminator of patches that returns every map on the way."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairwise(widths)
        )
        self.last = nn.Conv2d(32, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return [*maps, self.last(x)]


def test_layers_whose_maps_are_outputs_are_named() -> None:
    total = 9 * (3 * 8 + 8 * 16 + 16 * 32 + 32)
    share = 9 * (8 * 16 + 16 * 32) / total  # what the others have is no twentieth of it
    named = f"layers.2, layers.1, {share:.0%} of it: makes the network's output"
    assert refusal(Features(), (3, 16, 16), params=0.5) == f"frozen: {named}"
    assert "makes the network's output" in refusal(Features(), (3, 16, 16), macs=0.5)


def test_a_fixed_input_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 2))
    named = "1, 99% of it: reads the network's input"
    assert refusal(model, (3, 100), params=0.01) == f"frozen: {named}"


class Tables(nn.Module):
    """Bare parameters and an embedding at a width that the input gives."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(16, 10, 10))
        self.words = nn.Embedding(40, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        word = self.words(torch.arange(2, device=x.device)).sum(0)
        return self.head((x + self.table).mean((2, 3)) + word)


def test_tables_of_fixed_width_are_named() -> None:
    message = refusal(Tables(), (16, 10, 10), params=0.5)
    total = 16 * 100 + 16 * 40 + 34
    assert f"table, words, {(1600 + 640) / total:.0%} of it: add in the network" in message


def test_what_the_divisor_holds_is_told_from_what_is_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 2, 1))
    message = refusal(model, (3, 8, 8), params=0.3, divisor=16)
    held = f"1, {1308 / (48 + 1308 + 26):.0%} of it: the least with divisor=16 and min_width=1"
    assert message == f"no narrower: {held}"


class Gram(nn.Module):
    """Products of the image's pixels with each other, beside a small layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return self.layer((x.transpose(1, 2) @ x).mean(1)[:, :24])


def test_what_is_computed_in_no_layer_is_named() -> None:
    products, own = 64 * 3 * 64, 24 * 4
    share = f"in no layer, such as attention: {products / (products + own):.0%} of it"
    assert refusal(Gram(), (3, 8, 8), macs=0.5).endswith(share)


class Growing(nn.Module):
    """A network that makes its last layer when it first sees an input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.head: Any = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().flatten(1)
        if self.head is None:
            self.head = nn.Linear(x.shape[1], 10)
        out: Tensor = self.head(x)
        return out


def test_a_network_that_is_not_whole_yet_must_run_once() -> None:
    model = Growing()
    with pytest.raises(precrop.PrecropError, match=r"forward makes head\.weight .* run it once"):
        precrop.plan(model, (3, 8, 8), params=0.5)
    model(torch.randn(1, 3, 8, 8))
    assert precrop.plan(model, (3, 8, 8), params=0.5).widths["conv"][1] < 16


def test_modules_without_parameters_may_be_made_in_forward() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.norm: Any = nn.LayerNorm(6, elementwise_affine=False)
            self.act: Any = nn.ModuleList([nn.ReLU()])
            out: Tensor = self.head(self.act[0](self.norm(self.conv(x))))
            return out

    plan = precrop.plan(Made(), (3, 8, 8), params=0.5)
    assert plan.build(Made())(torch.randn(2, 3, 8, 8)).shape == (2, 4, 4, 4)


def test_a_detectors_buffers_may_be_without_values() -> None:
    """On real tensors, where they are asked for, zeros stand for those of a meta device."""

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
            self.register_buffer("shift", torch.zeros(16, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x) + self.get_buffer("shift")
            if x.max().item() > 0:
                x = x.relu()
            out: Tensor = self.head(x[:, :, (x.amax((0, 1, 3)) > 0).nonzero().flatten()[:3]])
            return out

    with torch.device("meta"):
        model = Choosing()
    assert precrop.plan(model, (3, 8, 8), params=0.5).widths["conv"][1] < 16
