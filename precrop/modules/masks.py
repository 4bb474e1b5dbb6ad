"""Checks masks that users give: bool tensors by parameter name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, check_kind, hint
from precrop.modules.names import parameters_of


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Refuse masks that fit no parameter of the network, and two masks for one parameter.

    Raises:
        PrecropError: there is such a mask; the message names the first one.
    """
    parameters = parameters_of(model, remove_duplicate=False)
    names: dict[int, str] = {}
    check_kind("masks", masks, Mapping, "a dict by the name of a parameter")
    for name, mask in masks.items():
        if name not in parameters:
            near = hint(str(name), parameters)
            raise PrecropError(f"the network has no parameter {name!r}{near}")
        check_kind(f"the mask of {name}", mask, Tensor, "a tensor")
        shape = tuple(parameters[name].shape)
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise PrecropError(
                f"the mask of {name} must be bool of shape {shape}: "
                f"it is {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        other = names.setdefault(id(parameters[name]), name)
        if other != name:
            raise PrecropError(f"{other} and {name} are one parameter: give one mask for it")
