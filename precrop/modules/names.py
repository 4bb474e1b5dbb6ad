"""What names say: of tensors and of layers, the module whose weight a parameter is; of sizes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from weakref import ProxyTypes

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError

T = TypeVar("T")
# What modules call their weight, and what it is made of where hooks compute it.
_LEAF = re.compile(r".*weight(_orig|_v|_bar)?$")
_PARAMETRISED = re.compile(r"((?P<owner>.*)\.)?parametrizations\.weight\.original1?$")

_WIDTH = re.compile("chan|chs|dim|feat|width|plane|hidden|embed|d_model")
_COUNT = re.compile(r"_?(.*(head|group|num)|n_|nh$|[hgn]$)")


def names_width(attribute: str) -> bool:
    """Whether an attribute is called as widths are."""
    return _WIDTH.search(attribute) is not None


def names_count(attribute: str) -> bool:
    """Whether an attribute is called as numbers of heads or groups are, and not as a width."""
    width = names_width(attribute) or "size" in attribute
    return not width and _COUNT.match(attribute) is not None


def places_of(tensor: str) -> set[str]:
    """The paths of all modules that hold a tensor."""
    steps = tensor.split(".")[:-1]
    return {".".join(steps[:depth]) for depth in range(len(steps) + 1)}


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """A network's modules by path, whatever its class lets ``named_modules`` say.

    They come in PyTorch's order, each by its first path. PyTorch's own generators yield a module
    once for every module around it, and this is asked of every copy.
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
    """A network's parameters by name, whatever its class lets ``named_parameters`` say."""
    if options:
        return dict(nn.Module.named_parameters(model, **options))
    return _members((path, module._parameters) for path, module in modules_of(model).items())


def buffers_of(model: nn.Module, **options: Any) -> dict[str, Tensor]:
    """A network's buffers by name, likewise."""
    if options:
        return dict(nn.Module.named_buffers(model, **options))
    return _members((path, module._buffers) for path, module in modules_of(model).items())


def _members(held: Iterable[tuple[str, Mapping[str, T | None]]]) -> dict[str, T]:
    """What is held at some paths under some names, each by the first of its full names."""
    first: dict[int, tuple[str, T]] = {}
    for path, own in held:
        prefix = path and f"{path}."
        for name, one in own.items():
            if one is not None:
                first.setdefault(id(one), (prefix + name, one))
    return dict(first.values())


def untrained(model: nn.Module) -> set[str]:
    """Parameters that need no gradients beside others that do: fixed filters, a frozen backbone.

    A network in which none does has been set so as a whole, which says nothing of single ones. What
    is a copy of trained layers will be one of what they become.
    """
    parameters = parameters_of(model)
    fixed = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    if not fixed or len(fixed) == len(parameters):
        return set()
    copies = {owner_of(name) for name in fixed_copies(model)}
    return {name for name in fixed if owner_of(name) not in copies}


def fixed_copies(model: nn.Module) -> dict[str, str]:
    """Weights without gradients that equal one with them, and which: of a momentum encoder.

    Biases and the scales of norms may be equal by chance, and so may weights that are all one.
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
    """The path of the module that has a tensor."""
    return tensor.rpartition(".")[0]


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold as plain attributes, each by the first path that leads to it.

    Masks and tables of positions are often kept so. What a forward pass left there, with the
    history of its gradients, is not part of the network.
    """
    return _members(
        (path, {name: value for name, value in vars(module).items() if _is_plain(value)})
        for path, module in modules_of(model).items()
        # Most modules hold none, and this is asked of every copy.
        if Tensor in map(type, vars(module).values())
        and not isinstance(module, torch.jit.ScriptModule)
    )


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.grad_fn is None and value.layout is torch.strided


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers and plain tensors of a network, each under the first of its names."""
    kinds = parameters_of(model), buffers_of(model), held_tensors(model)
    return _members(("", named) for named in kinds)


def is_weight(parameter: str) -> bool:
    """Whether a parameter is named as a module's weight is."""
    return bool(_LEAF.match(parameter.rpartition(".")[2]) or _PARAMETRISED.match(parameter))


def layer_of(parameter: str) -> str:
    """The module whose weight a parameter is; else the parameter, as a layer of its own."""
    parametrised = _PARAMETRISED.match(parameter)
    if parametrised:
        return parametrised["owner"] or ""
    return parameter.rpartition(".")[0] if is_weight(parameter) else parameter
