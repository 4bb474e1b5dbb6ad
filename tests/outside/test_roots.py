"""Numbers that are a width's root follow it; numbers that merely equal one stay."""

import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import precrop
from precrop.plans.table import show
from tests.outside.cropping import cropped

WAYS = ("queries", "scores", "divided", "in forward", "pytorch")


class Attention(nn.Module):
    """Attention over rows; ``way`` says where the root of the heads' width comes in."""

    def __init__(self, dim: int, way: str) -> None:
        super().__init__()
        self.way, self.heads, self.head_dim = way, 2, dim // 2
        self.scale, self.temperature = self.head_dim**-0.5, self.head_dim**0.5
        self.gain = self.head_dim**-0.5  # a hyper-parameter that equals it by chance
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, _ = x.shape
        qkv = self.qkv(x).reshape(batch, rows, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.gain * self.out(self.mixed(q, k, v).transpose(1, 2).flatten(2))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "pytorch":
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        if self.way == "queries":
            scores = (q * self.scale) @ k.transpose(-2, -1)
        elif self.way == "scores":
            scores = (q @ k.transpose(-2, -1)) * self.scale + 0.5
        elif self.way == "divided":
            scores = q @ k.transpose(-2, -1) / self.temperature
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        return scores.softmax(-1) @ v


class Rows(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 64), nn.Linear(64, 5)
        self.blocks = nn.ModuleList(Attention(64, way) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.head(x.mean(1))
        return out


@pytest.mark.parametrize("way", WAYS)
def test_an_attentions_scale_follows_the_width_that_its_product_sums_over(way: str) -> None:
    model = Rows(way)
    plan, built = cropped(model, (7, 6), ["embed", "blocks.0.qkv"])
    width = plan.widths["blocks.1.qkv"][1] // 6
    assert width < 32
    for block in built.blocks:
        found = {
            "queries": block.scale,
            "scores": block.scale,
            "pytorch": block.scale,
            "divided": 1 / block.temperature,
            "in forward": block.head_dim**-0.5,
        }
        assert found[way] == pytest.approx(width**-0.5)
        assert block.gain == 32**-0.5
    assert plan.solver["lookalikes"] == ["blocks.0.gain", "blocks.1.gain"]


def test_a_scale_that_pytorchs_attention_makes_superfluous_follows() -> None:
    class Fused(Attention):
        def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    model = nn.Sequential(nn.Linear(6, 64), Fused(64, "pytorch"), nn.Linear(64, 5))
    plan, built = cropped(model, (7, 6), ["0", "1.qkv"])
    assert built[1].scale == pytest.approx((plan.widths["1.qkv"][1] // 6) ** -0.5)
    assert built[1].gain == 32**-0.5


class Residual(nn.Module):
    """Branches scaled by a hyper-parameter (EDSR, Inception-ResNet)."""

    def __init__(self, width: int, scale: Any) -> None:
        super().__init__()
        self.scale = self.res_scale = scale
        self.first, self.second = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu() * self.scale)
        return x + self.res_scale * y


@pytest.mark.parametrize(("width", "scale"), [(64, 0.125), (100, 0.1), (64, 8.0), (16, 4)])
def test_a_scale_that_equals_a_root_by_chance_stays(width: int, scale: Any) -> None:
    body = Residual(width, scale)
    model = nn.Sequential(nn.Conv2d(3, width, 3), body, nn.Conv2d(width, 3, 3))
    plan, built = cropped(model, (3, 8, 8), ["0", "1.first"])
    assert built[1].scale == built[1].res_scale == scale
    assert not any(isinstance(value, float) for _, _, value in plan.attributes)
    named = ["1.scale", "1.res_scale"] if type(scale) is float else []
    assert plan.solver.get("lookalikes", []) == named  # whoever wrote it may have meant the width
    assert ("Not rescaled: 1.scale, 1.res_scale: " in shown(plan)) == bool(named)
    assert precrop.Plan.from_json(plan.to_json()) == plan


def shown(plan: precrop.Plan) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    show(plan, console)
    return console.export_text()


class Equalised(nn.Module):
    """A convolution whose weight is of unit variance and scaled in forward (StyleGAN)."""

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.scale = math.sqrt(gain / (inputs * 9))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, padding=1)


@pytest.mark.parametrize("gain", [1, 2])
def test_a_weight_that_is_scaled_by_its_fan_is_rescaled_once(gain: float) -> None:
    torch.manual_seed(0)
    layers = [Equalised(3, 32, gain), Equalised(32, 48, gain), Equalised(48, 8, gain)]
    model: Any = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    plan, built = cropped(model, (3, 8, 8), ["0", "2"])
    for name in ("0", "2", "4"):
        inputs, outputs = plan.widths[name]
        layer = built.get_submodule(name)
        assert layer.scale == pytest.approx(math.sqrt(gain / (inputs * 9)))
        kept = model.get_submodule(name).weight[:outputs, :inputs]
        assert torch.equal(layer.weight, kept)


class Bounded(nn.Module):
    """A norm over channels that is scaled back by the root of their number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.gain = width**0.5, nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale * self.gain


def test_a_norms_scale_follows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), Bounded(64), nn.Conv2d(64, 3, 3))
    plan, built = cropped(model, (3, 8, 8), ["0"], params=0.5)
    assert built[1].scale == pytest.approx(plan.widths["0"][1] ** 0.5)


class Words(nn.Module):
    """Embeddings times the root of their width, kept as a number or taken in forward."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept, self.d_model, self.root = kept, 64, 64**0.5
        self.table, self.inner, self.head = nn.Embedding(9, 64), nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.root if self.kept else math.sqrt(self.d_model)
        out: Tensor = self.head(self.inner(self.table(x.long()) * scale).relu())
        return out


@pytest.mark.parametrize("kept", [False, True])
def test_an_embeddings_scale_follows(kept: bool) -> None:
    model = Words(kept)
    plan = precrop.plan(model, (7,), params=0.5)
    built: Any = plan.build(model)
    width = plan.widths["inner"][0]
    assert width < 64
    assert (built.root**2 if kept else built.d_model) == pytest.approx(width)
