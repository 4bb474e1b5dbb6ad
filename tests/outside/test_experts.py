"""Weights of several experts in one bare parameter: all of them have one pair of widths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from precrop.plans.build import fan_scale, resize
from tests.outside.cropping import cropped

EXPERTS, WIDTH, HIDDEN = 4, 16, 24
SHAPE = (6, 8)


def hit(m: Any, x: Tensor, shares: Tensor) -> Tensor:
    """Each expert that some row chose, on its rows: what is run depends on values."""
    best, chosen = shares.topk(2, -1)
    out = torch.zeros_like(x)
    mask = F.one_hot(chosen, len(m.rise)).permute(2, 1, 0)
    for expert in (mask.sum((1, 2)) > 0).nonzero().flatten():
        place, row = torch.where(mask[expert])
        value, gate = F.linear(x[row], m.rise[expert]).chunk(2, -1)
        made = F.linear(value * gate.sigmoid(), m.fall[expert])
        out.index_add_(0, row, made * best[row, place, None])
    return out


def each(m: Any, x: Tensor, shares: Tensor) -> Tensor:
    """All experts one after the other; one parameter is unbound."""
    out = torch.zeros_like(x)
    for i, fall in enumerate(m.fall.unbind(0)):
        value, gate = (x @ m.rise[i].mT).chunk(2, -1)
        out = out + shares[:, i, None] * F.linear(value * gate.sigmoid(), fall)
    return out


def gathered(m: Any, x: Tensor, shares: Tensor) -> Tensor:
    """The best expert of every row, looked up."""
    best = shares.argmax(-1)
    value, gate = torch.einsum("td,tod->to", x, m.rise[best]).chunk(2, -1)
    y = value * gate.sigmoid()
    return torch.bmm(m.fall.index_select(0, best), y[..., None]).squeeze(-1)


class Routed(nn.Module):
    """A layer before, a router, experts, a layer behind."""

    def __init__(self, run: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.enter, self.leave = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 5)
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.rise = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, WIDTH) / 9)
        self.fall = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / 9)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).flatten(0, 1)
        rows = rows + self.run(self, rows, self.router(rows).softmax(-1))
        return self.leave(rows.view(len(x), -1, rows.shape[-1]).mean(1))


@pytest.mark.parametrize("run", [hit, each, gathered])
def test_experts_are_tied_and_cropped(run: Any) -> None:
    model = Routed(run)
    plan, built = cropped(model, SHAPE, ["enter", "rise", "fall"])
    assert plan.frozen.keys() <= {"router"}
    layers = {layer.name: layer for layer in plan.layers}
    assert {layers[name].kind for name in ("rise", "fall")} == {"experts"}
    width, hidden = layers["enter"].out_channels, layers["fall"].in_channels
    assert width < WIDTH
    assert hidden < HIDDEN
    assert built.rise.shape == (EXPERTS, 2 * hidden, width)
    assert built.fall.shape == (EXPERTS, width, hidden)
    assert layers["rise"].base_macs == 2 * layers["fall"].base_macs > 0
    axes = plan.tensors["fall"]
    wanted = resize(model.fall.detach(), axes) * (HIDDEN / hidden) ** 0.5
    assert torch.allclose(built.fall, wanted, atol=1e-6)


class Kernels(nn.Module):
    """A kernel for every expert, used one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 24, 3), nn.Linear(32, 5)
        self.kernels = nn.Parameter(torch.randn(3, 32, 24, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        maps = [F.conv2d(x, self.kernels[i]) for i in range(len(self.kernels))]
        return self.leave(torch.stack(maps).amax(0).mean((2, 3)))


def test_kernels_of_experts() -> None:
    model = Kernels()
    plan, built = cropped(model, (3, 9, 9), ["enter", "kernels"])
    (layer,) = (layer for layer in plan.layers if layer.name == "kernels")
    assert (layer.kind, layer.in_channels, layer.out_channels) == (
        "experts", *built.kernels.shape[2:0:-1]
    )  # fmt: skip
    assert layer.base_macs == 3 * 9 * 24 * 32 * 5 * 5
    axes = plan.tensors["kernels"]
    wanted = resize(model.kernels.detach(), axes) * (24 / layer.in_channels) ** 0.5
    assert torch.allclose(built.kernels, wanted, atol=1e-6)


class Batched(nn.Module):
    """A product with all experts' matrices at once, stored as (expert, out, in)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, WIDTH), nn.Linear(HIDDEN, 5)
        self.rise = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / 9)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).mean(1).expand(EXPERTS, -1, -1)
        return self.leave(torch.bmm(rows, self.rise.mT).amax(0))


def test_experts_in_a_batch_are_rescaled_by_their_inputs() -> None:
    model = Batched()
    plan, built = cropped(model, SHAPE, ["enter", "rise"])
    (layer,) = (layer for layer in plan.layers if layer.name == "rise")
    axes = plan.tensors["rise"]
    scale = (WIDTH / built.rise.shape[2]) ** 0.5
    assert fan_scale(axes, layer.kind) == pytest.approx(scale) != 1
    assert torch.allclose(built.rise, resize(model.rise.detach(), axes) * scale, atol=1e-6)


def test_densities_and_masks_of_experts() -> None:
    model = Routed(each)
    densities = precrop.densities(model, SHAPE, method="synexp", params=0.5)
    masks = precrop.masks(model, densities, "weight")
    assert masks["rise"].float().mean() == pytest.approx(densities["rise"], abs=0.01)
    assert densities["rise"] < 1


class Blocks(nn.Module):
    """Real and imaginary parts of square blocks, as a Fourier operator mixes its channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Conv2d(3, 64, 2, 2), nn.Linear(64, 5)
        self.number, self.size = 4, 16
        self.blocks = nn.Parameter(torch.randn(2, self.number, self.size, self.size) / 9)
        self.shift = nn.Parameter(torch.zeros(2, self.number, self.size))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        f = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
        f = f.reshape(*f.shape[:3], self.number, self.size)
        parts = [
            torch.einsum("...bi,bio->...bo", part, block) + shift
            for part, block, shift in zip((f.real, f.imag), self.blocks, self.shift, strict=True)
        ]
        f = torch.view_as_complex(torch.stack(parts, -1)).flatten(3)
        y = torch.fft.irfft2(f, s=(height, width), dim=(1, 2), norm="ortho")
        return self.leave((x + y).mean((1, 2)))


def test_square_blocks_are_not_taken_for_kernels() -> None:
    plan, built = cropped(Blocks(), (3, 8, 8), ["enter"], params=0.5)
    assert not plan.frozen
    assert built.blocks.shape == (2, 4, built.size, built.size)
    assert 4 * built.size == built.enter.out_channels < 64
