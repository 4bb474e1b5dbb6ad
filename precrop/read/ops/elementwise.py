"""Operations that keep axes as they are, factories, and the fallback for unknown operations."""

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
    "_log_softmax_backward_data", "add", "sub", "mul", "div",  # prims::mul has no pointwise tag
)  # fmt: skip
def elementwise(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify the operands' axes as in a broadcast."""
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
    """Give the output the first operand's axes."""
    axes = reader.axes(call.inputs[0])
    return [axes if len(axes) == len(shape) else constants(shape) for shape in call.shapes]


@handles("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy",
         "binary_cross_entropy_with_logits", "dist", "equal")  # fmt: skip
def loss(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify a prediction's axes with its targets'; the result is one number or one per element."""
    operands = [reader.axes(tensor) for tensor in call.inputs]
    shape = max((value.shape for value in call.inputs), key=len, default=())
    whole = broadcast(reader, operands, shape)
    return [whole[: len(shape)] for shape in call.shapes]


@handles("eq", "ne")
def compare(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify the operands' axes, and those that integer operands index (as in a one-hot row)."""
    first, *others = (reader.fact(value).places for value in call.inputs)
    for other in others:
        if first is not None and other is not None and axis_size(first) == axis_size(other):
            reader.unify(first, other)
    return elementwise(reader, call)


@handles("bucketize", "searchsorted")
def bucket(reader: Reader, call: Call) -> Sequence[Axes]:
    """Return the index of every value among sorted ones; freeze the number of these."""
    values = reader.axes(call.arg("self"))
    for sorted_values in call.inputs:
        if sorted_values is not call.arg("self"):
            *rows, places = reader.axes(sorted_values)
            reader.freeze(places)
            broadcast(reader, [tuple(rows), values[:-1]], [axis_size(row) for row in rows])
    return [values]


@handles("isin")
def is_in(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep the axes of the values looked up; freeze those of the values they are sought among."""
    elements, *others = map(reader.axes, call.inputs)
    for axes in others:
        reader.freeze(*axes)
    return [elements]


@handles("histc", "_linalg_check_errors")
def no_widths(reader: Reader, call: Call) -> Sequence[Axes]:
    """Return constant axes and restrict nothing: a histogram, or a check of error codes."""
    return [*map(constants, call.shapes)]


@handles(
    "zeros", "ones", "empty", "full", "rand", "randn", "randint", "new_zeros", "new_ones",
    "new_empty", "new_full", "resize", "resize_as", "tensor_of_numbers", "_efficientzerotensor",
)  # fmt: skip
def factory(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give a tensor made or resized in forward new widths, which unify with what it meets."""
    if call.inputs and reader.fact(call.inputs[0]).places is not None:
        return same_shape(reader, call)
    return [stating(reader, "size", fresh_axes(call.shapes[0], reader.reason))]


@handles("normal")
def normal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Treat ``normal`` as elementwise if mean or deviation is a tensor, else as a factory."""
    return (elementwise if call.inputs else factory)(reader, call)


@handles("arange")
def count_up(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give numbers in steps a new width, which unifies with what they meet (frequencies, say).

    With step 1 they may be indices of an axis, and may begin after some others.
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
    """Give a permutation of indices a new width, which unifies with what it meets."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    reader.literal("n", None, axes[0])
    reader.finds(axes[0])
    return [axes]


@handles("linspace")
def spread(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give numbers between two ends a new width, which unifies with what they meet (rates, say)."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    reader.literal("steps", None, axes[0])
    return [axes]


@handles("eye")
def identity(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give an identity matrix one new width, which unifies with what it meets."""
    axes = fresh_axes(call.shapes[0], reader.reason)
    if axis_size(axes[0]) == axis_size(axes[1]):
        unify(axes[0], axes[1])
    reader.literal("n", None, axes[0])
    return [axes]


def fallback(reader: Reader, call: Call) -> Sequence[Axes]:
    """Treat a call as elementwise where ATen tags it so; else freeze all its operands.

    A call without outputs, or with numbers only, on operands of one shape passes no width on: it
    can only require that the operands' axes agree.
    """
    if call.inputs and torch.Tag.pointwise in call.op.tags:
        return elementwise(reader, call)
    shapes = {value.shape for value in call.inputs if value.shape}
    if len(shapes) <= 1 and not any(call.shapes) and not call.op._schema.is_mutable:
        return loss(reader, call)
    for tensor in call.inputs:
        reader.freeze(*reader.axes(tensor))
    return [*map(constants, call.shapes)]
