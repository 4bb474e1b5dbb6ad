"""Edits of attributes that state sizes but do not drive the forward pass.

Which sizes PyTorch's own layers state is known. Other attributes (timm's ``feature_info``, a
block's ``in_channels``) are recognised by their names and by what they equal in the original, since
a wrong value would not make the network fail. The plan lists every change.
"""

import copy
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from precrop.fit.attributes import Edit, get_attribute, integers, set_attribute, stated_sizes
from precrop.fit.held import is_integer
from precrop.modules.copying import copies_plainly, meta_copy, submodule
from precrop.modules.names import modules_of, names_width
from precrop.read.axes import Axis, axis_size
from precrop.read.known import CallReading
from precrop.read.network import Network, Pass, Sizes

# By name an end of the first or last layer inside; other names are only matched with own calls.
FIRST_INPUT = ("in_channels", "in_features", "in_chs", "inplanes", "in_dim", "input_dim")
LAST_OUTPUT = ("out_channels", "out_features", "out_chs", "output_dim", "out_dim")
LAST_WIDTH = ("num_features", "head_hidden_size", "embed_dim", "hidden_dim", "dim")

# Classes with an attribute that is a constant times fan-in ** -0.5 (weight-standardised NFNets).
FAN_SCALES = {"ScaledStdConv2d": "scale", "ScaledStdConv2dSame": "scale"}


def layer_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Yield edits of sizes in layers that their parameters' shapes do not show."""
    yield from _group_edits(network, sizes)
    yield from _norm_edits(network, sizes)
    for path, axis in network.known.read_widths.items():
        yield path, "stream_read.size", sizes.size(axis)


def _group_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Yield edits of ``groups`` of depthwise convolutions, and where groups keep their width."""
    grouped: dict[str, Axis] = {}
    for reading in (reading for forward in network.passes for reading in forward.readings):
        if reading.weight is not None and ("groups", None) in reading.literals:
            grouped.setdefault(reading.weight, reading.literals["groups", None])
    for weight, axis in grouped.items():
        path = weight.rpartition(".")[0]
        stated = getattr(submodule(network.model, path), "groups", None)
        if stated == axis_size(axis) != sizes.size(axis):
            yield path, "groups", sizes.size(axis)


def _norm_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Yield edits of the sizes in norms without parameters."""
    left = {**network.tracer.modules}  # forward may also call modules that it makes itself
    for forward in network.passes:
        for call, reading in forward.pairs:
            path = forward.trace.path(call)
            module = left.pop(path, None) if reading.inputs else None
            if module is None:
                continue
            own, x = vars(module), reading.inputs[0]
            if "weight" in dict(module.named_parameters(recurse=False)):
                continue
            for name in ("num_channels", "num_features"):
                channels = x[1] if len(x) > 1 else ()
                if own.get(name) == axis_size(channels) != sizes.size(channels):
                    yield path, name, sizes.size(channels)
            stated = own.get("normalized_shape", ())
            axes = x[len(x) - len(stated) :]
            shape = tuple(map(sizes.size, axes))
            if tuple(stated) == tuple(map(axis_size, axes)) != shape:
                yield path, "normalized_shape", shape


def followers_edits(network: Network, edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits of modules, repeated for the modules that no pass called and follow them."""
    return [
        (path + where[len(twin) :], attribute, value)
        for path, twin in network.unused.followers.items()
        for where, attribute, value in edits
        if where == twin or where.startswith(f"{twin}.")
    ]


def sources_edits(model: nn.Module, edits: Iterable[Edit]) -> Iterator[Edit]:
    """Yield edits of the attributes from which a copy of a module recomputes those that were set.

    Layers of einops hold a size twice, and make copies from the one that forward does not use.
    """
    for path, attribute, value in edits:
        module = submodule(model, path)
        held = {} if copies_plainly(type(module)) else dict(integers(module))
        for name, stated in held.items():
            if stated == held.get(attribute) != value and name != attribute:
                changed = meta_copy(module)
                set_attribute(changed, name, value)
                if get_attribute(copy.deepcopy(changed), attribute) == value:
                    yield path, name, value


def stated_edits(base: nn.Module, candidate: nn.Module, tensors: Iterable[str]) -> Iterator[Edit]:
    """Yield edits of what PyTorch's own layers state about the sizes of tensors that changed."""
    owners = (name.rpartition(".")[0] for name in tensors)
    known, made = map(modules_of, (base, candidate))
    for path in dict.fromkeys([*owners, *made]):
        module = known[path] if path in known else submodule(base, path)
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its sizes are part of its code
        before = stated_sizes(module)
        twin = made[path] if path in made else submodule(candidate, path)
        after = stated_sizes(twin) if before else {}
        for attribute, value in before.items():
            if vars(module).get(attribute) == value != after.get(attribute, value):
                size = after[attribute]
                yield path, attribute, int(size) if is_integer(size) else size


def metadata_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Edits for attributes that equalled a size of the original and no longer do."""
    for path, module in network.tracer.modules.items():
        if type(module).__module__.startswith("torch.nn."):
            continue  # `stated_edits` knows their attributes
        for name, value in vars(module).items():
            if is_integer(value) and value > 0:
                axis = _stated_axis(network, path, name, value)
                became = None if axis is None else sizes.size(axis)
                if axis is None and value > 1 and name[0] != "_" and names_width(name):
                    became = _became(network, sizes, path, value)
                if became not in (None, value):
                    yield path, name, became
            elif type(value) is float and FAN_SCALES.get(type(module).__name__) == name:
                yield from _fan_edits(network, sizes, path, name, value)
        yield from _feature_edits(network, sizes, path, module)


def _became(network: Network, sizes: Sizes, path: str, value: int) -> int | None:
    """Return the new value of a size, if it is the same wherever the module's own calls meet it.

    Sizes that a call takes as an argument are left to probing.
    """
    found: set[int] = set()
    for reading in (one for forward in network.passes for one in _own(forward, path)):
        if any(axis_size(axis) == value for axis in reading.literals.values()):
            return None
        found.update(sizes.size(axis) for axis in reading.axes if axis_size(axis) == value)
    return found.pop() if len(found) == 1 else None


def widths_in(forward: Pass, path: str, sizes: Sizes) -> dict[int, set[int]]:
    """Return, for every size in a module's own calls, the new sizes that it became."""
    found: dict[int, set[int]] = {}
    for axis in (axis for reading in _own(forward, path) for axis in reading.axes):
        found.setdefault(axis_size(axis), set()).add(sizes.size(axis))
    return found


def _own(forward: Pass, path: str) -> Iterator[CallReading]:
    """Yield the readings of a module's own calls, without those of modules inside it."""
    for call, reading in forward.pairs:
        if call.frame >= 0 and forward.trace.path(call) == path:
            yield reading


def _stated_axis(network: Network, path: str, name: str, value: int) -> Axis | None:
    """Return the axis that an attribute means by its name: an end of a first or last layer."""
    if name not in (*FIRST_INPUT, *LAST_OUTPUT, *LAST_WIDTH):
        return None
    prefix = f"{path}." if path else ""
    layers = [layer for layer in network.layers if f"{layer.name}.".startswith(prefix)]
    inputs = [layer.inputs for layer in layers if axis_size(layer.inputs) == value]
    outputs = [layer.outputs for layer in layers if axis_size(layer.outputs) == value]
    if name in FIRST_INPUT:
        return inputs[0] if inputs else None
    found = outputs if name in LAST_OUTPUT else inputs or outputs
    return found[-1] if found else None


def _fan_edits(
    network: Network, sizes: Sizes, path: str, name: str, value: float
) -> Iterator[Edit]:
    axes = network.known.tensors[f"{path}.weight"][1:]
    old, new = math.prod(map(axis_size, axes)), math.prod(map(sizes.size, axes))
    if old != new:
        yield path, name, value * (old / new) ** 0.5


def _feature_edits(network: Network, sizes: Sizes, path: str, module: nn.Module) -> Iterator[Edit]:
    """Yield edits of timm's ``feature_info``: a list, or in an object, of dicts with ``num_chs``.

    Where timm flattens sequences, the module ``stages.0`` is called ``stages_0``.
    """
    held: Any = vars(module).get("feature_info")
    entries = getattr(held, "info", held)
    where = "feature_info" if entries is held else "feature_info.info"
    for index, entry in enumerate(entries if isinstance(entries, (list, tuple)) else ()):
        if not isinstance(entry, dict) or not isinstance(entry.get("num_chs"), int):
            continue
        inner, size = str(entry.get("module", "")), entry["num_chs"]
        paths = {".".join(filter(None, (path, one))) for one in (inner, inner.replace(".", "_"))}
        axis = _last_axis(network, paths, size) or _returned_axis(network, paths, size)
        # If no such module returns the features, all layers of this size must agree.
        alike = [one.outputs for one in network.layers if axis_size(one.outputs) == size]
        became = {*map(sizes.size, alike if axis is None else [axis])}
        if len(became) == 1 and became != {size}:
            yield path, f"{where}.{index}.num_chs", became.pop()


def _last_axis(network: Network, paths: Collection[str], size: int) -> Axis | None:
    """Return the axis of a size in the output of the last call inside a module at the paths."""
    forward = network.passes[0]
    starts = tuple(f"{path}." for path in paths)
    found: Axis | None = None
    for call, reading in forward.pairs:
        if reading.outputs and f"{forward.trace.path(call)}.".startswith(starts):
            found = next((a for a in reading.outputs[0] if axis_size(a) == size), found)
    return found


def _returned_axis(network: Network, paths: Collection[str], size: int) -> Axis | None:
    """Return the axis of a size in what a module at the paths returns, whoever computed it."""
    forward = network.passes[0]
    made = {
        value.number: axes
        for call, reading in forward.pairs
        for value, axes in zip(call.outputs, reading.outputs, strict=False)
    }
    returned = (
        value
        for index, frame in enumerate(forward.trace.frames)
        for value in forward.trace.passed.get((index, "write"), {}).values()
        if frame.path in paths
    )
    axes = (axis for value in returned for axis in made.get(value.number, ()))
    return next((axis for axis in axes if axis_size(axis) == size), None)
