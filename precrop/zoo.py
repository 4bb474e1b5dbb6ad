"""Networks by name: precrop's CIFAR networks, torchvision's, timm's, and a user's own factory."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from precrop import models
from precrop.allowance import Allowance
from precrop.errors import PrecropError, hint
from precrop.own import calling_own, own_function
from precrop.trust import runs_user_code

_TRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "checkpoint_path")
_FRAMES = {"mvit_v1_b": 16, "mvit_v2_s": 16, "swin3d_t": 32, "swin3d_s": 32, "swin3d_b": 32}


def load_model(
    name: str,
    args: Mapping[str, Any],
    like: Mapping[str, Sequence[int]] | None = None,
    weights: int | None = None,
) -> nn.Module:
    """Build a network with fresh weights; nothing is downloaded.

    Args:
        name: one of `precrop.models` (``resnet20``), a torchvision builder (``resnet50``), a timm
            model (``timm:resnet50``), or ``package.module:factory``, where the module may lie in
            the current folder, or ``./file.py:factory``.
        args: keyword arguments for the builder.
        like: the shapes that the network's tensors should have; building ends with an error if it
            takes far more (`precrop.allowance`). Only a user's own factory runs without bounds.
        weights: size in bytes of the file with its weights, which is a bound, too.

    Raises:
        PrecropError: the name is unknown (the message has the closest ones), its library is not
            installed, or the builder refuses the arguments.
    """
    builder = _builder(name, args)
    bounds = nullcontext() if runs_user_code(name) else Allowance(like, weights)
    with bounds, calling_own(f"{name} could not be built"):
        model = builder()
    if not isinstance(model, nn.Module):
        raise PrecropError(f"{name} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def library_names() -> dict[str, list[str]]:
    """Return the names that `load_model` takes, by installed library."""
    found = {"precrop": list(models.__all__)}
    with suppress(ImportError):
        found["torchvision"] = import_module("torchvision.models").list_models()
    with suppress(ImportError):
        found["timm"] = [f"timm:{name}" for name in import_module("timm").list_models()]
    return found


def default_input_shape(name: str, model: nn.Module) -> tuple[int, ...]:
    """Return the shape of one input, without batch, that a network of this name is made for.

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


def _builder(name: str, args: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a function that builds a network with these arguments."""
    library, colon, rest = name.partition(":")
    if not colon:
        return _named(name, args)
    if library == "timm":
        return _of_timm(rest, args)
    if library == "torchvision":
        raise PrecropError(f"networks of torchvision have no prefix: write {rest}")
    return partial(own_function(name, "factory"), **args)


def _named(name: str, args: Mapping[str, Any]) -> Callable[[], Any]:
    if name in models.__all__:
        return partial(getattr(models, name), **args)
    torchvision = _library("torchvision.models", name)
    known = torchvision.list_models()
    if name not in known:
        raise _unknown_model(name, [*models.__all__, *known])
    builder = torchvision.get_model_builder(name)
    fresh: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        fresh["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        fresh["init_weights"] = True  # torchvision's default, which warns if not given
    refuse_trained(args)
    return partial(builder, **{**fresh, **args})


def _of_timm(name: str, args: Mapping[str, Any]) -> Callable[[], Any]:
    timm = _library("timm", f"timm:{name}")
    # Of all that timm takes for a name, allow only its registry's, with a tag: no scheme, no path.
    if re.fullmatch(r"\w+(\.\w+)?", name) is None or not timm.is_model(name):
        raise _unknown(name, "timm model", timm.list_models())
    refuse_trained(args)
    return partial(timm.create_model, name, **args)


def call_factory(name: str) -> Any:
    """Return what a user's own factory, named as for `load_model`, makes without arguments.

    Raises:
        PrecropError: the module or the factory is missing, or either raises.
    """
    factory = own_function(name, "factory")
    with calling_own(f"{name} could not be built"):
        return factory()


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
    """Refuse arguments that ask for trained weights or for another network."""
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
    """Return the error for an unknown name; if it looks like a path, with what was meant."""
    module, dot, function = name.rpartition(".")
    if not dot:
        return _unknown(name, "model", known)
    meant = f"write {module}:{function}"
    if function == "py":
        meant = f"name a function in it, {name}:FUNCTION"
    elif function == "json":
        meant = "a plan's file is for --plan or `precrop show`"
    return PrecropError(f"unknown model {name!r}: {meant}")


def _torchvision_shape(name: str, model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape in a network's attributes, else its trained weights' smallest crop."""
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
