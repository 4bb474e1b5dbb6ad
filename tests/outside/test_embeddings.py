"""Widths that embeddings and other learnt tables make, and no layer: shown, kept and given."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop

TOKENS = torch.randint(0, 9, (2, 2), generator=torch.Generator().manual_seed(0))


class Looked(nn.Module):
    """Two embeddings side by side, and layers behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(300, 16), nn.Embedding(200, 24)
        self.hidden, self.out = nn.Linear(40, 24), nn.Linear(24, 1)

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.cat([self.user(ids[:, 0]), self.item(ids[:, 1])], 1)
        out: Tensor = self.out(self.hidden(rows).relu())
        return out


def planned(**options: Any) -> precrop.Plan:
    return precrop.plan(Looked(), example_inputs=TOKENS, **options)


def test_their_widths_are_shown() -> None:
    plan = planned(params=0.5)
    tables = plan.solver["tables"]
    built: Any = plan.build(Looked())
    assert tables == {
        "user": [16, built.user.embedding_dim],
        "item": [24, built.item.embedding_dim],
    }
    for name, (old, new) in tables.items():
        assert new < old
        assert f"{name} {old} → {new}" in str(plan)
    assert precrop.Plan.from_json(plan.to_json()) == plan


def test_with_theirs_the_widths_of_a_plan_make_the_same_network() -> None:
    plan = planned(params=0.5)
    widths = {name: outputs for name, (_, outputs) in plan.widths.items()}
    widths |= {name: new for name, (_, new) in plan.solver["tables"].items()}
    again = planned(widths=widths)
    assert (again.params, again.widths) == (plan.params, plan.widths)
    assert again.tensors == plan.tensors


def test_they_are_ignored_by_name() -> None:
    plan = planned(params=0.7, ignore=["user"])
    assert plan.frozen == {"user": "ignored by 'user'"}
    assert [*plan.solver["tables"]] == ["item"]
    with pytest.raises(precrop.PrecropError, match="layers are named like"):
        planned(params=0.7, ignore=["users"])


def test_a_width_that_it_cannot_have_is_told() -> None:
    with pytest.raises(precrop.PrecropError, match="user cannot have 17 channels, but 1 to 16"):
        planned(widths={"user": 17})


class Factors(nn.Module):
    """A layer by hand, as products that are summed: a table that a layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.randn(32, 6, 4))
        self.register_buffer("waves", torch.arange(4.0))
        self.out = nn.Linear(32, 30)

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.cos(x[:, None, :, None] * self.get_buffer("waves"))
        out: Tensor = self.out((waves * self.factors).sum((-2, -1)))
        return out


def test_so_is_a_parameter_that_is_no_layers() -> None:
    plan = precrop.plan(Factors(), (6,), params=0.5)
    built: Any = plan.build(Factors())
    assert plan.solver["tables"] == {"factors": [32, len(built.factors)]}
    again = precrop.plan(Factors(), (6,), widths={"factors": 20})
    assert len(again.build(Factors()).get_parameter("factors")) == 20


class Predicting(nn.Module):
    """Words into logits of the next ones; the output layer may share the table."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(60, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.out = nn.Linear(32, 60, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words)
        out: Tensor = self.out(x + self.down(self.up(x).relu()))
        return out


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_whose_width_layers_make_is_kept(tied: bool) -> None:
    words = torch.zeros(2, 5, dtype=torch.long)
    model = Predicting(tied=tied)
    free = precrop.plan(model, example_inputs=words, params=0.6)
    assert free.widths["up"][0] < 32
    kept: Any = precrop.plan(model, example_inputs=words, params=0.6, ignore=["table"])
    assert kept.widths["up"][0] == kept.widths["down"][1] == 32
    assert kept.widths["up"][1] < free.widths["up"][1]
    assert kept.build(model).table.embedding_dim == 32
