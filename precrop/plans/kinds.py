"""Types and functions shared by plans and the code that builds their networks."""

import typing
from typing import Literal

Axis = int | tuple[tuple[int, int], ...]
"""The size of an axis that does not change, or the ``(old, new)`` segments of one that does."""

Init = Literal["slice", "reset", "l1", "l2", "bn"]
"""How a built network gets its weights; `precrop.Plan.build` says what each does."""

INITS: tuple[Init, ...] = typing.get_args(Init)


def input_axes(kind: str) -> tuple[int, ...]:
    """Return the axes of a weight that its layer sums over, by the layer's kind."""
    axes = {"transposed": (0,), "matrix": (0,), "mixed": (2,), "experts": (2,), "bilinear": (1, 2)}
    return axes.get(kind, (1,))


def original_size(axis: Axis) -> int:
    """Return the size of a planned axis in the original network."""
    return axis if isinstance(axis, int) else sum(before for before, _ in axis)


def built_size(axis: Axis) -> int:
    """Return the size of a planned axis in the built network."""
    return axis if isinstance(axis, int) else sum(after for _, after in axis)
