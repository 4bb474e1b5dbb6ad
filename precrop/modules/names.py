"""Names of tensors, layers and attributes, and what they tell; a network's tensors by name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from weakref import ProxyTypes

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError

T = TypeVar("T")
# Names of a module's weight, or of the tensor that hooks compute it from.
_LEAF = re.compile(r".*weight(_orig|_v|_bar)?$")
_PARAMETRISED = re.compile(r"((?P<owner>.*)\.)?parametrizations\.weight\.original1?$")

_WIDTH = re.compile("chan|chs|dim|feat|width|plane|hidden|embed|d_model")
_COUNT = re.compile(r"_?(.*(head|group|num)|n_|nh$|[hgn]$)")


def names_width(attribute: str) -> bool:
    """Whether an attribute is named like a width."""
    return _WIDTH.search(attribute) is not None


def names_count(attribute: str) -> bool:
    """Whether an attribute is named like a number of heads or groups, and not like a width."""
    width = names_width(attribute) or "size" in attribute
    return not width and _COUNT.match(attribute) is not None


def places_of(tensor: str) -> set[str]:
    """Return the paths of all modules that contain a tensor, with the network's own, ``""``."""
    steps = tensor.split(".")[:-1]
    return {".".join(steps[:depth]) for depth in range(len(steps) + 1)}


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return a network's modules by path, even if its class overrides ``named_modules``.

    They come in PyTorch's order, each by its first path. PyTorch's own generators pass each module
    through all modules around it, which would be slow, as this is called for every copy.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    stack = [("", model)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        if type(module) in ProxyTypes:
            raise PrecropError(
                f"{path} is a weak proxy, which PyTorch takes for a module but cannot list: keep "
                "it in a list, or a weakref.ref in its place"
            )
        seen.add(id(module))
        found[path] = module
        if module._modules:
            prefix = path and f"{path}."
            inside = reversed(module._modules.items())
            stack += [(prefix + name, one) for name, one in inside if one is not None]
    return found


def parameters_of(model: nn.Module, **options: Any) -> dict[str, nn.Parameter]:
    """Return a network's parameters by name, even if its class overrides ``named_parameters``."""
    if options:
        return dict(nn.Module.named_parameters(model, **options))
    return _members((path, module._parameters) for path, module in modules_of(model).items())


def buffers_of(model: nn.Module, **options: Any) -> dict[str, Tensor]:
    """Return a network's buffers by name, even if its class overrides ``named_buffers``."""
    if options:
        return dict(nn.Module.named_buffers(model, **options))
    return _members((path, module._buffers) for path, module in modules_of(model).items())


def _members(held: Iterable[tuple[str, Mapping[str, T | None]]]) -> dict[str, T]:
    """Return the objects held at some paths under some names, each by its first full name."""
    first: dict[int, tuple[str, T]] = {}
    for path, own in held:
        prefix = path and f"{path}."
        for name, one in own.items():
            if one is not None:
                first.setdefault(id(one), (prefix + name, one))
    return dict(first.values())


def untrained(model: nn.Module) -> set[str]:
    """Return the frozen parameters, such as fixed filters, if others are trained.

    If all are frozen, the network was frozen as a whole, which tells nothing of single parameters.
    Copies of trained layers are left out, since they follow what those become.
    """
    parameters = parameters_of(model)
    fixed = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    if not fixed or len(fixed) == len(parameters):
        return set()
    copies = {owner_of(name) for name in fixed_copies(model)}
    return {name for name in fixed if owner_of(name) not in copies}


def fixed_copies(model: nn.Module) -> dict[str, str]:
    """Map frozen weights to the trained weights that they equal, as in a momentum encoder.

    Biases, scales of norms and constant weights are skipped, as they may be equal by chance.
    """
    parameters = parameters_of(model)
    trained = {name: one for name, one in parameters.items() if one.requires_grad}
    found: dict[str, str] = {}
    for name, weight in parameters.items():
        if weight.requires_grad or weight.dim() < 2 or weight.is_meta or not weight.numel():
            continue
        kind = weight.shape, weight.dtype, weight.device
        for other, one in trained.items():
            if (one.shape, one.dtype, one.device) == kind and torch.equal(one, weight):
                if not bool((weight == weight.flatten()[0]).all()):
                    found[name] = other
                break
    return found


def owner_of(tensor: str) -> str:
    """Return the path of the module that owns a tensor."""
    return tensor.rpartition(".")[0]


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return tensors that modules hold as plain attributes, each by the first path to it.

    Masks and position tables are often stored so. Results that a forward pass stored, with autograd
    history, are not part of the network.
    """
    return _members(
        (path, {name: value for name, value in vars(module).items() if _is_plain(value)})
        for path, module in modules_of(model).items()
        # Most modules hold none, and this is called for every copy.
        if Tensor in map(type, vars(module).values())
        and not isinstance(module, torch.jit.ScriptModule)
    )


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.grad_fn is None and value.layout is torch.strided


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters, buffers and plain tensors, each under its first name."""
    kinds = parameters_of(model), buffers_of(model), held_tensors(model)
    return _members(("", named) for named in kinds)


def is_weight(parameter: str) -> bool:
    """Whether a parameter is named like a module's weight."""
    return bool(_LEAF.match(parameter.rpartition(".")[2]) or _PARAMETRISED.match(parameter))


def layer_of(parameter: str) -> str:
    """Return the module whose weight a parameter is, or the parameter as a layer of its own."""
    parametrised = _PARAMETRISED.match(parameter)
    if parametrised:
        return parametrised["owner"] or ""
    return parameter.rpartition(".")[0] if is_weight(parameter) else parameter
