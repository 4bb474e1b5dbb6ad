"""Operations that keep axes as they are, and what is done with unknown ones."""

from collections.abc import Sequence

import torch

from precrop.read.axes import freeze
from precrop.read.ops.registry import broadcast, constants, handles
from precrop.read.reader import Axes, Reader, fresh_axes
from precrop.read.trace import Call


@handles(
    "copy", "masked_fill", "where", "lerp", "bernoulli", "dropout", "native_dropout", "hardswish",
    "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "gelu",
    "prelu", "_prelu_kernel", "rrelu", "threshold", "softplus", "hardshrink", "softshrink",
    "log_sigmoid", "relu", "sigmoid", "tanh", "clamp", "rrelu_with_noise", "log_sigmoid_forward",
    "_to_copy", "expand_as", "rsub", "addcmul", "addcdiv", "nan_to_num", "masked_fill",
)  # fmt: skip
def elementwise(reader: Reader, call: Call) -> Sequence[Axes]:
    """Corresponding axes are one."""
    operands = [reader.axes(tensor) for tensor in call.inputs]
    return [broadcast(reader, call, operands, shape) for shape in call.shapes]


@handles(
    "clone", "contiguous", "alias", "detach", "lift_fresh", "_softmax", "_log_softmax",
    "cumsum", "flip", "roll", "fill", "zero", "empty_like", "zeros_like", "ones_like", "rand_like",
    "randn_like", "full_like", "tril", "triu", "normal", "uniform", "sort", "_pin_memory",
    "_fft_c2c", "random", "exponential", "trunc_normal",
)  # fmt: skip
def same_shape(reader: Reader, call: Call) -> Sequence[Axes]:
    """The output has the first operand's axes."""
    axes = reader.axes(call.inputs[0])
    return [axes if len(axes) == len(shape) else constants(shape) for shape in call.shapes]


@handles(
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty",
    "new_full",
)  # fmt: skip
def factory(reader: Reader, call: Call) -> Sequence[Axes]:
    """A tensor made in forward takes the widths of what it meets."""
    axes = fresh_axes(call.shapes[0], reader.reason(call))
    for index, axis in enumerate(axes):
        reader.literal("size", index, axis)
    return [axes]


@handles("arange")
def count_up(reader: Reader, call: Call) -> Sequence[Axes]:
    """Numbers from 0 up take the width of what they meet: a table of frequencies, for example."""
    start, step, (size,) = call.arg("start", 0), call.arg("step", 1), call.shapes[0]
    if start != 0 or type(step) is not int or call.arg("end") != step * size:
        return [constants(shape) for shape in call.shapes]
    axes = fresh_axes((size,), reader.reason(call))
    reader.literal("end", None, tuple((atom, count * step) for atom, count in axes[0]))
    return [axes]


@handles("linspace")
def spread(reader: Reader, call: Call) -> Sequence[Axes]:
    """Numbers between two ends take the width of what they meet: one rate for each channel."""
    axes = fresh_axes(call.shapes[0], reader.reason(call))
    reader.literal("steps", None, axes[0])
    return [axes]


def fallback(reader: Reader, call: Call) -> Sequence[Axes]:
    """Elementwise where ATen says so; else everything that reaches the call stays as it is."""
    if not call.inputs:  # positions and the like: arange, eye
        return [constants(shape) for shape in call.shapes]
    if torch.Tag.pointwise in call.op.tags:
        return elementwise(reader, call)
    for tensor in call.inputs:
        for axis in reader.axes(tensor):
            freeze(axis, reader.reason(call))
    return [constants(shape) for shape in call.shapes]
