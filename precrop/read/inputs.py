"""The network's inputs: shapes without the batch, given as people give them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from precrop.errors import PrecropError


def _is_shape(value: Any) -> bool:
    return isinstance(value, Sequence) and all(type(n) is int for n in value) and len(value) > 0


def _checked(shape: Any) -> tuple[int, ...]:
    if not _is_shape(shape) or any(n < 1 for n in shape):
        raise PrecropError(
            f"input_shape {shape!r} is not a shape: give positive integers without the batch, "
            "such as (3, 224, 224), or a list or dict of such shapes for several inputs"
        )
    return tuple(shape)


class Inputs:
    """Shapes of one or several inputs, without the batch.

    A tuple of integers is one input; a list of shapes several, by position; a dict several, by
    name.
    """

    def __init__(self, shape: Any) -> None:
        self.args: list[tuple[int, ...]] = []
        self.kwargs: dict[str, tuple[int, ...]] = {}
        if isinstance(shape, Mapping):
            self.kwargs = {str(name): _checked(one) for name, one in shape.items()}
        elif _is_shape(shape) or not isinstance(shape, Sequence) or not shape:
            self.args = [_checked(shape)]
        else:
            self.args = [_checked(one) for one in shape]

    @property
    def spec(self) -> Any:
        """The shapes as they are written to a plan file."""
        if self.kwargs:
            return {name: list(shape) for name, shape in self.kwargs.items()}
        if len(self.args) == 1:
            return list(self.args[0])
        return [list(shape) for shape in self.args]

    @property
    def text(self) -> str:
        """The shapes for a message."""
        shapes = [*self.args, *self.kwargs.values()]
        return ", ".join("x".join(map(str, shape)) for shape in shapes)

    def make(
        self, batch: int, model: nn.Module, device: str
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Tensors of ones of the network's own floating type.

        Raises:
            PrecropError: there is no memory for them.
        """
        dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
        dtype = next(dtypes, torch.float32)

        def tensor(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.ones((batch, *shape), dtype=dtype, device=device)

        try:
            return [tensor(s) for s in self.args], {k: tensor(s) for k, s in self.kwargs.items()}
        except RuntimeError as error:  # of the allocators, where nothing else can fail
            raise PrecropError(f"no memory for inputs of {self.text} at batch {batch}") from error
