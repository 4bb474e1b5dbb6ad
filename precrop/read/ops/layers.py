"""Operations with a weight: one width is consumed, another produced."""

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
    unify,
)
from precrop.read.ops.registry import broadcast, constants, handles
from precrop.read.ops.space import moved_along
from precrop.read.reader import Axes, Product, Reader
from precrop.read.trace import Call
from precrop.read.values import TensorValue

BILINEAR_RANK = 3
"""Axes of a bilinear layer's weight: the output and two inputs."""


def _grouped(reader: Reader, call: Call, inputs: Axis, outputs: Axis, within: Axis) -> str:
    """A convolution in groups; ``within`` is the weight's axis inside one group."""
    groups = call.arg("groups")
    reason = reader.reason(call)
    if groups == axis_size(inputs):
        multiplier = axis_size(outputs) // groups
        row = tuple((atom, count * multiplier) for atom, count in resolve(inputs))
        unify(outputs, row, reason)
        reader.literal("groups", None, inputs)
        return "depthwise"
    if reader.scale_groups:
        freeze(within, "groups keep their width")
        tie([inputs, outputs])
        number = proportional(inputs, groups, reason)
        require_divisor(outputs, axis_size(outputs) // groups, reason)
        reader.literal("groups", None, number)
        return "grouped"
    require_divisor(inputs, groups, reason)
    require_divisor(outputs, groups, reason)
    unify(within, proportional(inputs, axis_size(inputs) // groups, reason), reason)
    return "grouped"


@handles("convolution", "_convolution")
def convolution(reader: Reader, call: Call) -> Sequence[Axes]:
    """Consumes one width and produces another; depthwise ties them, groups divide them."""
    x, weight, bias = call.arg("input"), call.arg("weight"), call.arg("bias")
    data, kernel = reader.axes(x), reader.axes(weight)
    groups, reason = call.arg("groups"), reader.reason(call)
    if call.arg("transposed"):
        return _transposed(reader, call)
    inputs, outputs = data[1], kernel[0]
    kind = "conv"
    if groups == 1:
        inputs = unify(inputs, kernel[1], reason)
    else:
        kind = _grouped(reader, call, inputs, outputs, kernel[1])
        outputs = kernel[0]
    if bias is not None:
        outputs = unify(outputs, reader.axes(bias)[0], reason)
    space = moved_along(reader, call, data[2:], kernel[2:])
    window = prod(weight.shape[2:])
    merges = reader.is_of_weights(x) and reader.is_of_weights(weight)
    product = Product(window, [data[0], outputs, kernel[1], *space], merges)
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


@handles("deform_conv2d")
def deformable(reader: Reader, call: Call) -> Sequence[Axes]:
    """A convolution whose window is bent: offsets and masks are a fixed number for every place."""
    x, weight, bias = call.arg("input"), call.arg("weight"), call.arg("bias")
    data, kernel, reason = reader.axes(x), reader.axes(weight), reader.reason(call)
    for bent in (call.arg("offset"), call.arg("mask")):
        for axis in reader.axes(bent):
            freeze(axis, reason)
    inputs, kind = data[1], "conv"
    require_divisor(inputs, call.arg("offset_groups"), reason)
    if call.arg("groups") == 1:
        inputs = unify(inputs, kernel[1], reason)
    else:
        kind = _grouped(reader, call, inputs, kernel[0], kernel[1])
    outputs = unify(kernel[0], reader.axes(bias)[0], reason)
    for axis in (*data[2:], *kernel[2:]):
        freeze(axis, reason)
    space = constants(call.shapes[0][2:])
    product = Product(prod(weight.shape[2:]), [data[0], outputs, kernel[1], *space])
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


def _transposed(reader: Reader, call: Call) -> Sequence[Axes]:
    """A transposed convolution: the weight is (in, out / groups, ...)."""
    x, weight, bias = call.arg("input"), call.arg("weight"), call.arg("bias")
    data, kernel = reader.axes(x), reader.axes(weight)
    groups, reason = call.arg("groups"), reader.reason(call)
    inputs = unify(data[1], kernel[0], reason)
    kind = "transposed"
    if groups == 1:
        outputs = kernel[1]
    elif groups == axis_size(inputs):
        kind = "depthwise"
        freeze(kernel[1], reason)
        multiplier = axis_size(kernel[1])
        outputs = tuple((atom, count * multiplier) for atom, count in resolve(inputs))
        reader.literal("groups", None, inputs)
    else:
        require_divisor(inputs, groups, reason)
        outputs = merge([constant(groups), kernel[1]], reason)
    if bias is not None:
        outputs = unify(outputs, reader.axes(bias)[0], reason)
    space = moved_along(reader, call, data[2:], kernel[2:])
    window = prod(weight.shape[2:])
    product = Product(window, [data[0], inputs, kernel[1], *data[2:]])
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


def _matmul(reader: Reader, call: Call, a: TensorValue, b: TensorValue) -> Axes:
    """Contract the last axis of ``a`` with the one before last of ``b``; others are kept."""
    left, right, reason = reader.axes(a), reader.axes(b), reader.reason(call)
    inner = unify(left[-1], right[-2], reason)
    batch = [unify(m, n, reason) for m, n in zip(left[:-2], right[:-2], strict=True)]
    merges = reader.is_of_weights(a) and reader.is_of_weights(b)
    product = Product(1, [*batch, left[-2], inner, right[-1]], merges)
    if reader.owner(b) is not None:
        reader.layer(b, reader.product_kind(b, inner), inner, right[-1], product)
    else:
        reader.layer(a, reader.product_kind(a, inner), inner, left[-2], product)
    reader.mixes(call, b, right[-2])
    reader.mixes(call, a, left[-1])
    return (*batch, left[-2], right[-1])


@handles("mm", "bmm")
def matmul(reader: Reader, call: Call) -> Sequence[Axes]:
    """A product of matrices."""
    second = call.arg("mat2")
    return [_matmul(reader, call, call.arg("self"), second)]


@handles("addmm", "baddbmm")
def add_matmul(reader: Reader, call: Call) -> Sequence[Axes]:
    """A product of matrices with a bias."""
    first, second = call.args[1], call.args[2]
    out = _matmul(reader, call, first, second)
    bias = reader.axes(call.arg("self"))
    return [broadcast(reader, call, [out, bias], call.shapes[0])]


@handles("mv", "dot", "vdot", "addmv")
def vector_product(reader: Reader, call: Call) -> Sequence[Axes]:
    """A matrix or a vector times a vector."""
    a, b = call.inputs[-2:]
    left, right = reader.axes(a), reader.axes(b)
    unify(left[-1], right[-1], reader.reason(call))
    return [left[:-1]]


@handles("_trilinear")
def bilinear(reader: Reader, call: Call) -> Sequence[Axes]:
    """Three operands with axes of size 1 put in, multiplied, and summed over some axes.

    In a bilinear layer the one in the middle is the weight. PyTorch counts no FLOPs for it.
    """
    operands = []
    for tensor, expanded in zip(call.args[:3], call.args[3:6], strict=True):
        axes = list(reader.axes(tensor))
        for dim in expanded:
            axes.insert(dim, constant(1))
        operands.append(tuple(axes))
    shape = [max(sizes) for sizes in zip(*(map(axis_size, o) for o in operands), strict=True)]
    whole = broadcast(reader, call, operands, shape)
    summed = call.args[6]
    weight = call.args[1]
    outputs, *inputs = reader.axes(weight) if weight.dim() == BILINEAR_RANK else (constant(1),) * 3
    if reader.origin(weight) is not None:
        rows = tuple(segment for axis in inputs for segment in axis)
        reader.layer(weight, "bilinear", rows, outputs, Product(0, []))
    return [tuple(axis for dim, axis in enumerate(whole) if dim not in summed)]


@handles("_cdist_forward", "_euclidean_dist")
def distances(reader: Reader, call: Call) -> Sequence[Axes]:
    """Distances between all rows of two matrices."""
    left, right = (reader.axes(tensor) for tensor in call.inputs[:2])
    unify(left[-1], right[-1], reader.reason(call))
    shape = call.shapes[0]
    batch = broadcast(reader, call, [left[:-2], right[:-2]], shape[:-2])
    return [(*batch, left[-2], right[-2])]


@handles("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(reader: Reader, call: Call) -> Sequence[Axes]:
    """Rows of a table, summed in bags."""
    table, indices = (reader.axes(call.arg(name)) for name in ("weight", "indices"))
    for axis in (table[0], *indices):
        freeze(axis, "rows of a lookup table")
    bags = call.shapes[0]
    summed = (constant(bags[0]), table[1])
    return [summed if shape == bags else constants(shape) for shape in call.shapes]


@handles("embedding")
def embedding(reader: Reader, call: Call) -> Sequence[Axes]:
    """Rows of a table: their number is fixed, their width is free."""
    table = reader.axes(call.arg("weight"))
    freeze(table[0], "rows of a lookup table")
    return [(*reader.axes(call.arg("indices")), table[1])]
