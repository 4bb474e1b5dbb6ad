"""Attention of PyTorch and of one's own: heads divide a width, and what is stored of it follows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from tests.outside.sequences import cropped

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

TOKENS, FEATURES, WIDTH, HEADS = 7, 10, 32, 4
SHAPE = (TOKENS, FEATURES)
SHAPES = [SHAPE, (5, FEATURES)]


class Crossed(nn.Module):
    """Queries, keys and values of three widths."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.queries, self.keys = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, 24)
        self.values, self.head = nn.Linear(FEATURES, 20), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(
            WIDTH, HEADS, kdim=24, vdim=20, batch_first=batch_first
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        inputs = self.queries(x), self.keys(y), self.values(y)
        if not self.attention.batch_first:
            inputs = tuple(t.transpose(0, 1) for t in inputs)
        out: Tensor = self.head(self.attention(*inputs)[0])
        return out


@pytest.mark.parametrize("batch_first", [False, True])
def test_keys_and_values_have_widths_of_their_own(batch_first: bool) -> None:
    plan, built = cropped(partial(Crossed, batch_first), SHAPES)
    attention = built.attention
    assert attention.embed_dim == attention.out_proj.in_features == built.queries.out_features
    assert attention.kdim == attention.k_proj_weight.shape[1] == built.keys.out_features
    assert attention.vdim == attention.v_proj_weight.shape[1] == built.values.out_features
    groups = {layer.name: layer.group for layer in plan.layers}
    assert len({groups["queries"], groups["keys"], groups["values"]}) == 3


class Attending(nn.Module):
    """Self-attention of PyTorch with a residual sum, or without."""

    def __init__(self, residual: bool, masked: bool = False, **options: Any) -> None:
        super().__init__()
        self.residual, self.masked = residual, masked
        self.stem, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        masks: dict[str, Tensor] = {}
        if self.masked:
            masks["key_padding_mask"] = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            later = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=x.device).triu(1)
            masks["attn_mask"] = later
        y = self.attention(x, x, x, **masks)[0]
        out: Tensor = self.head(x + y if self.residual else y)
        return out


@pytest.mark.parametrize(
    "make",
    [
        partial(Attending, True),
        partial(Attending, False, bias=False),
        partial(Attending, True, masked=True),
        partial(Attending, True, add_bias_kv=True, add_zero_attn=True),
    ],
)
def test_self_attention_is_cropped(make: Callable[[], nn.Module]) -> None:
    plan, built = cropped(make, SHAPE, used=0.75)
    attention = built.attention
    assert attention.embed_dim < WIDTH
    assert attention.embed_dim % HEADS == 0
    assert attention.embed_dim == attention.head_dim * HEADS == built.stem.out_features
    assert attention.in_proj_weight.shape == (3 * attention.embed_dim, attention.embed_dim)
    assert not plan.frozen


def test_a_tight_budget_leaves_every_head_two_channels() -> None:
    """With one, PyTorch copies no tensor to order it, and its calls are not those of the others."""
    plan, built = cropped(partial(Attending, True), SHAPE, used=0.75, params=0.09)
    assert built.attention.embed_dim == 2 * HEADS
    assert not plan.frozen
    with pytest.raises(precrop.BudgetError, match="the least possible.* is ") as told:
        precrop.plan(Attending(True), SHAPE, params=0.01)
    assert int(str(told.value).split()[-1]) <= plan.params


class Translator(nn.Module):
    """PyTorch's encoder and decoder, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, WIDTH)
        self.core = nn.Transformer(WIDTH, HEADS, 2, 1, 48, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.head(self.core(self.source(x), self.target(y)))
        return out


def test_transformer_with_a_decoder_is_cropped() -> None:
    plan, built = cropped(Translator, SHAPES)
    assert built.core.d_model == built.source.out_features == built.target.out_features < WIDTH
    hidden = [layer.group for layer in plan.layers if layer.name.endswith("linear1")]
    assert len(hidden) == len(set(hidden)) == 3
    assert not plan.frozen


class Detecting(nn.Module):
    """Learnt queries look at a map whose places are told by two tables (DETR)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.project = nn.Conv2d(16, WIDTH, 1)
        self.core = nn.Transformer(WIDTH, HEADS, 1, 2, 48)
        self.queries = nn.Parameter(torch.rand(6, WIDTH))
        self.rows, self.columns = (nn.Parameter(torch.rand(20, WIDTH // 2)) for _ in range(2))
        self.classes, self.boxes = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(self.backbone(x))
        height, width = x.shape[-2:]
        columns = self.columns[:width].unsqueeze(0).repeat(height, 1, 1)
        rows = self.rows[:height].unsqueeze(1).repeat(1, width, 1)
        places = torch.cat([columns, rows], -1).flatten(0, 1).unsqueeze(1)
        queries = self.queries.unsqueeze(1).repeat(1, x.shape[0], 1)
        y = self.core(places + x.flatten(2).permute(2, 0, 1), queries).transpose(0, 1)
        return self.classes(y), self.boxes(y).sigmoid()


def test_detection_with_queries_is_cropped() -> None:
    plan, built = cropped(Detecting, (3, 8, 8))
    assert built.core.d_model == built.queries.shape[1] == built.project.out_channels < WIDTH
    assert built.rows.shape[1] + built.columns.shape[1] == built.core.d_model
    assert not plan.frozen


class UnevenAttention(nn.Module):
    """Keys are half as wide as values, as in recent detectors of the YOLO family."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.key_dim = heads, width // heads, width // heads // 2
        self.scale = self.key_dim**-0.5
        self.qkv = nn.Conv2d(width, width + 2 * heads * self.key_dim, 1)
        self.proj = nn.Conv2d(width, width, 1)
        self.places = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.heads, self.key_dim * 2 + self.head_dim, h * w)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        table = ((q.transpose(-2, -1) @ k) * self.scale).softmax(-1)
        y = (v @ table.transpose(-2, -1)).view(b, c, h, w) + self.places(v.reshape(b, c, h, w))
        out: Tensor = self.proj(y)
        return out


class Uneven(nn.Module):
    """A block of it in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, WIDTH, 3), UnevenAttention(WIDTH, 2)
        self.up, self.head = nn.Conv2d(WIDTH, 48, 1), nn.Conv2d(48, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.up(x + self.attention(x)).relu())
        return out


def test_unequal_split_keeps_its_ratio() -> None:
    plan, built = cropped(Uneven, (3, 8, 8))
    block = built.attention
    assert block.head_dim == 2 * block.key_dim < 16
    assert block.scale == pytest.approx(block.key_dim**-0.5)
    assert block.qkv.out_channels == 2 * (block.head_dim + 2 * block.key_dim)
    assert built.up.out_channels < 48
    assert not plan.frozen


class GatedBias(nn.Module):
    """Attention with weights of its own that PyTorch's function checks, and a gated bias (WavLM).

    The gate's eight channels are a number in the code: they must not hold the embedding.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.gate, self.table = nn.Linear(width // heads, 8), nn.Embedding(16, heads)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = x.view(batch, length, self.heads, -1).transpose(1, 2)
        gates = self.gate(split).view(batch, self.heads, length, 2, 4).sum(-1).sigmoid()
        places = torch.arange(length, device=x.device)
        bias = self.table((places[None] - places[:, None]).abs() % 16).permute(2, 0, 1)
        bias = bias.repeat(batch, 1, 1) * gates[..., :1].reshape(batch * self.heads, length, 1)
        x = x.transpose(0, 1)
        biases = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        out, _ = nn.functional.multi_head_attention_forward(
            x, x, x, self.width, self.heads, None, biases, None, None, False, 0.0,
            self.o.weight, self.o.bias, self.training, None, False, bias,
            use_separate_proj_weight=True, q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )  # fmt: skip
        return out.transpose(0, 1)


class Gated(nn.Module):
    """A block of it between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(6, 48), GatedBias(48, 4)
        self.hidden, self.back, self.head = nn.Linear(48, 64), nn.Linear(64, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.block(h)
        out: Tensor = self.head(h + self.back(self.hidden(h).relu())).mean(1)
        return out


def test_widths_that_are_compared_are_held_equal_and_others_stay_free() -> None:
    plan, built = cropped(Gated, (9, 6))
    assert not plan.frozen
    assert built.block.q.weight.shape == (built.block.width, built.block.width)
    assert built.block.gate.out_features == 8


class Grouped(nn.Module):
    """Attention whose heads share keys and values; numbers and widths of heads are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shared, self.width = HEADS, HEADS // 2, 16
        width = HEADS * self.width
        self.embed, self.queries = nn.Linear(FEATURES, width), nn.Linear(width, width)
        self.keys, self.values = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)

        def split(y: Tensor, heads: int) -> Tensor:
            return y.unflatten(-1, (heads, self.width)).transpose(1, 2)

        queries = split(self.queries(x), self.heads)
        keys, values = (split(layer(x), self.shared) for layer in (self.keys, self.values))
        y = nn.functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
        out: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return out


def test_a_refused_shape_ties_nothing_else() -> None:
    """Code that raises since it cannot have a shape has compared no widths."""
    plan, built = cropped(Grouped, SHAPE)
    assert not plan.frozen
    groups = {layer.name: layer.group for layer in plan.layers}
    assert groups["embed"] == groups["out"] != groups["queries"]
    assert built.queries.out_features == 2 * built.keys.out_features


class Stage(nn.Module):
    """Attention whose code divides the width of what it reads by the heads, as DaViT's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        parts = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        out: Tensor = x + self.proj(mixed.transpose(1, 2).reshape(b, n, c))
        return out


def test_what_follows_a_width_that_is_kept_is_kept_there_alone() -> None:
    """A backbone without a head: the width of its last stage is its output's."""

    def make() -> nn.Module:
        first, second = nn.Linear(FEATURES, 32), nn.Linear(32, 64)
        return nn.Sequential(first, Stage(32), Stage(32), second, Stage(64))

    plan, built = cropped(make, SHAPE, params=0.95)
    assert [*plan.frozen] == ["4.qkv"]
    assert built[0].out_features < 32


class ManyHeads(nn.Module):
    """More heads than channels in each; the code divides by their number, which it keeps."""

    def __init__(self, divided: bool) -> None:
        super().__init__()
        self.divided, self.number = divided, 16
        self.stem, self.head = nn.Linear(FEATURES, 64), nn.Linear(64, 3)
        self.qkv = nn.Linear(64, 3 * 64)
        self.register_buffer("slopes", torch.arange(16.0).reshape(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, c = x.shape
        width = c // self.number if self.divided else -1
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (t.view(b, n, self.number, width).transpose(1, 2) for t in parts)
        scores = (q @ k.transpose(-2, -1) - self.get_buffer("slopes")).softmax(-1)
        out: Tensor = self.head((scores @ v).transpose(1, 2).reshape(b, n, -1))
        return out


@pytest.mark.parametrize("divided", [False, True])
def test_the_number_of_heads_stays_where_they_are_many(divided: bool) -> None:
    plan, built = cropped(partial(ManyHeads, divided), SHAPE, used=0.4)
    assert built.number == len(built.slopes) == 16
    assert built.qkv.out_features < 3 * 64
    assert not plan.frozen


class WholeBlock(nn.Module):
    """Attention and MLP in one module, whose view takes the heads' width from what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.first(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2)
        x = x + self.proj(mixed.reshape(batch, tokens, width))
        return x + self.down(self.up(self.second(x)).relu())


@pytest.mark.parametrize("budget", [0.5, 0.75, 0.95])
def test_hidden_widths_are_free_where_an_embedding_keeps_its_width(budget: float) -> None:
    """The first networks that are tried keep the embedding, and so what the view asks for."""
    blocks = (WholeBlock(32, HEADS) for _ in range(2))
    model = nn.Sequential(nn.Linear(FEATURES, 32), *blocks, nn.Linear(32, 3))
    plan = precrop.plan(model, SHAPE, params=budget, expand=True, divisor=1)
    widths, groups = plan.widths, {layer.name: layer.group for layer in plan.layers}
    assert len({groups["0"], groups["1.up"], groups["2.up"]}) == 3
    assert widths["1.qkv"] == (widths["0"][1], 3 * widths["0"][1])
    assert plan.budgets["params"].used > 0.98 * plan.budgets["params"].limit
    built = plan.build(model)
    assert built(torch.randn(2, *SHAPE)).shape == (2, TOKENS, 3)
