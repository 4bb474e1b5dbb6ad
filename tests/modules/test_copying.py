"""Copies whose tensors are others: what is shared stays shared, what is not a tensor is copied."""

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from precrop.modules.copying import copied, tensor_shapes


class Odd(nn.Module):
    """Tied weights, state that is no tensor, a list that both modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.notes = [1, [2]]
        self.alias = self.first

    def get_extra_state(self) -> dict[str, int]:
        """State that is no tensor."""
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Nothing to restore."""

    def forward(self, x: Tensor) -> Tensor:
        """Both layers."""
        out: Tensor = self.second(self.alias(x))
        return out


def test_a_copy_keeps_what_is_shared_and_nothing_of_the_original() -> None:
    model = Odd()
    made = copied(model, lambda _, tensor: torch.zeros_like(tensor))
    assert isinstance(made, Odd)
    assert made.second.weight is made.first.weight is not model.first.weight
    assert made.alias is made.first
    assert made.notes == model.notes
    assert made.notes[1] is not model.notes[1]
    assert made(torch.ones(1, 4)).abs().sum() == 0


class Tap(nn.Module):
    """Keeps what passes in a table of another module."""

    def __init__(self, store: dict[str, Tensor], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.store, self.layers = store, layers

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        self.store["kept"] = x
        return x


class Tapped(nn.Module):
    """Takes what a tap kept out of an empty table that both have, and layers from another."""

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Tensor] = {}
        self.op = nn.Conv2d(3, 16, 3)
        self.last = nn.Conv2d(16, 4, 1)
        self.layers: dict[str, nn.Module] = {"op": self.op}
        self.tap = Tap(self.store, self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """What the tap was given."""
        self.tap(self.layers["op"](x))
        out: Tensor = self.last(self.store.pop("kept"))
        return out


def test_tables_that_two_modules_share_stay_one() -> None:
    made = copied(Tapped(), lambda _, tensor: tensor.detach().clone())
    assert isinstance(made, Tapped)
    assert made.tap.store is made.store
    assert made.tap.layers is made.layers
    assert made.layers["op"] is made.op
    plan = precrop.plan(Tapped(), (3, 8, 8), params=0.5)
    assert plan.build(Tapped())(torch.ones(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def test_a_lazy_network_has_to_run_first() -> None:
    with pytest.raises(PrecropError, match="0.weight has no shape yet"):
        copied(nn.Sequential(nn.LazyLinear(3)), lambda _, tensor: tensor)


def test_shapes_are_those_of_the_tensors_in_the_state() -> None:
    shapes = tensor_shapes(Odd())
    assert shapes["first.weight"] == (4, 4)
    assert not any("extra" in name for name in shapes)
