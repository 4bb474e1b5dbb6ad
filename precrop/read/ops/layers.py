"""Layers and matrix products: operations that sum over one width and make another."""

from collections.abc import Sequence
from math import prod

from precrop.read.axes import (
    Axis,
    axis_size,
    constant,
    freeze,
    merge,
    proportional,
    require_divisor,
    resolve,
    tie,
)
from precrop.read.known import Axes, Product, constants
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import asked, broadcast, fixed, handles, with_vectors
from precrop.read.ops.space import moved_along
from precrop.read.reader import Reader
from precrop.read.trace import Call
from precrop.read.values import TensorValue

BILINEAR_RANK = 3
"""Number of axes of a bilinear layer's weight: the output and two inputs."""


def _repeated(reader: Reader, axis: Axis, size: int) -> Axis:
    """Return a depthwise convolution's outputs, equally many per channel; groups follow inputs."""
    reader.literal("groups", None, axis)
    return tuple((atom, count * (size // axis_size(axis))) for atom, count in resolve(axis))


def _grouped(reader: Reader, call: Call, inputs: Axis, outputs: Axis, within: Axis) -> str:
    """Relate a grouped convolution's axes (``within``: inputs of one group); return its kind."""
    groups, reason = call.arg("groups"), reader.reason
    if groups == axis_size(inputs):
        reader.unify(outputs, _repeated(reader, inputs, axis_size(outputs)))
        return "depthwise"
    if reader.known.scale_groups:
        freeze(within, "groups keep their width")
        tie([inputs, outputs])
        number = proportional(inputs, groups, reason)
        require_divisor(outputs, axis_size(outputs) // groups, reason)
        reader.literal("groups", None, number)
        return "grouped"
    require_divisor(inputs, groups, reason)
    require_divisor(outputs, groups, reason)
    reader.unify(within, proportional(inputs, axis_size(inputs) // groups, reason))
    return "grouped"


@handles("convolution", "_convolution")
def convolution(reader: Reader, call: Call) -> Sequence[Axes]:
    """Sum over one width and make another; a depthwise one ties the two, groups divide them."""
    x, weight = call.arg("input"), call.arg("weight")
    data, kernel = reader.axes(x), reader.axes(weight)
    if call.arg("transposed"):
        return _transposed(reader, call, weight, data, kernel)
    inputs, outputs, kind = data[1], kernel[0], "conv"
    if call.arg("groups") == 1:
        inputs = reader.unify(inputs, kernel[1])
    else:
        kind = _grouped(reader, call, inputs, outputs, kernel[1])
    outputs = with_vectors(reader, call, outputs, "bias")
    space = moved_along(reader, call, data[2:], kernel[2:])
    window = prod(weight.shape[2:])
    merges = reader.fact(x).of_weights and reader.fact(weight).of_weights
    product = Product(window, [data[0], outputs, kernel[1], *space], merges)
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


@handles("deform_conv2d")
def deformable(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read a deformable convolution; the numbers of offsets and masks per place are frozen."""
    data, kernel = reader.axes(call.arg("input")), reader.axes(call.arg("weight"))
    for bent in (call.arg("offset"), call.arg("mask")):
        reader.freeze(*reader.axes(bent))
    require_divisor(data[1], call.arg("offset_groups"), reader.reason)
    reader.freeze(*data[2:], *kernel[2:])
    return convolution(reader, call)


def _transposed(
    reader: Reader, call: Call, weight: TensorValue, data: Axes, kernel: Axes
) -> Sequence[Axes]:
    """Read a transposed convolution, whose weight is (in, out / groups, ...)."""
    groups, kind = call.arg("groups"), "transposed"
    inputs = reader.unify(data[1], kernel[0])
    if groups == 1:
        outputs = kernel[1]
    elif groups == axis_size(inputs):
        kind = "depthwise"
        reader.freeze(kernel[1])
        outputs = _repeated(reader, inputs, groups * axis_size(kernel[1]))
    else:
        require_divisor(inputs, groups, reader.reason)
        outputs = merge([constant(groups), kernel[1]], reader.reason)
    outputs = with_vectors(reader, call, outputs, "bias")
    space = moved_along(reader, call, data[2:], kernel[2:])
    product = Product(prod(weight.shape[2:]), [data[0], inputs, kernel[1], *data[2:]])
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


@handles("convolution_backward")
def convolution_gradients(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read gradients in forward by input, weight and bias; each of the first two costs the MACs."""
    if call.arg("groups") != 1:
        return fallback(reader, call)
    grad, x, weight = (call.arg(name) for name in ("grad_output", "input", "weight"))
    made, data, kernel = map(reader.axes, (grad, x, weight))
    transposed, wanted = call.arg("transposed"), call.arg("output_mask")[:2]
    inputs = reader.unify(data[1], kernel[0 if transposed else 1])
    outputs = reader.unify(made[1], kernel[1 if transposed else 0])
    window = prod(weight.shape[2:])
    places = data[2:] if transposed else made[2:]
    product = Product(window * sum(wanted), [data[0], outputs, inputs, *places])
    reader.layer(weight, "transposed" if transposed else "conv", inputs, outputs, product)
    return asked(call, (data[0], inputs, *data[2:]), kernel, (outputs,))


def _matmul(reader: Reader, a: TensorValue, b: TensorValue) -> Axes:
    """Sum over the last axis of ``a`` and the last but one of ``b``; return the output's axes."""
    left, right = reader.axes(a), reader.axes(b)
    inner = reader.unify(left[-1], right[-2])
    batch = [reader.unify(m, n) for m, n in zip(left[:-2], right[:-2], strict=True)]
    merges = reader.fact(a).of_weights and reader.fact(b).of_weights
    product = Product(1, [*batch, left[-2], inner, right[-1]], merges)
    weight, outputs = (a, left[-2]) if reader.owner(b) is None else (b, right[-1])
    reader.layer(weight, reader.product_kind(weight, inner), inner, outputs, product)
    reader.mixes(b, right[-2])
    reader.mixes(a, left[-1])
    return (*batch, left[-2], right[-1])


@handles("mm", "bmm")
def matmul(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read a product of matrices."""
    return [_matmul(reader, *call.inputs)]


@handles("addmm", "baddbmm", "addbmm")
def add_matmul(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read a product of matrices, or the sum of a batch of them, with a bias."""
    bias, first, second = call.inputs
    product = _matmul(reader, first, second)[-len(call.shapes[0]) :]
    return [broadcast(reader, [product, reader.axes(bias)], call.shapes[0])]


@handles("linalg_cross")
def cross(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read cross products; the axis of the vectors' three entries is frozen."""
    axes = list(broadcast(reader, [*map(reader.axes, call.inputs)], call.shapes[0]))
    return [tuple(fixed(reader, axes, call.arg("dim") % len(axes), call.shapes[0]))]


@handles("_pdist_forward")
def row_distances(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read distances between all rows of a matrix, whose number is frozen."""
    reader.freeze(reader.axes(call.arg("self"))[0])
    return [constants(call.shapes[0])]


@handles("mv", "dot", "vdot", "addmv")
def vector_product(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read a matrix or a vector times a vector."""
    left, right = map(reader.axes, call.inputs[-2:])
    reader.unify(left[-1], right[-1])
    return [left[:-1]]


@handles("_trilinear")
def bilinear(reader: Reader, call: Call) -> Sequence[Axes]:
    """Multiply three operands, expanded by axes of size 1, and sum over some axes.

    In a bilinear layer the second one is the weight. PyTorch counts no FLOPs for it.
    """
    operands = []
    for tensor, expanded in zip(call.args[:3], call.args[3:6], strict=True):
        axes = list(reader.axes(tensor))
        for dim in expanded:
            axes.insert(dim, constant(1))
        operands.append(tuple(axes))
    shape = [max(sizes) for sizes in zip(*(map(axis_size, o) for o in operands), strict=True)]
    whole = broadcast(reader, operands, shape)
    weight, summed = call.args[1], call.args[6]
    outputs, *inputs = reader.axes(weight) if weight.dim() == BILINEAR_RANK else (constant(1),) * 3
    if reader.fact(weight).origin is not None:
        rows = tuple(segment for axis in inputs for segment in axis)
        reader.layer(weight, "bilinear", rows, outputs, Product(0, []))
    return [tuple(axis for dim, axis in enumerate(whole) if dim not in summed)]


@handles("_cdist_forward", "_euclidean_dist")
def distances(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read distances between all rows of two matrices."""
    left, right = map(reader.axes, call.inputs[:2])
    reader.unify(left[-1], right[-1])
    batch = broadcast(reader, [left[:-2], right[:-2]], call.shapes[0][:-2])
    return [(*batch, left[-2], right[-2])]


@handles("embedding")
def embedding(reader: Reader, call: Call) -> Sequence[Axes]:
    """Take rows of a table: their number is frozen, their width is free."""
    rows, width = reader.axes(call.arg("weight"))
    freeze(rows, "rows of a lookup table")
    return [(*reader.axes(call.arg("indices")), width)]


@handles("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(reader: Reader, call: Call) -> Sequence[Axes]:
    """Take rows of a table, summed in bags."""
    *indices, width = embedding(reader, call)[0]
    for axis in indices:
        freeze(axis, "rows of a lookup table")
    bags = call.shapes[0]
    summed = (constant(bags[0]), width)
    return [summed if shape == bags else constants(shape) for shape in call.shapes]
