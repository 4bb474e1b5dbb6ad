"""Finds attributes of modules that state sizes, and sets them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from precrop.errors import PlanError
from precrop.fit.held import as_size, is_integer, sizes_within, slots
from precrop.modules.copying import meta_copy
from precrop.modules.streams import Narrow, Pad
from precrop.trust import is_finite

Edit = tuple[str, str, Any]
"""Module path, attribute path (``width``, ``splits.2``, ``config.model.'embed-dim'``), value."""
GROWTH = 1024
"""The most by which an edit may multiply a size: far more than any plan needs."""
_SPATIAL = {
    "dilation", "kernel_size", "output_padding", "padding", "stride",
    "_reversed_padding_repeated_twice",
}  # fmt: skip
"""Spatial attributes of PyTorch's convolutions, which no change of widths may touch."""


def stated_sizes(module: nn.Module) -> dict[str, Any]:
    """Return what a layer's size attributes must say, given the shapes of its parameters.

    It may name attributes that the layer lacks: only those that held the stated value are set.
    """
    weight = _tensor(module, "weight")
    shape = tuple(weight.shape) if weight is not None else ()
    if isinstance(module, _ConvNd) and shape:
        ends = (shape[0], shape[1] * module.groups)
        inputs, outputs = ends if module.transposed else ends[::-1]
        return {"in_channels": inputs, "out_channels": outputs}
    if isinstance(module, nn.Linear) and len(shape) == 2:
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.Bilinear):
        names = ("out_features", "in1_features", "in2_features")
        return dict(zip(names, shape, strict=True))
    if isinstance(module, nn.MultiheadAttention):
        size = module.out_proj.weight.shape[0]
        stated = {"embed_dim": size, "head_dim": size // module.num_heads}
        if module._qkv_same_embed_dim:
            return stated | {"kdim": size, "vdim": size}
        wide = {name: _tensor(module, f"{name[0]}_proj_weight") for name in ("kdim", "vdim")}
        return stated | {name: one.shape[1] for name, one in wide.items() if one is not None}
    if isinstance(module, nn.Transformer):
        inside = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
        return {"d_model": inside[0].out_proj.weight.shape[0]} if inside else {}
    if isinstance(module, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        first, state = (_tensor(module, f"weight_{end}_l0") for end in ("ih", "hh"))
        stated = {} if first is None else {"input_size": first.shape[1]}
        if state is not None:
            stated["hidden_size"] = state.shape[0] // gates
            stated |= {"proj_size": state.shape[1]} if module.proj_size else {}
        return stated
    if isinstance(module, nn.RNNCellBase):
        read = {
            "input_size": _tensor(module, "weight_ih"),
            "hidden_size": _tensor(module, "weight_hh"),
        }
        return {name: one.shape[1] for name, one in read.items() if one is not None}
    if isinstance(module, _NormBase):
        known = weight if weight is not None else module.running_mean
        return {} if known is None else {"num_features": known.shape[0]}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and shape:
        return {"embedding_dim": shape[1]}
    if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels and shape:
        return {"num_channels": shape[0], "num_groups": shape[0]}
    # Norms of any library: LayerNorm, RMSNorm, GroupNorm, PReLU.
    if not shape:
        return {}
    stated = {"normalized_shape": shape, "num_channels": shape[0], "num_parameters": shape[0]}
    groups: Any = getattr(module, "groups", None)
    if len(shape) > 2 and type(groups) is int:  # convolutions of other packages
        stated |= {"in_channels": shape[1] * groups, "out_channels": shape[0]}
    return stated


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    """Return a layer's tensor, or a parameter of the same shape from which it is computed.

    A parametrised one is computed on a copy with meta tensors, since that may change buffers.
    """
    own = module._parameters.get(name)
    if own is not None:
        return own
    steps = module._modules.get("parametrizations")
    if isinstance(steps, nn.ModuleDict) and name in steps:
        try:
            return meta_copy(steps[name])()  # type: ignore[no-any-return]
        except Exception:  # sizes that do not go together, as the trace will show
            return None
    made_of = (module._parameters.get(name + suffix) for suffix in ("_orig", "_v", "_bar"))
    found = next((one for one in made_of if one is not None), getattr(module, name, None))
    return found if isinstance(found, Tensor) else None


def integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the numbers of a module that may be sizes, with their paths, the nearest first.

    They may lie in lists, dicts, arrays, configurations and other objects that the module holds, or
    in its class. Those of our own hooks are left out, since the network's code does not read them.
    """
    held = vars(module)
    for path, size in sizes_within(module):
        if not isinstance(held.get(path.partition(".")[0]), (Narrow, Pad)):
            yield path, size


def inner_integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield integers of the modules inside a module, the nearest first, except PyTorch's layers.

    A module may read a size from an inner one (``zeros(batch, self.cell.hidden)``), or call a
    method of it other than ``forward``.
    """
    inside = [(path, one) for path, one in module.named_modules() if path]
    for path, inner in sorted(inside, key=lambda pair: pair[0].count(".")):
        if not type(inner).__module__.startswith("torch."):
            yield from ((f"{path}.{attribute}", value) for attribute, value in integers(inner))


def holder(module: nn.Module, path: str) -> tuple[nn.Module, str, str]:
    """Split an attribute path: return the innermost child on it, the child's path, and the rest."""
    steps, inside = path.split("."), 0
    while inside < len(steps) - 1 and (child := module._modules.get(steps[inside])) is not None:
        module, inside = child, inside + 1
    return module, ".".join(steps[:inside]), ".".join(steps[inside:])


def stated_integers(module: nn.Module, paths: Iterable[str]) -> dict[str, int]:
    """Return the integers at some attribute paths of a module, by path; others are left out."""
    found = {}
    for path in paths:
        child, _, attribute = holder(module, path)
        with suppress(LookupError):
            size = as_size(get_attribute(child, attribute))
            if size is not None:
                found[path] = size
    return found


def registered_module(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path of registered children; the empty path is the network.

    Use it for paths from files: `precrop.modules.copying.submodule`, which also finds scripted
    modules, follows any attribute.

    Raises:
        KeyError: there is no such module.
    """
    for name in path.split(".") if path else ():
        child = model._modules[name]
        if child is None:
            raise KeyError(name)
        model = child
    return model


def get_attribute(module: nn.Module, path: str) -> Any:
    """Return the value at an attribute path (``width``, ``splits.2``, ``feature_info.0.num_chs``).

    Raises:
        KeyError, IndexError: there is nothing at this path that an edit may reach.
    """
    value: Any = module
    for step in path.split("."):
        held, key = slots(value, step)[0]
        try:
            value = held[key]
        except Exception as error:  # a slot or an entry of a configuration that has no value yet
            raise KeyError(path) from error
    return value


def set_attribute(module: nn.Module, path: str, value: Any) -> None:
    """Set the value at an attribute path; a tuple on the way is replaced by a changed copy.

    Tuples (such as `torch.Size`) and numbers keep their types. A value that a container refuses is
    not set.

    Raises:
        KeyError, IndexError: there is nothing at this path that an edit may reach.
    """
    outer, _, last = path.rpartition(".")
    for held, key in slots(get_attribute(module, outer) if outer else module, last):
        if isinstance(held, tuple):
            changed = (*held[:key], _like(value, held[key]), *held[key + 1 :])
            make: Any = getattr(type(held), "_make", type(held))
            set_attribute(module, outer, make(changed))
        else:
            with suppress(Exception):  # a frozen configuration, a number too large for its type
                held[key] = _like(value, held[key])


def _like(value: Any, before: Any) -> Any:
    """Return a value whose numbers have the types of those that they replace."""
    if type(value) in (list, tuple) and isinstance(before, (list, tuple)):
        return type(value)(map(_like, value, before))
    number = type(value) in (int, float) and (is_integer(before) or isinstance(before, float))
    return type(before)(value) if number else value


def _fits(value: Any, before: Any) -> bool:
    """Whether an edit may put ``value`` where ``before`` was: a number, or as many numbers."""
    if isinstance(before, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(value) == len(before) and all(map(_fits, value, before))
    if is_integer(before):
        size = abs(int(before))
        return type(value) is int and min(1, size) <= value <= GROWTH * max(1, size)
    return isinstance(before, float) and type(value) in (int, float) and is_finite(value)


def apply_edits(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Set attributes of a network's modules that are numbers or lists of numbers.

    Raises:
        PlanError: a module or attribute is missing, or may not be set to this value.
    """
    edits, changes = list(edits), []
    # All edits are checked before any is set, so that no number can grow beyond the limit in steps.
    for module_path, path, value in edits:
        where = f"{module_path}.{path}" if module_path else path
        try:
            module = registered_module(model, module_path)
            if isinstance(module, _ConvNd) and path.partition(".")[0] in _SPATIAL:
                raise KeyError(path)
            before = get_attribute(module, path)
        except LookupError as error:
            raise PlanError(f"the plan sets {where}, which this network does not have") from error
        if not _fits(value, before):
            raise PlanError(
                f"the plan sets {where} to {value!r}, not a size or number in the place of one"
            )
        changes.append((module, path, value))
    for module, path, value in changes:
        set_attribute(module, path, value)
        if get_attribute(module, path) != value:
            raise PlanError(f"the plan sets {path} to {value!r}, which this network refuses")
