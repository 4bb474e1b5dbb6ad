"""Numbers that are a width's root follow it; numbers that merely equal one stay."""

import io
import math
from collections.abc import Callable
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


def of_one_sample(weight: Tensor, x: Tensor) -> Tensor:
    """A convolution whose kernels every sample has its own of (StyleGAN2)."""
    batch, channels, *extent = x.shape
    kernels = (weight * x.new_ones(batch, 1, 1, 1, 1)).reshape(-1, channels, 3, 3)
    return F.conv2d(x.reshape(1, -1, *extent), kernels, padding=1, groups=batch).view(
        batch, -1, *extent
    )


# How else a convolution's parameter lies: the order of its outputs, inputs and extent, and its use.
LAYOUTS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "of each sample": ("1oihw", of_one_sample),
    "of one": ("1oihw", lambda w, x: F.conv2d(x, w[0], padding=1)),
    "channels last": ("hwio", lambda w, x: F.conv2d(x, w.permute(3, 2, 0, 1), padding=1)),
    "turned": ("iohw", lambda w, x: F.conv2d(x, w.transpose(0, 1), padding=1)),
}


class LaidOut(nn.Module):
    """A convolution whose parameter has its axes in another order, scaled in forward or not."""

    def __init__(self, inputs: int, outputs: int, layout: str, *, scaled: bool) -> None:
        super().__init__()
        order, self.use = LAYOUTS[layout]
        sizes = {"1": 1, "o": outputs, "i": inputs, "h": 3, "w": 3}
        self.weight = nn.Parameter(torch.randn([sizes[axis] for axis in order]))
        self.scale = 1 / math.sqrt(inputs * 9) if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.scale * self.weight, x)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_kernels_fan_is_that_of_its_inputs_wherever_they_lie(layout: str, scaled: bool) -> None:
    middle = LaidOut(32, 48, layout, scaled=scaled)
    model: Any = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), middle, nn.Conv2d(48, 8, 3, 1, 1))
    plan, built = cropped(model, (3, 8, 8), ["0", "1"])
    inputs, outputs = plan.widths["1"]
    assert inputs / 32 != outputs / 48
    sliced = model[1].weight[tuple(map(slice, built[1].weight.shape))]
    if scaled:
        assert built[1].scale == pytest.approx(1 / math.sqrt(inputs * 9))
        assert torch.equal(built[1].weight, sliced)
    else:
        assert torch.allclose(built[1].weight, sliced * (32 / inputs) ** 0.5)


class ScaledInput(nn.Module):
    """A convolution whose input is scaled in the place of its weight (ProGAN)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.scale = (2 / (inputs * kernel**2)) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x * self.scale)
        return out


def test_an_input_that_is_scaled_by_its_kernels_fan_follows() -> None:
    layers = [ScaledInput(3, 32), ScaledInput(32, 48), ScaledInput(48, 8, 1)]
    model: Any = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    plan, built = cropped(model, (3, 8, 8), ["0.conv", "2.conv"])
    inputs, outputs = plan.widths["2.conv"]
    assert built[2].scale == pytest.approx((2 / (inputs * 9)) ** 0.5)
    assert torch.equal(built[2].conv.weight, model[2].conv.weight[:outputs, :inputs])
    # Without an extent a number may be that root by chance: the weight is rescaled.
    inputs, _ = plan.widths["4.conv"]
    assert built[4].scale == layers[2].scale
    factor = (48 / inputs) ** 0.5
    assert torch.allclose(built[4].conv.weight, factor * model[4].conv.weight[:, :inputs])


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


class ByHand(nn.Module):
    """A norm over channels whose mean and variance are sums, divided by a number that is kept."""

    def __init__(self, kept: Any, way: str) -> None:
        super().__init__()
        self.dim, self.way = kept, way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "pixels":  # one mean of all numbers of an input
            return x / (x.square().sum((1, 2, 3), keepdim=True) / self.dim + 1e-6).sqrt()
        if self.way == "norm":
            return x / (x.norm(dim=1, keepdim=True) * self.dim)
        if self.way == "inverse":
            return x * torch.rsqrt(x.square().sum(1, keepdim=True) * self.dim + 1e-6)
        x = x - x.sum(1, keepdim=True) / self.dim
        variance = x.square().sum(1, keepdim=True)
        return x / (variance / (self.dim - 1 if self.way == "unbiased" else self.dim) + 1e-6).sqrt()


@pytest.mark.parametrize("name", ["dim", "count"])
@pytest.mark.parametrize(
    ("kept", "way", "power"),
    [
        (64, "unbiased", 1),
        (64, "biased", 1),
        (64.0, "biased", 1),
        (64 * 36, "pixels", 1),
        (1 / 64, "inverse", -1),
        (64**-0.5, "norm", -0.5),
    ],
)
def test_what_sums_are_divided_by_follows(kept: Any, way: str, power: float, name: str) -> None:
    class Named(ByHand):
        """The same, with another name for what is kept."""

        def __init__(self) -> None:
            super().__init__(kept, way)
            setattr(self, name, vars(self).pop("dim"))

        def __getattr__(self, asked: str) -> Any:
            return vars(self)[name] if asked == "dim" else super().__getattr__(asked)

    model = nn.Sequential(nn.Conv2d(3, 64, 3), Named(), nn.Conv2d(64, 3, 3))
    plan, built = cropped(model, (3, 8, 8), ["0"], params=0.5)
    width = plan.widths["0"][1]
    assert getattr(built[1], name) == pytest.approx(kept * (width / 64) ** power)
    assert type(getattr(built[1], name)) is type(kept)
    reference = nn.Sequential(built[0], ByHand(kept * (width / 64) ** power, way), built[2])
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(built(x), reference(x), atol=1e-5)
    assert "lookalikes" not in plan.solver


class Correlation(nn.Module):
    """Products of features of two branches, in the mean over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.count = width
        self.left, self.right = nn.Conv2d(3, width, 3), nn.Conv2d(3, width, 3)
        self.head = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        products = self.left(x) * self.right(x)
        out: Tensor = self.head(products.sum(1, keepdim=True) / self.count)
        return out


def test_a_correlations_number_of_channels_follows() -> None:
    plan, built = cropped(Correlation(64), (3, 8, 8), ["left"], params=0.5)
    assert built.count == plan.widths["left"][1] < 64


def test_a_number_that_divides_a_sum_over_space_stays() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels = 36

        def forward(self, x: Tensor) -> Tensor:
            return x.sum((2, 3)) / self.pixels

    model = nn.Sequential(nn.Conv2d(3, 36, 3), nn.Conv2d(36, 36, 1), Pooled(), nn.Linear(36, 3))
    plan, built = cropped(model, (3, 8, 8), ["0"], params=0.5)
    assert built[2].pixels == 36
    assert "lookalikes" not in plan.solver


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


def test_an_integer_follows_whose_root_scales_what_a_layer_reads() -> None:
    """T5 scales what the tied embedding turns into logits."""

    class Tied(Words):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.inner(self.table(x.long())) * self.d_model**-0.5
            return F.linear(rows, self.table.weight)

    model = Tied(kept=False)
    plan = precrop.plan(model, (7,), params=0.5)
    built: Any = plan.build(model)
    assert built.d_model == plan.widths["inner"][1] < 64


class Partial(nn.Conv2d):
    """A convolution over what is known of an image, with a kernel of ones that counts it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.ones = torch.ones(channels, channels, 3, 3)
        self.count = 9 * channels

    def forward(self, x: Tensor) -> Tensor:
        known = F.conv2d(torch.ones_like(x), self.ones.to(x), padding=1)
        return super().forward(x) * (self.count / (known + 1e-8))


def test_a_number_that_is_divided_by_a_convolution_of_ones_follows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Partial(32), Partial(32), nn.Conv2d(32, 3, 1))
    _, built = cropped(model, (3, 8, 8), ["0", "1", "2"], params=0.3)
    for layer in built[1:3]:
        assert layer.count == 9 * layer.in_channels
    inner = built(torch.ones(1, 3, 8, 8))
    for layer in built[1:3]:
        layer.count, layer.ones = 9 * 32, torch.full_like(layer.ones, 32 / layer.in_channels)
    assert torch.allclose(inner, built(torch.ones(1, 3, 8, 8)), atol=1e-6)


class Distances(nn.Module):
    """Distances between rows of queries and keys, over the root of their width."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.scale = way, 64**-0.5
        self.q, self.k, self.v = nn.Linear(6, 64), nn.Linear(6, 64), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        between = q.unsqueeze(2) - k.unsqueeze(1)
        if self.way == "cdist":
            found = torch.cdist(q, k)
        elif self.way == "squares":
            found = between.square().sum(-1)
        elif self.way == "root":
            found = between.square().sum(-1).sqrt()
        else:
            found = (q.unsqueeze(2) + k.unsqueeze(1)).tanh().sum(-1)
        out: Tensor = (found * self.scale).softmax(-1) @ self.v(x)
        return out


@pytest.mark.parametrize("way", ["cdist", "squares", "root", "additive"])
def test_what_distances_are_scaled_by_follows(way: str) -> None:
    plan, built = cropped(Distances(way), (7, 6), ["q", "k"], params=0.5)
    width = plan.widths["q"][1]
    assert width < 64
    assert built.scale == pytest.approx(width**-0.5)
