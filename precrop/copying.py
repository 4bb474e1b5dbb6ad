"""Copies of a network whose parameters and buffers are other tensors."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from precrop.errors import PrecropError


def copied(model: nn.Module, make: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A deep copy in which ``make(name, tensor)`` stands for every parameter and buffer.

    The original tensors are never copied, so a large network costs no more than a small one.
    Shared parameters stay shared, and parameters stay parameters.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise PrecropError(f"{name} has no shape yet: run the network once, then plan")
        made = nn.Parameter(make(name, parameter), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = made
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = make(name, buffer)
    plain = [module for module in model.modules() if _copies_plainly(type(module))]
    for module in plain:
        memo[id(module)] = type(module).__new__(type(module))
    try:
        for module in plain:
            memo[id(module)].__dict__ = _copied_state(vars(module), memo)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise PrecropError(f"the network cannot be copied: {first_line(error)}") from error


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the state_dict: what tells one network from another."""
    state = model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def _copies_plainly(kind: type[nn.Module]) -> bool:
    """Whether a class leaves copying to Python, so that copying its attributes is all there is."""
    if kind.__setstate__.__module__ not in _UPGRADING:
        return False
    return all(
        getattr(kind, name, None) is getattr(nn.Module, name, None)
        for name in ("__getstate__", "__deepcopy__", "__reduce__", "__reduce_ex__")
    )


def _copied_state(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """A module's attributes, copied as `copy.deepcopy` does, but quickly where nothing is deep."""
    copies = {}
    for name, value in state.items():
        kind = type(value)
        if kind in _ATOMIC:
            copies[name] = value
        elif kind in _CONTAINERS and not value:
            copies[name] = kind()
        elif kind is tuple and all(type(entry) in _ATOMIC for entry in value):
            copies[name] = value
        elif kind is dict and all(id(entry) in memo for entry in value.values()):
            copies[name] = {key: memo[id(entry)] for key, entry in value.items()}
        else:
            copies[name] = copy.deepcopy(value, memo)
    return copies


_ATOMIC = {bool, int, float, str, type(None)}
# Here __setstate__ only adds what modules saved by older versions of PyTorch lack.
_UPGRADING = {f"torch.nn.modules.{name}" for name in ("module", "conv", "activation", "batchnorm")}
_CONTAINERS = {dict, OrderedDict, set, list}


def first_line(error: Exception) -> str:
    """An exception as one short line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
