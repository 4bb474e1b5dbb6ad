"""Attributes that state sizes without driving the forward pass.

timm's ``feature_info`` and ``num_features``, a block's ``in_channels``: wrong values would not
fail, so they are found by what they equal in the original. Every change is listed in the plan.
"""

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from precrop.fit.attributes import Edit
from precrop.fit.held import is_integer
from precrop.modules.names import names_width
from precrop.read.axes import Axis, axis_size
from precrop.read.known import CallReading, LayerReading
from precrop.read.network import Network, Pass, Sizes

# Other names of sizes are only taken for one of what their module itself computes.
FIRST_INPUT = ("in_channels", "in_features", "in_chs", "inplanes", "in_dim", "input_dim")
LAST_OUTPUT = ("out_channels", "out_features", "out_chs", "output_dim", "out_dim")
LAST_WIDTH = ("num_features", "head_hidden_size", "embed_dim", "hidden_dim", "dim")

# Classes whose attribute is a constant times fan-in ** -0.5 (weight standardisation of NFNets).
FAN_SCALES = {"ScaledStdConv2d": "scale", "ScaledStdConv2dSame": "scale"}


def metadata_edits(network: Network, sizes: Sizes) -> Iterator[Edit]:
    """Edits for attributes that equalled a size of the original and no longer do."""
    layers = network.layers
    for path, module in network.tracer.modules.items():
        if type(module).__module__.startswith("torch.nn."):
            continue  # what those state is known
        prefix = f"{path}." if path else ""
        inside: list[LayerReading] | None = None
        for name, value in vars(module).items():
            if is_integer(value) and value > 0:
                became = None
                if name in (*FIRST_INPUT, *LAST_OUTPUT, *LAST_WIDTH):
                    if inside is None:
                        inside = [layer for layer in layers if f"{layer.name}.".startswith(prefix)]
                    axis = _stated_axis(name, value, inside)
                    became = None if axis is None else sizes.size(axis)
                if became is None and value > 1 and name[0] != "_" and names_width(name):
                    became = _became(network, sizes, path, value)
                if became not in (None, value):
                    yield path, name, became
            elif type(value) is float and FAN_SCALES.get(type(module).__name__) == name:
                yield from _fan_edits(network, sizes, path, name, value)
        yield from _feature_edits(network, sizes, path, module)


def _became(network: Network, sizes: Sizes, path: str, value: int) -> int | None:
    """What a size became, if it became one thing wherever a module's own code meets it.

    What a call takes as an argument is left to probing.
    """
    found: set[int] = set()
    for reading in (one for forward in network.passes for one in _own(forward, path)):
        if any(axis_size(axis) == value for axis in reading.literals.values()):
            return None
        found.update(sizes.size(axis) for axis in reading.axes if axis_size(axis) == value)
    return found.pop() if len(found) == 1 else None


def widths_in(forward: Pass, path: str, sizes: Sizes) -> dict[int, set[int]]:
    """What sizes became in the calls of a module's own code, by the sizes in the original."""
    found: dict[int, set[int]] = {}
    for axis in (axis for reading in _own(forward, path) for axis in reading.axes):
        found.setdefault(axis_size(axis), set()).add(sizes.size(axis))
    return found


def _own(forward: Pass, path: str) -> Iterator[CallReading]:
    """What was read in the calls of a module's own code."""
    for call, reading in forward.pairs:
        if call.frame >= 0 and forward.trace.path(call) == path:
            yield reading


def _stated_axis(name: str, value: int, layers: list[LayerReading]) -> Axis | None:
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
    """Timm's ``feature_info``: entries ``{"num_chs": …, "module": …}``."""
    entries: Any = vars(module).get("feature_info")
    if not isinstance(entries, (list, tuple)):
        return
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("num_chs"), int):
            continue
        where = ".".join(filter(None, (path, str(entry.get("module", "")))))
        axis = _last_axis(network, where, entry["num_chs"])
        if axis is not None and sizes.size(axis) != entry["num_chs"]:
            yield path, f"feature_info.{index}.num_chs", sizes.size(axis)


def _last_axis(network: Network, path: str, size: int) -> Axis | None:
    """The axis of a size in the last output of a module."""
    forward = network.passes[0]
    found: Axis | None = None
    for call, reading in forward.pairs:
        inside = forward.trace.path(call)
        if reading.outputs and (inside == path or inside.startswith(f"{path}.")):
            found = next((a for a in reading.outputs[0] if axis_size(a) == size), found)
    return found
