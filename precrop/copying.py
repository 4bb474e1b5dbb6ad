"""Copies of a network whose parameters and buffers are other tensors."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from precrop.errors import PrecropError


def copied(model: nn.Module, make: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A deep copy in which ``make(name, tensor)`` stands for every parameter and buffer.

    The original tensors are never copied, so a large network costs no more than a small one.
    Shared parameters stay shared, and parameters stay parameters.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        made = nn.Parameter(make(name, parameter), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = made
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = make(name, buffer)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise PrecropError(f"the network cannot be copied: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """An exception as one short line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
