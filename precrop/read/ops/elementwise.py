"""Operations that keep axes as they are, and what is done with unknown ones."""

from collections.abc import Sequence

import torch

from precrop.read.axes import axis_size, unify
from precrop.read.known import Axes, constants, fresh_axes
from precrop.read.ops.registry import broadcast, handles, stating
from precrop.read.reader import Reader
from precrop.read.trace import Call


@handles(
    "copy", "masked_fill", "where", "lerp", "bernoulli", "dropout", "native_dropout", "hardswish",
    "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "gelu",
    "prelu", "_prelu_kernel", "rrelu", "threshold", "softplus", "hardshrink", "softshrink",
    "log_sigmoid", "relu", "sigmoid", "tanh", "clamp", "rrelu_with_noise", "log_sigmoid_forward",
    "_to_copy", "expand_as", "rsub", "addcmul", "addcdiv", "nan_to_num", "complex", "polar",
    "floor_divide", "binomial", "elu_backward", "hardtanh_backward", "hardswish_backward",
    "hardsigmoid_backward", "leaky_relu_backward", "mish_backward", "log_sigmoid_backward",
    "softplus_backward", "softshrink_backward", "hardshrink_backward", "_softmax_backward_data",
    "_log_softmax_backward_data", "add", "sub", "mul", "div",  # no tag says so of prims::mul
)  # fmt: skip
def elementwise(reader: Reader, call: Call) -> Sequence[Axes]:
    """Corresponding axes are one."""
    operands = [reader.axes(tensor) for tensor in call.inputs]
    return [broadcast(reader, operands, shape) for shape in call.shapes]


@handles(
    "clone", "contiguous", "alias", "detach", "_softmax", "_log_softmax",
    "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "flip", "roll",
    "fill", "zero", "empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like",
    "tril", "triu", "uniform", "_pin_memory", "_fft_c2c", "random", "exponential",
    "trunc_normal", "randint_like", "poisson", "cauchy", "log_normal", "geometric",
    "_standard_gamma", "_sample_dirichlet", "_conj", "_neg_view", "renorm", "embedding_renorm",
    "fake_quantize_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fake_quantize_learnable_per_tensor_affine",
)  # fmt: skip
def same_shape(reader: Reader, call: Call) -> Sequence[Axes]:
    """The output has the first operand's axes."""
    axes = reader.axes(call.inputs[0])
    return [axes if len(axes) == len(shape) else constants(shape) for shape in call.shapes]


@handles("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy",
         "binary_cross_entropy_with_logits", "dist", "equal")  # fmt: skip
def loss(reader: Reader, call: Call) -> Sequence[Axes]:
    """A prediction meets its targets element by element; what is left is one number, or all."""
    operands = [reader.axes(tensor) for tensor in call.inputs]
    shape = max((value.shape for value in call.inputs), key=len, default=())
    whole = broadcast(reader, operands, shape)
    return [whole[: len(shape)] for shape in call.shapes]


@handles("eq", "ne")
def compare(reader: Reader, call: Call) -> Sequence[Axes]:
    """Corresponding axes are one; places are those along one axis, as for a row that is one-hot."""
    first, *others = (reader.fact(value).places for value in call.inputs)
    for other in others:
        if first is not None and other is not None and axis_size(first) == axis_size(other):
            reader.unify(first, other)
    return elementwise(reader, call)


@handles("bucketize", "searchsorted")
def bucket(reader: Reader, call: Call) -> Sequence[Axes]:
    """The place of every value among sorted ones, whose number stays fixed."""
    values = reader.axes(call.arg("self"))
    for sorted_values in call.inputs:
        if sorted_values is not call.arg("self"):
            *rows, places = reader.axes(sorted_values)
            reader.freeze(places)
            broadcast(reader, [tuple(rows), values[:-1]], [axis_size(row) for row in rows])
    return [values]


@handles("isin")
def is_in(reader: Reader, call: Call) -> Sequence[Axes]:
    """Whether each value is among others."""
    elements, *others = map(reader.axes, call.inputs)
    for axes in others:
        reader.freeze(*axes)
    return [elements]


@handles("histc", "_linalg_check_errors")
def no_widths(reader: Reader, call: Call) -> Sequence[Axes]:
    """Counts of values in bins, however many there are; a look at what an algorithm reports."""
    return [*map(constants, call.shapes)]


@handles(
    "zeros", "ones", "empty", "full", "rand", "randn", "randint", "new_zeros", "new_ones",
    "new_empty", "new_full", "resize", "resize_as", "tensor_of_numbers", "_efficientzerotensor",
)  # fmt: skip
def factory(reader: Reader, call: Call) -> Sequence[Axes]:
    """A tensor that is made in forward, or gets its size there, has the widths of what it meets."""
    if call.inputs and reader.fact(call.inputs[0]).places is not None:
        return same_shape(reader, call)
    return [stating(reader, "size", fresh_axes(call.shapes[0], reader.reason))]


@handles("normal")
def normal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Numbers drawn around means of their own, or as many as are asked for around one."""
    return (elementwise if call.inputs else factory)(reader, call)


@handles("arange")
def count_up(reader: Reader, call: Call) -> Sequence[Axes]:
    """Numbers in steps take the width of what they meet: a table of frequencies, for example.

    Successive ones, which may be places along an axis, may begin behind some others.
    """
    start, step, (size,) = call.arg("start", 0), call.arg("step", 1), call.shapes[0]
    whole = type(step) is int and (start == 0 or (start > 0 and type(start) is int and step == 1))
    if not whole or call.arg("end") != start + step * size:
        return [constants(call.shapes[0])]
    axes = fresh_axes((size,), reader.reason)
    before = fresh_axes((start,), reader.reason)[0] if start else ()
    end = (*before, *((atom, count * step) for atom, count in axes[0]))
    reader.literal("end", None, end)
    if start:
        reader.literal("start", None, before)
    if step == 1:
        reader.finds(end)
    return [axes]


@handles("randperm")
def shuffled(reader: Reader, call: Call) -> Sequence[Axes]:
    """Places in any order take the width of what they meet."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    reader.literal("n", None, axes[0])
    reader.finds(axes[0])
    return [axes]


@handles("linspace")
def spread(reader: Reader, call: Call) -> Sequence[Axes]:
    """Numbers between two ends take the width of what they meet: one rate for each channel."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    reader.literal("steps", None, axes[0])
    return [axes]


@handles("eye")
def identity(reader: Reader, call: Call) -> Sequence[Axes]:
    """An identity matrix takes the width of what it meets."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    if axis_size(axes[0]) == axis_size(axes[1]):
        unify(axes[0], axes[1])
    reader.literal("n", None, axes[0])
    return [axes]


def fallback(reader: Reader, call: Call) -> Sequence[Axes]:
    """Elementwise where ATen says so; else everything that reaches the call stays as it is.

    A number that is computed of tensors of one shape, and a look at them, hand no width on: all
    that such a call may ask of its operands is that they agree.
    """
    if call.inputs and torch.Tag.pointwise in call.op.tags:
        return elementwise(reader, call)
    shapes = {value.shape for value in call.inputs if value.shape}
    if len(shapes) <= 1 and not any(call.shapes) and not call.op._schema.is_mutable:
        return loss(reader, call)
    for tensor in call.inputs:
        reader.freeze(*reader.axes(tensor))
    return [*map(constants, call.shapes)]
