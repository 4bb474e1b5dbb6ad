"""Attributes of modules that state sizes, and setting them."""

import functools
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from precrop.errors import PlanError
from precrop.modules.copying import meta_copy
from precrop.modules.streams import Narrow, Pad
from precrop.trust import is_finite

Edit = tuple[str, str, Any]
"""Module path, attribute path (``width`` or ``splits.2``), value."""
GROWTH = 1024
"""How many times larger a plan may make a size: far more than any plan does, not without end."""
_MOST_SIZES = 128
"""The longest list of sizes that is probed, one by one; splits of dense blocks have about 50."""
_DEEPEST = 2
"""Lists in lists that are looked at: the settings of stages, names with sizes."""
_SPATIAL = {
    "dilation", "kernel_size", "output_padding", "padding", "stride",
    "_reversed_padding_repeated_twice",
}  # fmt: skip
"""What PyTorch's convolutions hold of space."""
_BOOKKEEPING = frozenset(vars(nn.Module()))
"""What every module holds: PyTorch's own, which states no size."""


def stated_sizes(module: nn.Module) -> dict[str, Any]:
    """What the attributes of layers must say, given their parameters' shapes.

    Only what a module has and what was true of the original counts; others are not its attributes.
    """
    weight = _weight(module)
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
        wide = {name: module.get_parameter(f"{name[0]}_proj_weight") for name in ("kdim", "vdim")}
        return stated | {name: projection.shape[1] for name, projection in wide.items()}
    if isinstance(module, nn.Transformer):
        inside = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
        return {"d_model": inside[0].out_proj.weight.shape[0]} if inside else {}
    if isinstance(module, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        first, state = (module.get_parameter(f"weight_{end}_l0") for end in ("ih", "hh"))
        stated = {"input_size": first.shape[1], "hidden_size": first.shape[0] // gates}
        return stated | ({"proj_size": state.shape[1]} if module.proj_size else {})
    if isinstance(module, nn.RNNCellBase):
        first, state = (module.get_parameter(f"weight_{end}") for end in ("ih", "hh"))
        return {"input_size": first.shape[1], "hidden_size": state.shape[1]}
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


def _weight(module: nn.Module) -> Tensor | None:
    """A layer's weight; one that is computed, on meta tensors, since that may change buffers."""
    steps = module._modules.get("parametrizations")
    if isinstance(steps, nn.ModuleDict) and "weight" in steps:
        try:
            return meta_copy(steps["weight"])()  # type: ignore[no-any-return]
        except Exception:  # sizes that do not go together, as the trace will show
            return None
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def is_own(name: str) -> bool:
    """Whether an attribute is its module's or configuration's, not Python's or every module's."""
    return not name.startswith("__") and name not in _BOOKKEEPING


def integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """A module's own integer attributes, with paths.

    Those in its lists and tuples count, and those of a configuration that it holds. A long list is
    a table of positions or of labels, not of sizes.
    """
    for name, value in vars(module).items():
        if is_own(name):
            yield from _integers(name, value)
            for part, entry in _entries(value):
                yield from _integers(f"{name}.{part}", entry)


def inner_integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Integer attributes of the modules in a module, with paths; PyTorch's own layers are left out.

    A module may ask one of them for a size (``zeros(batch, self.cell.hidden)``), or call a method
    that is no forward of its own. The nearest come first.
    """
    inside = [(path, one) for path, one in module.named_modules() if path]
    for path, inner in sorted(inside, key=lambda pair: pair[0].count(".")):
        if not type(inner).__module__.startswith("torch."):
            yield from ((f"{path}.{attribute}", value) for attribute, value in integers(inner))


def holder(module: nn.Module, path: str) -> tuple[str, str]:
    """The child that holds what an attribute path leads to, and the path from there."""
    steps = path.split(".")
    inside = 0
    while inside < len(steps) - 1 and module._modules.get(steps[inside]) is not None:
        module = module._modules[steps[inside]]  # type: ignore[assignment]
        inside += 1
    return ".".join(steps[:inside]), ".".join(steps[inside:])


def stated_integers(module: nn.Module, paths: Iterable[str]) -> dict[str, int]:
    """What a module and its children say at some attribute paths, as far as there are integers."""
    found = {}
    for path in paths:
        child, attribute = holder(module, path)
        try:
            value = get_attribute(registered_module(module, child), attribute)
        except LookupError:
            continue
        if type(value) is int:
            found[path] = value
    return found


def _integers(path: str, value: Any, depth: int = _DEEPEST) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield path, value
    elif depth and isinstance(value, (list, tuple)) and len(value) <= _MOST_SIZES:
        for index, entry in enumerate(value):
            yield from _integers(f"{path}.{index}", entry, depth - 1)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """What a dict, a configuration or a `functools.partial` says by names."""
    named = vars(value) if is_record(value) else _named(value)
    for name, entry in named.items():
        if isinstance(name, str) and name.isidentifier() and is_own(name):
            yield name, entry


def _named(value: Any) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        return value.keywords
    return value if isinstance(value, dict) else {}


def is_record(value: Any) -> bool:
    """Whether an object is a bundle of attributes, such as a configuration.

    Python copies it with the network, attribute by attribute, so that what is set in a copy of the
    network is seen nowhere else.
    """
    kind, reducing = type(value), ("__reduce__", "__reduce_ex__")
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, Tensor, type, ModuleType))
        and not callable(value)
        and not hasattr(kind, "__deepcopy__")
        and (
            kind is SimpleNamespace
            or all(getattr(kind, name) is getattr(object, name) for name in reducing)
        )
    )


def registered_module(model: nn.Module, path: str) -> nn.Module:
    """The module of this path, by registered children alone; the empty path is the network.

    For paths from files: `precrop.modules.copying.submodule`, which follows scripted modules too,
    goes by any attribute.

    Raises:
        KeyError: there is none.
    """
    for name in path.split(".") if path else ():
        child = model._modules[name]
        if child is None:
            raise KeyError(name)
        model = child
    return model


def get_attribute(module: nn.Module, path: str) -> Any:
    """The value at an attribute path: ``width``, ``splits.2``, ``feature_info.0.num_chs``.

    Raises:
        KeyError, IndexError: there is nothing at this path that an edit may reach.
    """
    value: Any = module
    for part in path.split("."):
        held, key = _slot(value, part)
        value = held[key]
    return value


def set_attribute(module: nn.Module, path: str, value: Any) -> None:
    """Set the value at an attribute path; a tuple on the way is replaced by a changed one.

    A tuple of a kind of its own, such as PyTorch's sizes, stays one.

    Raises:
        KeyError, IndexError: there is nothing at this path that an edit may reach.
    """
    owner, _, last = path.rpartition(".")
    held, key = _slot(get_attribute(module, owner) if owner else module, last)
    if isinstance(held, tuple):
        changed = (*held[:key], value, *held[key + 1 :])
        make: Any = getattr(type(held), "_make", type(held))
        set_attribute(module, owner, make(changed))
    else:
        held[key] = value


def _slot(owner: Any, part: str) -> tuple[Any, Any]:
    """Where a step of an attribute path leads: a container and the key in it.

    A plan comes from a file, perhaps a stranger's, so this is all that its edits can reach: what a
    module of the network, or one of our own hooks, itself holds (PyTorch's bookkeeping apart), and
    entries of lists, tuples, dicts, configurations and keywords of a `functools.partial` that lie
    there: all of it is copied with the network. Methods, properties, what belongs to a class and
    other objects are out of reach, and through them everything else in the process.
    """
    if isinstance(owner, (nn.Module, Narrow, Pad)) or is_record(owner):
        own = vars(owner)
        if not is_own(part) or part not in own:
            raise KeyError(part)
        return own, part
    if part in _named(owner):
        return _named(owner), part
    if isinstance(owner, (list, tuple)) and part.isascii() and part.isdecimal():
        index = int(part)
        owner[index]
        return owner, index
    raise KeyError(part)


def _fits(value: Any, before: Any) -> bool:
    """Whether an edit may put ``value`` where ``before`` was: a number, or as many numbers."""
    if isinstance(before, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(value) == len(before) and all(map(_fits, value, before))
    if type(before) is int:
        return type(value) is int and min(1, abs(before)) <= value <= GROWTH * max(1, abs(before))
    return type(before) is float and type(value) in (int, float) and is_finite(value)


def _holds(module: nn.Module, path: str) -> Any:
    """What an edit would replace. No width changes how a convolution moves over space.

    Raises:
        KeyError, IndexError: there is nothing at this path that an edit may reach.
    """
    if isinstance(module, _ConvNd) and path.partition(".")[0] in _SPATIAL:
        raise KeyError(path)
    return get_attribute(module, path)


def apply_edits(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Set attributes of a network's modules: numbers, and lists of them, where there are some.

    Raises:
        PlanError: a module or attribute is missing, or is nothing that an edit may change so.
    """
    edits, slots = list(edits), []
    # All are compared with what the network holds before any is set, so that no number grows twice.
    for module_path, path, value in edits:
        where = f"{module_path}.{path}" if module_path else path
        try:
            module = registered_module(model, module_path)
            before = _holds(module, path)
        except LookupError as error:
            raise PlanError(f"the plan sets {where}, which this network does not have") from error
        if not _fits(value, before):
            raise PlanError(
                f"the plan sets {where} to {value!r}, not a size or number in the place of one"
            )
        slots.append((module, path, value))
    for slot in slots:
        set_attribute(*slot)
