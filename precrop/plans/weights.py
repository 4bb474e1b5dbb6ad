"""Weights on disk: reads and writes safetensors, and saves a built network with its plan."""

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
"""Types in which the weights of a network are trained or run."""
WHOLE = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_KINDS = (FLOATS, WHOLE, {torch.uint8, torch.bool}, {torch.complex64, torch.complex128})
"""Sets of types that may be loaded in place of one another."""


class StateDict(dict[str, Tensor]):
    """Tensors by name, with the versions of their modules where PyTorch looks for them.

    A module may convert the tensors of an older version, or refuse those without a version.
    """

    def __init__(self, tensors: Mapping[str, Tensor], versions: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self._metadata = versions  # by the module's name; the network's own is ""


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name.

    Raises:
        PrecropError: the file is missing or broken.
    """
    # All but the first occur if a header names a type or a size that PyTorch does not have.
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
        OSError: the disk is full, or the file may not be written.
    """
    plain = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            raise PrecropError(f"{name} is not a plain tensor, and safetensors holds no others")
        # Tied weights are written once per name, as safetensors does not support sharing.
        plain[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    try:
        save_file(plain, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def fill(model: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a file into ``model``, by the names in its state_dict.

    All are checked before the first is loaded. ``path`` is only named in messages.

    Raises:
        PrecropError: they do not fit the model.
    """
    misfit = find_misfit(model, given)
    if misfit is not None:
        raise PrecropError(f"{path} does not fit the model: {misfit}")
    load_fitting(model, given, path)


def load_fitting(model: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a file, in which `find_misfit` has found no misfit.

    Raises:
        PrecropError: a module of the model refuses them, perhaps because of their version.
    """
    # A module's own loading may raise anything.
    with errors_as(f"cannot load {path} into the model", Exception, told=typed_reason):
        model.load_state_dict(versioned(model, given))


def versioned(model: nn.Module, given: Mapping[str, Tensor]) -> StateDict:
    """Return the tensors with their modules' versions, or else with those of the model.

    safetensors cannot store versions, and scripts that rename tensors often lose them. Such a file
    is taken to have the current versions, as those of precrop do. PyTorch would assume the oldest
    versions instead, and modules might then convert weights that are right already.
    """
    known: Mapping[str, Any] = getattr(given, "_metadata", {})
    if "" not in known:
        known = getattr(model.state_dict(), "_metadata", {})
    return StateDict(given, known)


def find_misfit(model: nn.Module, given: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor that is missing, unknown or does not fit; None if all fit."""
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
    """Whether values keep their meaning when they are converted to another type.

    Floats do in any usual precision, and integers in any type that can represent them. Integers may
    be stored as floats, since saving a state_dict in half precision also converts batch counts.
    """
    if given.dtype != dtype and dtype in WHOLE and given.dtype in FLOATS | WHOLE and given.numel():
        least, largest = (value.item() for value in given.aminmax())
        fits = torch.iinfo(dtype).min <= least and largest <= torch.iinfo(dtype).max
        return fits and (given.dtype in WHOLE or given.equal(given.round()))
    return given.dtype == dtype or any({given.dtype, dtype} <= kind for kind in _KINDS)


def _is_finite(given: Tensor, own: Tensor) -> bool:
    """Whether all values are finite, except where the network's own (an attention mask) aren't."""
    odd = ~given.isfinite()
    return not odd.any() or not (odd & own.isfinite().to(odd.device)).any()


def save_built(model: nn.Module, plan: Plan, output: Path, stem: str) -> tuple[Path, Path]:
    """Write a state_dict as safetensors and the plan as JSON, both or neither.

    Args:
        model: the cropped network.
        plan: the plan that it was built from; it is recounted if it was made for other outputs.
        output: a folder, or the path of both files without their endings.
        stem: the name of both files without their endings if ``output`` is a folder.

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
