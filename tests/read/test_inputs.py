"""Shapes of inputs, as people give them."""

from typing import Any

import pytest
import torch
from torch import nn

from precrop.errors import PrecropError
from precrop.read.inputs import Inputs


@pytest.mark.parametrize(
    ("shape", "args", "kwargs", "text"),
    [
        ((3, 8, 8), [(3, 8, 8)], {}, "3x8x8"),
        ([(3, 8, 8), [5]], [(3, 8, 8), (5,)], {}, "3x8x8, 5"),
        ({"image": (3, 8, 8)}, [], {"image": (3, 8, 8)}, "3x8x8"),
    ],
)
def test_forms(shape: Any, args: list[Any], kwargs: dict[str, Any], text: str) -> None:
    inputs = Inputs(shape)
    assert inputs.text == text
    assert Inputs(inputs.spec).spec == inputs.spec
    tensors, named = inputs.make(2, nn.Linear(1, 1).double(), "meta")
    assert [tuple(t.shape) for t in tensors] == [(2, *one) for one in args]
    assert {name: tuple(t.shape) for name, t in named.items()} == {
        name: (2, *one) for name, one in kwargs.items()
    }
    assert all(t.dtype == torch.float64 for t in [*tensors, *named.values()])


@pytest.mark.parametrize("shape", [(), (3, 0, 8), (3, 8.0), "3,8,8", 3, [(3, 8), None], (3, True)])
def test_no_shape(shape: Any) -> None:
    with pytest.raises(PrecropError, match="is not a shape"):
        Inputs(shape)


def test_an_input_beyond_all_memory() -> None:
    with pytest.raises(PrecropError, match="no memory for inputs of 99999999999x99999 at batch 2"):
        Inputs((99999999999, 99999)).make(2, nn.Identity(), "cpu")
