"""Linear operations on one tensor, and those that join several."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.linear.values import (
    Flow,
    Gate,
    Inert,
    UnreadableError,
    Weight,
    aligned,
    as_flow,
    bare,
    flow_of,
)
from precrop.read.trace import Call
from precrop.read.values import TensorValue

# PyTorch computes 1d max-pools as 2d ones.
MAX_POOLS = ("max_pool2d_with_indices", "max_pool3d_with_indices")
ADAPTIVE_MAX_POOLS = ("adaptive_max_pool2d", "adaptive_max_pool3d")
_VIEWS = (
    "view", "_unsafe_view", "reshape", "_reshape_copy", "_reshape_alias", "flatten", "unflatten",
    "squeeze", "unsqueeze",
)  # fmt: skip
KEEPING = (
    *_VIEWS, "permute", "transpose", "t", "slice", "select", "expand", "split", "split_with_sizes",
    "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "unbind", "narrow",
    "movedim", "roll", "flip", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "repeat", "index_select", "mean",
)  # fmt: skip
"""Operations under which equal weights stay equal, with the same value."""


def linear(call: Call, args: Sequence[Any]) -> Any:
    """Run an operation that is linear in its first argument and takes no other flow or weight."""
    first, *rest = args
    if any(isinstance(leaf, (Flow, Gate, Weight, Inert)) for leaf in leaves(rest)):
        raise UnreadableError("another operand is not a constant")
    if isinstance(first, Weight):
        if first.even is not None and call.name in KEEPING:
            return [Weight(first.values, shape) for shape in call.shapes]
        return [Weight(made) for made in _made(call, first.whole, rest)]
    if bare(first):
        return [first for _ in call.outputs]
    flow = flow_of(first)
    flows = [Flow(made, flow.exponent) for made in _made(call, flow.values, rest)]
    return [Gate(output) for output in flows] if isinstance(first, Gate) else flows


def _made(call: Call, values: Tensor, rest: Sequence[Any]) -> list[Tensor]:
    if call.name in _VIEWS:  # a tensor contiguous in the recorded pass may not be here
        return [values.reshape(call.shapes[0])]
    if call.op._schema.is_mutable:
        values = values.clone()
    made = call.op(values, *rest, **_options(call))
    if isinstance(made, Tensor):
        return [made]
    return [made[0]] if call.name in MAX_POOLS else list(made)  # indices of maxima carry no flow


def _options(call: Call) -> Mapping[str, Any]:
    """Return the keyword arguments, or refuse a tensor among them (``out=``)."""
    if any(isinstance(value, TensorValue) for value in call.kwargs.values()):
        raise UnreadableError("it writes into a tensor that it is given as out=")
    return call.kwargs


def leaves(arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments with lists among them flattened."""
    found: list[Any] = []
    for argument in arguments:
        found += argument if isinstance(argument, (list, tuple)) else [argument]
    return found


def restrided(call: Call, args: Sequence[Any]) -> Any:
    """Read a change of strides that keeps all elements; axes of size 1 may come or go."""
    flow, shape = flow_of(args[0]), call.shapes[0]
    if [n for n in flow.values.shape if n != 1] != [n for n in shape if n != 1]:
        raise UnreadableError("it changes a shape")
    return Flow(flow.values.reshape(shape), flow.exponent)


def pooled(call: Call, args: Sequence[Any]) -> Flow:
    """Read a max-pool as the average over its window, padding not counted.

    The sums are convolutions of single channels. How far the last window reaches beyond the padding
    (``ceil_mode``) follows from the output's size.
    """
    flow = flow_of(args[0])
    shape = call.shapes[0]
    rank = next(int(letter) for letter in call.name if letter.isdigit())
    kernel = _sizes(call.arg("kernel_size"), rank)
    stride = _sizes(call.arg("stride"), rank) or kernel
    padding, dilation = (_sizes(call.arg(name), rank) for name in ("padding", "dilation"))
    sides: list[int] = []
    extents = zip(flow.values.shape[-rank:], shape[-rank:], strict=True)
    for axis, (size, out) in reversed(list(enumerate(extents))):
        reach = (out - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        sides += [padding[axis], reach - padding[axis] - size]

    def sums(values: Tensor) -> Tensor:
        planes = values.reshape(-1, 1, *values.shape[-rank:])
        ones = planes.new_ones(1, 1, *kernel)
        geometry = (stride, [0] * rank, dilation, False, [0] * rank, 1)
        return torch.convolution(F.pad(planes, sides), ones, None, *geometry)

    counts = sums(flow.values.new_ones(1, *flow.values.shape[-rank:]))
    return Flow((sums(flow.values) / counts).reshape(shape), flow.exponent)


def _sizes(value: Sequence[int], rank: int) -> list[int]:
    return list(value) * rank if len(value) == 1 else list(value)


def adaptively_pooled(call: Call, args: Sequence[Any]) -> Flow:
    """Read an adaptive max-pool as an average pool."""
    flow, pool = flow_of(args[0]), getattr(F, call.name.replace("max", "avg"))
    return Flow(pool(flow.values, list(call.arg("output_size"))), flow.exponent)


def averaged(call: Call, args: Sequence[Any]) -> Flow:
    """Read a maximum over axes as the average."""
    flow = flow_of(args[0])
    values = flow.values.mean(call.arg("dim") or None, call.arg("keepdim", False))
    return Flow(values, flow.exponent)


def join(call: Call, args: Sequence[Any]) -> Any:
    """Read a concatenation or a stack; inputs without flow add nothing to R and become zeros."""
    parts, *rest = args
    if any(isinstance(part, Weight) for part in parts):
        if not all(isinstance(part, Weight) for part in parts):
            raise UnreadableError("weights are joined with something else")
        return Weight(call.op([part.whole for part in parts], *rest, **_options(call)))
    if all(bare(part) for part in parts):
        return parts[0]
    flows = iter(aligned([flow for flow in map(as_flow, parts) if flow is not None]))
    joined = [None if as_flow(part) is None else next(flows) for part in parts]
    some = next(flow for flow in joined if flow is not None)
    values = [
        some.values.new_zeros(tensor.shape) if flow is None else flow.values
        for flow, tensor in zip(joined, call.args[0], strict=True)
    ]
    return Flow(call.op(values, *rest, **_options(call)), some.exponent)
