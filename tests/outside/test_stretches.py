"""Layers that are computed by some rows or columns of their weight at a time."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.cropping import cropped
from tests.outside.sequences import cropped as cropped_sequences

IMAGE = (3, 16, 16)


class Octave(nn.Module):
    """A map of high and one of low frequencies; all four paths are parts of one weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * 0.05)
        self.rows, self.columns = outputs // 2, inputs // 2

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        def conv(x: Tensor, weight: Tensor) -> Tensor:
            return F.conv2d(x, weight, padding=1)

        upper, lower = self.weight[: self.rows], self.weight[self.rows :]
        up = F.interpolate(conv(low, upper[:, self.columns :]), scale_factor=2)
        down = conv(F.avg_pool2d(high, 2), lower[:, : self.columns])
        return conv(high, upper[:, : self.columns]) + up, conv(low, lower[:, self.columns :]) + down


class Octaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(64, 10)
        self.layers = nn.ModuleList(Octave(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = F.avg_pool2d(high, 2)
        for layer in self.layers:
            high, low = (part.relu() for part in layer(high, low))
        return self.head(torch.cat([high.mean((2, 3)), low.mean((2, 3))], 1))


def test_parts_of_one_kernel_are_one_layer() -> None:
    model = Octaves()
    plan, _ = cropped(model, IMAGE, ["stem", "layers.0", "layers.1", "layers.2"])
    assert [layer.kind for layer in plan.layers] == ["conv"] * 4 + ["linear"]
    densities = precrop.densities(model, IMAGE, method="synflow", params=0.3)
    assert set(densities) == set(plan.widths)


class Crossed(nn.Module):
    """Queries of one sequence, keys and values of another, by one packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(32, 10)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        queries, keys = self.one(x), self.two(y)
        out: Tensor = self.head(queries + self.attention(queries, keys, keys)[0])
        return out


def test_attention_across_is_one_layer_as_attention_within_is() -> None:
    model, shapes = Crossed(), [(5, 12), (7, 12)]
    plan, _ = cropped_sequences(Crossed, shapes)
    assert plan.widths["attention"][1] < 96
    assert not plan.frozen
    counted = {layer.name: layer for layer in precrop.count(model, shapes).layers}
    assert counted["attention"].weights == 3 * 32 * 32
    assert counted["attention"].macs == 32 * 32 * (5 + 7 + 7)
    densities = precrop.densities(model, shapes, method="uniform", params=0.3)
    masks = precrop.masks(model, densities)
    assert int(masks["attention.in_proj_weight"].sum()) == pytest.approx(0.3 * 3072, rel=0.01)


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "columns": lambda x, w: (x @ w[:, :12]) * (x @ w[:, 12:]).sigmoid(),
    "rows of another form": lambda x, w: F.linear(x, w.t()[:12]) * F.linear(x, w.t()[12:]),
    "chunks": lambda x, w: torch.stack([x @ part for part in w.chunk(2, 1)]).sum(0),
}


class Parts(nn.Module):
    def __init__(self, product: str) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(12, 32), nn.Linear(12, 5)
        self.weight = nn.Parameter(torch.randn(32, 24) * 0.1)
        self.product = PRODUCTS[product]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.product(self.first(x).relu(), self.weight))
        return out


@pytest.mark.parametrize("product", PRODUCTS)
def test_parts_of_one_matrix_are_one_layer(product: str) -> None:
    layers = {layer.name: layer for layer in precrop.count(Parts(product), (12,)).layers}
    found = layers[""]
    assert (found.in_channels, found.out_channels, found.macs) == (32, 24, 32 * 24)


class Rotated(nn.Module):
    """A convolution that commutes with rotations: one weight in four directions."""

    def __init__(self, inputs: int, outputs: int, directions: int) -> None:
        super().__init__()
        self.ends = outputs * 4, inputs * directions
        self.weight = nn.Parameter(torch.randn(outputs, inputs, directions, 3, 3) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        turned = (torch.rot90(self.weight, turn, (-2, -1)).roll(turn, 2) for turn in range(4))
        kernel = torch.stack([*turned], 1).reshape(*self.ends, 3, 3)
        return F.conv2d(x.flatten(1, 2), kernel, padding=1).unflatten(1, (-1, 4))


class Rotations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Rotated(1, 16, 1), Rotated(16, 32, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x.unsqueeze(2)).relu()).relu()
        return self.head(x.amax(2).mean((2, 3)))


def test_a_kernel_that_is_put_together_of_one_weight_is_that_weights() -> None:
    model, shape = Rotations(), (1, 12, 12)
    plan, _ = cropped(model, shape, ["one", "two"])
    assert not plan.frozen
    assert plan.widths["one"][1] == plan.widths["two"][0]
    for method in ("erk", "synflow"):
        assert set(precrop.densities(model, shape, method=method, params=0.3)) == {*plan.widths}
