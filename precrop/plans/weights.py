"""Weights on disk: safetensors in, and a built network with its plan out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from precrop.errors import PrecropError, errors_as, typed_reason
from precrop.files import checked_path, replacing
from precrop.plans.ends import for_built
from precrop.plans.plan import Plan

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types of weights that a network is trained or run in."""
WHOLE = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_KINDS = (FLOATS, WHOLE, {torch.uint8, torch.bool}, {torch.complex64, torch.complex128})
"""Types that stand for one another."""


class StateDict(dict[str, Tensor]):
    """Tensors by name with the versions of their modules, kept where PyTorch looks for them.

    A module may do otherwise with the tensors of an older version, or refuse those of none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], versions: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self._metadata = versions  # by the module's name; the network's own is ""


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        PrecropError: the file is missing or broken.
    """
    # The last ones where a header names a type or a size that PyTorch does not have.
    broken = SafetensorError, LookupError, TypeError, AttributeError, RuntimeError
    with (
        errors_as(f"cannot read {path}", OSError),
        errors_as(f"{path} is not a safetensors file", *broken),
    ):
        return load_file(checked_path(path))


def save_tensors(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str]) -> None:
    """Write a state_dict as safetensors.

    Raises:
        PrecropError: an entry is not a plain tensor.
        OSError: there is no room, or no right to write.
    """
    plain = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            raise PrecropError(f"{name} is not a plain tensor, and safetensors holds no others")
        # Tensors under two names (tied weights) are written twice: safetensors knows no sharing.
        plain[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    try:
        save_file(plain, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def fill(model: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a file into ``model``, by the names in its state_dict.

    All are seen to fit before the first is loaded.

    Raises:
        PrecropError: they are not the model's.
    """
    misfit = find_misfit(model, given)
    if misfit is not None:
        raise PrecropError(f"{path} does not fit the model: {misfit}")
    load_fitting(model, given, path)


def load_fitting(model: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a file, in which `find_misfit` has found none.

    Raises:
        PrecropError: a module of the model refuses them, as of another version perhaps.
    """
    # Whatever a module's own loading raises.
    with errors_as(f"cannot load {path} into the model", Exception, told=typed_reason):
        model.load_state_dict(versioned(model, given))


def versioned(model: nn.Module, given: Mapping[str, Tensor]) -> StateDict:
    """What ``model`` can load: the tensors with their own versions, or else with the model's.

    safetensors has no place for versions, and who renames tensors often loses them. Such a file is
    taken to be of the network as it is now: ours are, and PyTorch's other reading, the oldest
    version there was, would let modules change weights that are right.
    """
    known: Mapping[str, Any] = getattr(given, "_metadata", {})
    if "" not in known:
        known = getattr(model.state_dict(), "_metadata", {})
    return StateDict(given, known)


def find_misfit(model: nn.Module, given: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is missing, unknown or of another shape or kind; None if all fit."""
    wanted = model.state_dict()
    for name in (*wanted, *(name for name in given if name not in wanted)):
        if name not in given or name not in wanted:
            where = "lacks" if name not in given else "has an unknown"
            return f"it {where} tensor {name}"
        if given[name].shape != wanted[name].shape:
            shapes = (tuple(state[name].shape) for state in (given, wanted))
            return "{} has shape {}, not {}".format(name, *shapes)
        if not _keeps(given[name], wanted[name].dtype):
            types = (str(state[name].dtype).removeprefix("torch.") for state in (given, wanted))
            return "{} holds {}, not {}".format(name, *types)
        if not _is_finite(given[name], wanted[name]):
            return f"{name} holds NaN or infinity: its training diverged, or the file is damaged"
    return None


def _keeps(given: Tensor, dtype: torch.dtype) -> bool:
    """Whether values keep their meaning as another type.

    Floats do in any usual precision, whole numbers in any size that has them; where all of a
    state_dict is saved in half precision, so is a count of batches.
    """
    if given.dtype != dtype and dtype in WHOLE and given.dtype in FLOATS | WHOLE and given.numel():
        least, largest = (value.item() for value in given.aminmax())
        fits = torch.iinfo(dtype).min <= least and largest <= torch.iinfo(dtype).max
        return fits and (given.dtype in WHOLE or given.equal(given.round()))
    return given.dtype == dtype or any({given.dtype, dtype} <= kind for kind in _KINDS)


def _is_finite(given: Tensor, own: Tensor) -> bool:
    """Whether all values are finite, but where the network's own (a mask of attention) are not."""
    odd = ~given.isfinite()
    return not odd.any() or not (odd & own.isfinite().to(odd.device)).any()


def save_built(model: nn.Module, plan: Plan, output: Path, stem: str) -> tuple[Path, Path]:
    """Write a state_dict as safetensors and the plan as JSON, both or neither.

    Args:
        model: the cropped network.
        plan: the plan that it was built from; written recounted if that had other outputs.
        output: a folder, or the first part of both names.
        stem: the first part of both names where ``output`` is a folder.

    Returns:
        The paths of the weights and of the plan.
    """
    plan = for_built(plan, model)
    prefix = output / stem if output.is_dir() else output
    weights_path = prefix.with_name(f"{prefix.name}.safetensors")
    plan_path = prefix.with_name(f"{prefix.name}.json")
    with replacing(weights_path) as weights_file, replacing(plan_path) as plan_file:
        save_tensors(model.state_dict(), weights_file, {"format": "pt"})
        plan_file.write_text(plan.to_json(), encoding="utf-8")
    return weights_path, plan_path
