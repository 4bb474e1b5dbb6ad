"""Language models: tokens' and places' tables, tied heads, blocks with and without modules."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from tests.outside.sequences import cropped

VOCABULARY, WIDTH, HEADS, PLACES = 40, 32, 4, 12
SHAPE = (9,)


def tokens(x: Tensor) -> Tensor:
    """Whole numbers of what the network is given."""
    return x.abs().mul(20).long().clamp(0, VOCABULARY - 1)


class Flat(nn.Module):
    """One decoder block, written out in forward."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(torch.zeros(PLACES, WIDTH)) if table else None
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(tokens(x))
        b, n, c = x.shape
        if self.places is not None:
            x = x + self.places[:n]
        parts = self.qkv(self.norms[0](x)).split(c, dim=2)
        q, k, v = (t.view(b, n, HEADS, c // HEADS).transpose(1, 2) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, c))
        out: Tensor = self.head(x + self.down(F.gelu(self.up(self.norms[1](x)))))
        return out


@pytest.mark.parametrize("table", [False, True])
def test_widths_of_a_flat_block_are_told_apart(table: bool) -> None:
    plan, built = cropped(partial(Flat, table), SHAPE)
    groups = {layer.name: layer.group for layer in plan.layers}
    assert groups["qkv"] == groups["proj"] == groups["down"] != groups["up"] is not None
    assert built.embedding.embedding_dim == built.head.in_features < WIDTH
    assert built.qkv.out_features == 3 * built.head.in_features
    assert built.places is None or built.places.shape == (PLACES, built.head.in_features)


class Tied(nn.Module):
    """The head is the embedding, which is scaled by the root of its stated width."""

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH
        self.embedding, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight  # one parameter

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(tokens(x)) * math.sqrt(self.width)
        x = x + self.places(torch.arange(x.shape[1], device=x.device))
        out: Tensor = self.head(x + self.down(F.gelu(self.up(x))))
        return out


def test_tied_weights_stay_tied_and_say_their_width() -> None:
    plan, built = cropped(Tied, SHAPE)
    assert built.head.weight is built.embedding.weight
    width = built.head.weight.shape[1]
    assert built.width == built.embedding.embedding_dim == built.head.in_features == width < WIDTH
    again: Any = precrop.Plan.from_json(plan.to_json()).build(Tied())
    assert again.head.weight is again.embedding.weight
    assert again.width == width


class GroupedQueries(nn.Module):
    """Two heads of keys for four of queries, all sized by one stored number."""

    def __init__(self) -> None:
        super().__init__()
        self.size = WIDTH // HEADS
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.q, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = (nn.Linear(WIDTH, 2 * self.size) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, HEADS, self.size).transpose(1, 2)
        k, v = (f(x).view(b, n, 2, self.size).transpose(1, 2) for f in (self.k, self.v))
        k, v = (t.repeat_interleave(HEADS // 2, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        out: Tensor = self.head(x + self.proj(y))
        return out


def test_what_one_number_sizes_is_one_width_and_no_more() -> None:
    plan, built = cropped(GroupedQueries, (9, 5))
    groups = {layer.name: layer.group for layer in plan.layers}
    assert groups["q"] == groups["k"] != groups["stem"] == groups["proj"]
    assert built.q.out_features == HEADS * built.size
    assert built.k.out_features == built.v.out_features == 2 * built.size
