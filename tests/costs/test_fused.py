"""What an inference runtime joins to one operation, and what stays one of its own."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precrop.costs.batches import follow
from precrop.costs.fused import fused_calls
from precrop.costs.latency import amounts
from precrop.costs.work import Work
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from tests.networks import SqueezeExcite

SHAPE = (6, 8, 8)
MAP = 4 * 6 * 8 * 8
"""Bytes of the maps below, which all have the shape `SHAPE`."""


def works(model: nn.Module, shape: Any = SHAPE, batch: int = 1) -> list[Work]:
    return fused_calls(*follow(read_network(model, Inputs(shape)), batch))


def kinds(model: nn.Module, shape: Any = SHAPE) -> list[str]:
    return [work.kind for work in works(model, shape)]


def conv(inputs: int = 6, outputs: int = 6) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Hardsigmoid])
def test_a_layer_takes_its_norm_and_activation(act: type[nn.Module], inplace: bool) -> None:
    (work,) = works(nn.Sequential(conv(), nn.BatchNorm2d(6), act(inplace=inplace)))
    (alone,) = works(conv())
    assert (work.kind, amounts(work)) == ("conv", amounts(alone))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([conv(), nn.BatchNorm2d(6)], ["conv"]),
        ([conv(), nn.Sigmoid()], ["conv"]),
        ([conv(), nn.ReLU(), nn.BatchNorm2d(6)], ["conv", "depthwise"]),
        ([conv(), nn.ReLU(), nn.ReLU()], ["conv", "relu"]),
        ([nn.BatchNorm2d(6), nn.ReLU(), conv()], ["depthwise", "conv"]),
        ([conv(), nn.BatchNorm2d(6), nn.SiLU()], ["conv", "silu"]),
        ([conv(), nn.MaxPool2d(2), nn.ReLU()], ["conv", "max_pool2d_with_indices", "relu"]),
        ([conv(), nn.Dropout(), nn.BatchNorm2d(6), nn.ReLU()], ["conv"]),
        ([nn.ConvTranspose2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()], ["transposed"]),
        ([nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU6()], ["depthwise"]),
        ([conv(), nn.Flatten(), nn.Linear(6 * 64, 5), nn.ReLU()], ["conv", "linear", "relu"]),
    ],
)
def test_sequences(layers: list[nn.Module], expected: list[str]) -> None:
    assert kinds(nn.Sequential(*layers)) == expected


class Block(nn.Module):
    """A residual block, with sums and activations in place or not, and a projection or none."""

    def __init__(self, inplace: bool, projected: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.project = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), self.norms[2])
        self.act, self.inplace, self.projected = nn.ReLU(inplace), inplace, projected

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        if self.projected:
            x = self.project(x)
        if self.inplace:
            y += x
            return self.act(y)
        return self.act(y + x)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_block_is_its_layers_and_reads_the_added_map(inplace: bool) -> None:
    first, second = works(Block(inplace))
    assert (first.kind, second.kind) == ("conv", "conv")
    assert amounts(first)["reads"] == MAP
    assert amounts(second)["reads"] == 2 * MAP
    assert amounts(second)["writes"] == MAP
    thrice = works(Block(inplace), batch=3)[1]
    assert (amounts(thrice)["reads"], amounts(thrice)["writes"]) == (6 * MAP, 3 * MAP)


def test_in_place_or_not_is_the_same() -> None:
    for projected in (False, True):
        one, two = (works(Block(inplace, projected)) for inplace in (False, True))
        assert [(w.kind, amounts(w)) for w in one] == [(w.kind, amounts(w)) for w in two]
    assert sorted(work.kind for work in one) == ["conv", "conv", "pointwise"]
    assert sum(amounts(work)["reads"] for work in one) == 4 * MAP


class Wired(nn.Module):
    """Two convolutions, and what is made of their outputs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.how = conv(), conv(), nn.BatchNorm2d(6), how
        self.table = nn.Parameter(torch.zeros(1, *SHAPE))
        self.scale = nn.Parameter(torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.how == "two readers":
            return F.relu(y) + y.mean()
        if self.how == "before and after":
            return y, F.relu(y)
        if self.how == "with itself":
            return y + y
        if self.how == "table":
            return F.relu(y + self.table)
        if self.how == "table first":
            return F.relu(self.table + y)
        if self.how == "channel by channel":
            return y + self.scale
        if self.how == "number":
            return y + 1.0
        if self.how == "concatenation":
            return F.relu(torch.cat([y, self.b(x)], 1))
        return self.norm(y + self.b(x))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("two readers", ["conv", "relu", "mean", "reorder", "add", "reorder"]),
        ("before and after", ["conv", "relu"]),
        ("with itself", ["conv", "add"]),
        ("table", ["conv"]),
        ("table first", ["conv"]),
        ("channel by channel", ["conv", "add"]),
        ("number", ["conv", "add"]),
        ("concatenation", ["conv", "conv", "cat", "reorder", "relu"]),
        ("norm of a sum", ["conv", "conv"]),
    ],
)
def test_what_is_joined_and_what_is_not(how: str, expected: Sequence[str]) -> None:
    found = kinds(Wired(how))
    if how == "two readers":
        found, expected = found[:2], expected[:2]
    assert found == list(expected)


@pytest.mark.parametrize("how", ["table", "table first"])
def test_a_table_that_is_added_is_a_weight(how: str) -> None:
    (work,) = works(Wired(how))
    assert amounts(work)["reads"] == amounts(work)["writes"] == MAP
    assert amounts(work)["weights"] == 4 * 6 * 6 * 9 + MAP


def test_a_norm_of_its_own_runs_as_a_depthwise_layer() -> None:
    (work,) = works(nn.BatchNorm2d(6), batch=2)
    assert amounts(work) == {
        "calls": 1, "reads": 2 * MAP, "writes": 2 * MAP, "weights": 4 * 4 * 6, "macs": 2 * 6 * 64
    }  # fmt: skip


def test_groups_that_fill_no_blocks_are_done_in_another_layout() -> None:
    narrow, block = (nn.Conv2d(32, 64, 3, groups=groups) for groups in (4, 2))
    layer, *copies = works(nn.Sequential(narrow, nn.ReLU()), shape=(32, 8, 8))
    assert layer.kind == "unblocked"
    assert [(copy.kind, amounts(copy)["reads"], amounts(copy)["writes"]) for copy in copies] == [
        ("reorder", size, size) for size in (4 * 32 * 64, 4 * 64 * 36)
    ]
    assert kinds(nn.Sequential(block, nn.ReLU()), shape=(32, 8, 8)) == ["grouped"]


def test_squeeze_and_excitation() -> None:
    found = works(nn.Sequential(conv(), nn.ReLU(), SqueezeExcite(6)))
    assert [work.kind for work in found] == [
        *("conv", "mean", "reorder", "pointwise", "pointwise", "mul", "reorder")
    ]
    for index in (2, 6):
        assert amounts(found[index]) == {
            "calls": 1, "reads": MAP, "writes": MAP, "weights": 0, "macs": 0
        }  # fmt: skip


class Permuted(nn.Module):
    """Channels last and back, and a transposed matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).flatten(2).transpose(1, 2)


def test_maps_that_are_permuted_are_copied_and_views_cost_nothing() -> None:
    found = works(Permuted())
    assert [work.kind for work in found] == ["permute", "permute"]
    assert {amounts(work)["reads"] for work in found} == {MAP}
