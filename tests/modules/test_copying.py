"""Copies whose tensors are others: what is shared stays shared, what is not a tensor is copied."""

import pytest
import torch
from torch import Tensor, nn

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


def test_a_lazy_network_has_to_run_first() -> None:
    with pytest.raises(PrecropError, match="0.weight has no shape yet"):
        copied(nn.Sequential(nn.LazyLinear(3)), lambda _, tensor: tensor)


def test_shapes_are_those_of_the_tensors_in_the_state() -> None:
    shapes = tensor_shapes(Odd())
    assert shapes["first.weight"] == (4, 4)
    assert not any("extra" in name for name in shapes)
