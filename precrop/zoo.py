"""Networks by name: our CIFAR networks, torchvision's, timm's, and a user's own factory."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from precrop import models
from precrop.errors import PrecropError, hint, typed_reason
from precrop.own import own_function
from precrop.trust import runs_user_code

_TRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "checkpoint_path")
_FRAMES = {"mvit_v1_b": 16, "mvit_v2_s": 16, "swin3d_t": 32, "swin3d_s": 32, "swin3d_b": 32}

_TOO_LARGE = "it is far larger than the network that the file is of, or than this machine's memory"
_TIMES, _SPARE = 4, 2**24
"""Numbers that building may make for one that the network has, and any network besides."""


def load_model(name: str, args: Mapping[str, Any], size: int | None = None) -> nn.Module:
    """Build a network with fresh weights; nothing is downloaded.

    Args:
        name: one of `precrop.models` (``resnet20``), a torchvision builder (``resnet50``), a timm
            model (``timm:resnet50``), or ``package.module:factory``, where the module may lie in
            the current folder, or ``./file.py:factory``.
        args: keyword arguments for the builder.
        size: how many numbers the network's tensors should have in all; building ends where there
            are far more, or more than fill half of this machine's memory. Without it a factory of
            the user's own has no such limit.

    Raises:
        PrecropError: the name is unknown (the message has the closest ones), its library is not
            installed, or the builder refuses the arguments.
    """
    own = size is None and runs_user_code(name)
    most = _half_memory() if size is None else min(_TIMES * size + _SPARE, _half_memory())
    with nullcontext() if own else _AtMost(most):
        return _load(name, args)


def _load(name: str, args: Mapping[str, Any]) -> nn.Module:
    if ":" not in name:
        return _load_named(name, args)
    library, _, rest = name.partition(":")
    if library == "timm":
        return _load_timm(rest, args)
    if library == "torchvision":
        raise PrecropError(f"networks of torchvision have no prefix: write {rest}")
    return _call(name, own_function(name, "factory"), args)


def _half_memory() -> int:
    """Numbers that fill half of this machine's memory, whatever a file says of its network."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 * 4)
    except (AttributeError, ValueError, OSError):  # systems that do not tell
        return sys.maxsize


class _AtMost(TorchFunctionMode):
    """Ends the building of a network whose tensors have too many numbers, before it fills them."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the numbers of every tensor that is not made from others."""
        made = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        new = isinstance(made, Tensor) and not made.is_meta
        if new and not any(isinstance(x, Tensor) for x in given):
            self.left -= made.numel()
            if self.left < 0:
                raise MemoryError(_TOO_LARGE)
        return made


def library_names() -> dict[str, list[str]]:
    """Names that `load_model` takes, by the library that has the networks: those installed."""
    found = {"precrop": list(models.__all__)}
    with suppress(ImportError):
        found["torchvision"] = import_module("torchvision.models").list_models()
    with suppress(ImportError):
        found["timm"] = [f"timm:{name}" for name in import_module("timm").list_models()]
    return found


def default_input_shape(name: str, model: nn.Module) -> tuple[int, ...]:
    """The shape of one input, without the batch, that ``model`` (``name``'s network) is made for.

    Raises:
        PrecropError: it is not known for this network.
    """
    shape: tuple[int, ...] | None = None
    if name in models.__all__:
        shape = (3, 32, 32)
    elif name.startswith("timm:"):
        shape = tuple(getattr(model, "pretrained_cfg", {}).get("input_size", ()))
    elif not runs_user_code(name):
        shape = _torchvision_shape(name, model)
    if not shape:
        raise PrecropError(f"no input shape is known for {name}: give one with --input-shape")
    return shape


def _load_named(name: str, args: Mapping[str, Any]) -> nn.Module:
    if name in models.__all__:
        return _call(name, getattr(models, name), args)
    torchvision = _library("torchvision.models", name)
    known = torchvision.list_models()
    if name not in known:
        raise _unknown_model(name, [*models.__all__, *known])
    builder = torchvision.get_model_builder(name)
    fresh: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        fresh["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        fresh["init_weights"] = True  # torchvision's default; unsaid, it warns
    refuse_trained(args)
    return _call(name, builder, {**fresh, **args})


def _load_timm(name: str, args: Mapping[str, Any]) -> nn.Module:
    timm = _library("timm", f"timm:{name}")
    # Of what timm takes for a name only its registry's, with a tag: no scheme, no path.
    if re.fullmatch(r"\w+(\.\w+)?", name) is None or not timm.is_model(name):
        raise _unknown(name, "timm model", timm.list_models())
    refuse_trained(args)
    return _call(f"timm:{name}", partial(timm.create_model, name), args)


def call_factory(name: str, args: Mapping[str, Any] | None = None) -> Any:
    """What a user's own factory makes, named as for `load_model`.

    Raises:
        PrecropError: the module or the factory is missing, or either raises.
    """
    return _made(name, own_function(name, "factory"), args or {})


def _made(name: str, factory: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    try:
        return factory(**args)
    except Exception as error:  # whatever a factory raises about its arguments
        raise PrecropError(f"{name} could not be built: {typed_reason(error)}") from error


def _call(name: str, builder: Callable[..., Any], args: Mapping[str, Any]) -> nn.Module:
    model = _made(name, builder, args)
    if not isinstance(model, nn.Module):
        raise PrecropError(f"{name} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _library(module_name: str, name: str) -> ModuleType:
    try:
        return import_module(module_name)
    except ImportError as error:
        missing = module_name.partition(".")[0]
        raise PrecropError(
            f"{name} is not one of precrop's own networks and {missing} is not installed: "
            "pip install 'precrop[models]'"
        ) from error


def refuse_trained(args: Mapping[str, Any]) -> None:
    """Refuse arguments that stand for trained weights, or for another network.

    Raises:
        PrecropError: there is one.
    """
    for key in args:
        if key == "model_name":
            raise PrecropError("argument model_name: the network is named once, as timm:NAME")
        if key in _TRAINED or key.startswith("pretrained_cfg"):
            raise PrecropError(
                f"argument {key}: networks are built untrained; "
                "trained weights are a file for `precrop build --weights`"
            )


def _unknown(name: str, kind: str, known: Iterable[str]) -> PrecropError:
    return PrecropError(f"unknown {kind} {name!r}{hint(name, known)}")


def _unknown_model(name: str, known: Iterable[str]) -> PrecropError:
    """The error for a name that no table has, with what was meant where it looks like a path."""
    if name.endswith(".py"):
        return PrecropError(f"unknown model {name!r}: name a function in it, {name}:FUNCTION")
    if name.endswith(".json"):
        return PrecropError(
            f"unknown model {name!r}: a plan's file is for --plan or `precrop show`"
        )
    module, dot, function = name.rpartition(".")
    if dot:
        return PrecropError(f"unknown model {name!r}: write {module}:{function}")
    return _unknown(name, "model", known)


def _torchvision_shape(name: str, model: nn.Module) -> tuple[int, ...] | None:
    """What the network's own attributes say, else the smallest crop among its trained weights."""
    resize = getattr(model, "transform", None)
    if resize is not None:  # a detector, which resizes its images by itself
        return (3, resize.min_size[-1], resize.min_size[-1])
    side = getattr(model, "image_size", None)
    if isinstance(side, int):
        return (3, side, side)
    sizes = []
    for weights in _library("torchvision.models", name).get_model_weights(name):
        keywords = getattr(weights.transforms, "keywords", {})
        size = keywords.get("crop_size", keywords.get("resize_size"))
        if isinstance(size, (tuple, list)):
            sizes.append((3, _FRAMES.get(name, 16), *size))
        elif isinstance(size, int):
            sizes.append((3, size, size))
    if not sizes and name.startswith("quantized_"):
        return _torchvision_shape(name.removeprefix("quantized_"), model)
    return min(sizes, default=None)
