"""What each ATen operation means for the sizes of its operands: one small handler an operation.

A handler receives the reader and a call and returns the axes of the call's outputs. On the way it
unites axes that must agree, ties those that must stay proportional and freezes what it cannot
follow. An operation that is in no table is treated as elementwise when ATen tags it so; any other
keeps the widths that reach it fixed.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from precrop.read.axes import (
    Axis,
    axis_size,
    constant,
    cut,
    divide,
    freeze,
    is_constant,
    merge,
    proportional,
    require_divisor,
    resolve,
    tie,
    unify,
)
from precrop.read.reader import Axes, Handler, Product, Reader, fresh_axes
from precrop.read.trace import Call, input_tensors

HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations by their base names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


def constants(shape: Sequence[int]) -> Axes:
    """Axes of a tensor that no width reaches."""
    return tuple(map(constant, shape))


def fallback(reader: Reader, call: Call) -> Sequence[Axes]:
    """Elementwise where ATen says so; else everything that reaches the call stays as it is."""
    if not input_tensors(call):  # positions and the like: arange, linspace, eye
        return [constants(shape) for shape in call.shapes]
    if torch.Tag.pointwise in call.op.tags:
        return elementwise(reader, call)
    for tensor in input_tensors(call):
        for axis in reader.axes(tensor):
            freeze(axis, reader.reason(call))
    return [constants(shape) for shape in call.shapes]


def _broadcast(reader: Reader, call: Call, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Unite the axes of operands that are aligned from the last one on."""
    result: list[Axis] = []
    for position in range(1, len(shape) + 1):
        axis: Axis | None = None
        for axes in operands:
            if position > len(axes):
                continue
            other = axes[-position]
            if axis is None or (axis_size(axis) == 1 and axis_size(other) != 1):
                axis = other
            elif axis_size(other) == axis_size(axis):
                axis = unify(axis, other, reader.reason(call))
        result.append(constant(shape[-position]) if axis is None else axis)
    return tuple(reversed(result))


@handles(
    "copy", "masked_fill", "where", "lerp", "bernoulli", "dropout", "native_dropout", "hardswish",
    "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "gelu",
    "prelu", "_prelu_kernel", "rrelu", "threshold", "softplus", "hardshrink", "softshrink",
    "log_sigmoid", "relu", "sigmoid", "tanh", "clamp", "rrelu_with_noise", "log_sigmoid_forward",
    "_to_copy", "expand_as", "rsub", "addcmul", "addcdiv", "nan_to_num", "masked_fill",
)  # fmt: skip
def elementwise(reader: Reader, call: Call) -> Sequence[Axes]:
    """Corresponding axes are one."""
    operands = [reader.axes(tensor) for tensor in input_tensors(call)]
    return [_broadcast(reader, call, operands, shape) for shape in call.shapes]


@handles(
    "clone", "contiguous", "alias", "detach", "lift_fresh", "_softmax", "_log_softmax",
    "cumsum", "flip", "roll", "fill", "zero", "empty_like", "zeros_like", "ones_like", "rand_like",
    "randn_like", "full_like", "tril", "triu", "normal", "uniform", "sort", "_pin_memory",
    "_fft_c2c", "random", "exponential", "trunc_normal",
)  # fmt: skip
def same_shape(reader: Reader, call: Call) -> Sequence[Axes]:
    """The output has the first operand's axes."""
    axes = reader.axes(input_tensors(call)[0])
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


# --- layers ---------------------------------------------------------------------------------


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
    space = _space(reader, call, data[2:], kernel[2:])
    window = prod(weight.shape[2:])
    product = Product(window, [data[0], outputs, kernel[1], *space])
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


def _space(reader: Reader, call: Call, space: Axes, window: Axes) -> Axes:
    """Axes that a kernel moves along; a width among them (ECA) is kept if its size is."""
    for axis in window:
        freeze(axis, "a kernel's size")
    shape = call.shapes[0]
    kept = []
    for axis, size in zip(space, shape[len(shape) - len(space) :], strict=True):
        if axis_size(axis) != size:
            freeze(axis, reader.reason(call))
        kept.append(axis if axis_size(axis) == size else constant(size))
    return tuple(kept)


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
    space = _space(reader, call, data[2:], kernel[2:])
    window = prod(weight.shape[2:])
    product = Product(window, [data[0], inputs, kernel[1], *data[2:]])
    reader.layer(weight, kind, inputs, outputs, product)
    return [(data[0], outputs, *space)]


def _matmul(reader: Reader, call: Call, a: Tensor, b: Tensor) -> Axes:
    """Contract the last axis of ``a`` with the one before last of ``b``; others are kept."""
    left, right, reason = reader.axes(a), reader.axes(b), reader.reason(call)
    inner = unify(left[-1], right[-2], reason)
    batch = [unify(m, n, reason) for m, n in zip(left[:-2], right[:-2], strict=True)]
    product = Product(1, [*batch, left[-2], inner, right[-1]])
    if reader.origin(b) is not None:
        reader.layer(b, "linear", inner, right[-1], product)
    else:
        reader.layer(a, "linear", inner, left[-2], product)
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
    return [_broadcast(reader, call, [out, bias], call.shapes[0])]


@handles("mv", "dot", "addmv")
def vector_product(reader: Reader, call: Call) -> Sequence[Axes]:
    """A matrix or a vector times a vector."""
    a, b = input_tensors(call)[-2:]
    left, right = reader.axes(a), reader.axes(b)
    unify(left[-1], right[-1], reader.reason(call))
    return [left[:-1]]


@handles("embedding")
def embedding(reader: Reader, call: Call) -> Sequence[Axes]:
    """Rows of a table: their number is fixed, their width is free."""
    table = reader.axes(call.arg("weight"))
    freeze(table[0], "rows of a lookup table")
    return [(*reader.axes(call.arg("indices")), table[1])]


# --- normalisation --------------------------------------------------------------------------


@handles("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
         "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm")  # fmt: skip
def batch_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Statistics, scale and shift have the width of axis 1."""
    x = reader.axes(call.arg("input"))
    channels = x[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.arg(name)
        if tensor is not None:
            channels = unify(channels, reader.axes(tensor)[0], reader.reason(call))
    statistics = [(channels,) if s == (axis_size(channels),) else constants(s)
                  for s in call.shapes[1:]]  # fmt: skip
    return [(x[0], channels, *x[2:]), *statistics]


@handles("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Scale and shift have the trailing axes."""
    x = list(reader.axes(call.arg("input")))
    normalized = call.arg("normalized_shape")
    first = len(x) - len(normalized)
    for name in ("weight", "bias"):
        tensor = call.arg(name)
        if tensor is not None:
            for i, axis in enumerate(reader.axes(tensor)):
                x[first + i] = unify(x[first + i], axis, reader.reason(call))
    for i in range(len(normalized)):
        reader.literal("normalized_shape", i, x[first + i])
    return [
        tuple(x),
        *(tuple(x[:first]) + constants(shape[first:]) for shape in call.shapes[1:]),
    ]


@handles("native_group_norm")
def group_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """The width stays divisible by the number of groups."""
    x = list(reader.axes(call.arg("input")))
    for name in ("weight", "bias"):
        tensor = call.arg(name)
        if tensor is not None:
            x[1] = unify(x[1], reader.axes(tensor)[0], reader.reason(call))
    require_divisor(x[1], call.arg("group"), reader.reason(call))
    return [tuple(x)]


# --- rows of channels -------------------------------------------------------------------------


@handles("cat")
def concatenate(reader: Reader, call: Call) -> Sequence[Axes]:
    """Segments in a row along one axis; the other axes agree."""
    operands = [reader.axes(t) for t in call.arg("tensors")]
    # An empty vector is skipped, whatever the others' rank.
    operands = [axes for axes in operands if axes != constants((0,))] or operands[:1]
    dim = call.arg("dim", 0) % len(operands[0])
    row: list[Axis] = list(operands[0])
    for axes in operands[1:]:
        for i, axis in enumerate(axes):
            if i == dim:
                row[i] = (*row[i], *axis)
            else:
                row[i] = unify(row[i], axis, reader.reason(call))
    row[dim] = resolve(row[dim])
    return [tuple(row)]


@handles("stack")
def stack(reader: Reader, call: Call) -> Sequence[Axes]:
    """A new axis of fixed size."""
    operands = [reader.axes(t) for t in call.arg("tensors")]
    shape = call.shapes[0]
    dim = call.arg("dim", 0) % len(shape)
    axes = list(_broadcast(reader, call, operands, shape[:dim] + shape[dim + 1 :]))
    axes.insert(dim, constant(shape[dim]))
    return [tuple(axes)]


def _pieces(axis: Axis, sizes: Sequence[int], *, tied: bool) -> list[Axis]:
    pieces: list[Axis] = []
    for size in sizes:
        piece, axis = cut(axis, size, tied=tied)
        pieces.append(piece)
    return pieces


@handles("split", "unsafe_split", "chunk", "unsafe_chunk")
def split(reader: Reader, call: Call) -> Sequence[Axes]:
    """Equal pieces: one number sizes them all, so they are one width."""
    axes = reader.axes(call.arg("self"))
    dim = call.arg("dim", 0) % len(axes)
    if is_constant(axes[dim]):
        return [(*axes[:dim], constant(s[dim]), *axes[dim + 1 :]) for s in call.shapes]
    sizes = [shape[dim] for shape in call.shapes]
    pieces = _pieces(axes[dim], sizes, tied=len(set(sizes)) > 1)
    if len(set(sizes)) > 1:
        tie(pieces)
    else:
        for piece in pieces[1:]:
            unify(pieces[0], piece, reader.reason(call))
    reader.literal("split_size", None, pieces[0])
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


@handles("split_with_sizes", "unsafe_split_with_sizes")
def split_with_sizes(reader: Reader, call: Call) -> Sequence[Axes]:
    """Pieces of their own sizes."""
    axes = reader.axes(call.arg("self"))
    dim = call.arg("dim", 0) % len(axes)
    pieces = _pieces(axes[dim], [shape[dim] for shape in call.shapes], tied=False)
    for index, piece in enumerate(pieces):
        reader.literal("split_sizes", index, piece)
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


@handles("slice")
def slice_(reader: Reader, call: Call) -> Sequence[Axes]:
    """A stretch of an axis; a step other than 1 keeps the ratio."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim", 0) % len(axes)
    axis, size = axes[dim], axis_size(axes[dim])
    if is_constant(axis):
        axes[dim] = constant(call.shapes[0][dim])
        return [tuple(axes)]
    step = call.arg("step", 1)
    if step != 1:
        axes[dim] = proportional(axis, call.shapes[0][dim], reader.reason(call))
        return [tuple(axes)]
    start = call.arg("start") or 0
    end = size if call.arg("end") is None else call.arg("end")
    start, end = (max(0, min(size, v + size if v < 0 else v)) for v in (start, end))
    before, rest = cut(axis, start)
    axes[dim], after = cut(rest, end - start)
    before = cut(axis, start)[0]  # its atoms may have been divided by the second cut
    if call.arg("start"):
        reader.literal("start", None, before if call.arg("start") > 0 else (*axes[dim], *after))
    if call.arg("end") is not None and abs(call.arg("end")) <= size:
        reader.literal("end", None, (*before, *axes[dim]) if call.arg("end") > 0 else after)
    return [tuple(axes)]


@handles("select")
def select(reader: Reader, call: Call) -> Sequence[Axes]:
    """One entry of an axis, which stays fixed."""
    axes = reader.axes(call.arg("self"))
    dim = call.arg("dim") % len(axes)
    freeze(axes[dim], reader.reason(call))
    return [axes[:dim] + axes[dim + 1 :]]


@handles("unbind")
def unbind(reader: Reader, call: Call) -> Sequence[Axes]:
    """All entries of an axis, which stays fixed."""
    axes = reader.axes(call.arg("self"))
    dim = call.arg("dim", 0) % len(axes)
    freeze(axes[dim], reader.reason(call))
    return [axes[:dim] + axes[dim + 1 :] for _ in call.shapes]


@handles("glu")
def glu(reader: Reader, call: Call) -> Sequence[Axes]:
    """Two equal halves of an axis, one the other's gate."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim", -1) % len(axes)
    half = call.shapes[0][dim]
    value, gate = _pieces(axes[dim], [half, half], tied=False)
    axes[dim] = unify(value, gate, reader.reason(call))
    return [tuple(axes)]


@handles("constant_pad_nd")
def pad(reader: Reader, call: Call) -> Sequence[Axes]:
    """Fresh channels before and behind; negative padding cuts."""
    axes, amounts = list(reader.axes(call.arg("self"))), list(call.arg("pad"))
    for i in range(len(amounts) // 2):
        dim = len(axes) - 1 - i
        before, behind = amounts[2 * i], amounts[2 * i + 1]
        if before == behind == 0:
            continue
        if is_constant(axes[dim]) or min(before, behind) < 0:
            freeze(axes[dim], reader.reason(call))
            axes[dim] = constant(call.shapes[0][dim])
            continue
        ends = [fresh_axes((n,), reader.reason(call))[0] if n else () for n in (before, behind)]
        for j, end in enumerate(ends):
            if end:
                reader.literal("pad", 2 * i + j, end)
        axes[dim] = (*ends[0], *axes[dim], *ends[1])
    return [tuple(axes)]


@handles("repeat")
def repeat(reader: Reader, call: Call) -> Sequence[Axes]:
    """An axis several times in a row."""
    repeats, axes = call.arg("repeats"), reader.axes(call.arg("self"))
    axes = (*constants((1,) * (len(repeats) - len(axes))), *axes)
    return [tuple(merge([constant(n), axis], reader.reason(call))
                  for n, axis in zip(repeats, axes, strict=True))]  # fmt: skip


@handles("repeat_interleave")
def repeat_interleave(reader: Reader, call: Call) -> Sequence[Axes]:
    """Every channel several times."""
    axes, repeats, dim = list(reader.axes(call.args[0])), call.args[1], call.arg("dim")
    if dim is None or not isinstance(repeats, int):
        return fallback(reader, call)
    axes[dim] = merge([axes[dim], constant(repeats)], reader.reason(call))
    return [tuple(axes)]


# --- reshaping ----------------------------------------------------------------------------------


def _blocks(sizes: list[int], wanted: list[int]) -> list[tuple[int, int, int, int]]:
    """Smallest stretches of both shapes with equal products, as index ranges."""
    blocks = []
    i = j = 0
    while i < len(sizes) and j < len(wanted):
        start, stop = (i, j)
        left, right = sizes[i], wanted[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * sizes[i], i + 1
            else:
                right, j = right * wanted[j], j + 1
        blocks.append((start, i, stop, j))
    return blocks


def _edges(sizes: Sequence[int]) -> list[int]:
    edges = [1]
    for size in sizes:
        edges.append(edges[-1] * size)
    return edges


def _reshape_block(axes: list[Axis], wanted: list[int], reason: str) -> list[Axis]:
    """One stretch: divide the old axes and merge the pieces at common edges."""
    if len(axes) == 1 and len(wanted) == 1:
        return axes
    if all(map(is_constant, axes)):
        return [constant(size) for size in wanted]
    old, new = _edges([axis_size(axis) for axis in axes]), _edges(wanted)
    edges = sorted({*old, *new})
    if any(later % earlier for earlier, later in pairwise(edges)):
        for axis in axes:
            freeze(axis, reason)
        return [constant(size) for size in wanted]
    pieces: dict[int, Axis] = {}
    for axis, low, high in zip(axes, old, old[1:], strict=False):
        inside = [e for e in edges if low <= e <= high]
        factors = tuple(b // a for a, b in pairwise(inside))
        pieces.update(zip(inside, divide(axis, factors, reason), strict=False))
    return [
        merge([pieces[e] for e in edges if low <= e < high], reason) for low, high in pairwise(new)
    ]


@handles("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "view_copy")
def reshape(reader: Reader, call: Call) -> Sequence[Axes]:
    """The same elements in other axes, aligned in the smallest stretches of equal size."""
    axes, shape, reason = reader.axes(call.args[0]), call.shapes[0], reader.reason(call)
    if isinstance(call.args[1], torch.dtype):
        return same_shape(reader, call)
    if prod(shape) == 0 or all(map(is_constant, axes)):
        for axis in axes:
            freeze(axis, reason)
        return [constants(shape)]
    old = [axis for axis in axes if axis_size(axis) != 1]
    wanted = [size for size in shape if size != 1]
    new: list[Axis] = []
    for a, b, c, d in _blocks([axis_size(axis) for axis in old], wanted):
        new += _reshape_block(old[a:b], wanted[c:d], reason)
    rest = iter(new)
    result = tuple(constant(1) if size == 1 else next(rest) for size in shape)
    for index, axis in enumerate(result):
        reader.literal("size", index, axis)
    return [result]


@handles("permute")
def permute(reader: Reader, call: Call) -> Sequence[Axes]:
    """Axes in another order."""
    axes = reader.axes(call.arg("self"))
    return [tuple(axes[dim] for dim in call.arg("dims"))]


@handles("transpose", "t", "swapaxes", "swapdims")
def transpose(reader: Reader, call: Call) -> Sequence[Axes]:
    """Two axes exchanged."""
    axes = list(reader.axes(call.arg("self")))
    if len(axes) > 1:
        a, b = call.arg("dim0", 0), call.arg("dim1", 1)
        axes[a], axes[b] = axes[b], axes[a]
    return [tuple(axes)]


@handles("squeeze", "unsqueeze", "squeeze_copy", "unsqueeze_copy")
def squeeze(reader: Reader, call: Call) -> Sequence[Axes]:
    """Axes of size 1 come or go."""
    rest = iter([a for a in reader.axes(call.arg("self")) if axis_size(a) != 1])
    return [tuple(constant(1) if n == 1 else next(rest) for n in call.shapes[0])]


@handles("as_strided")
def as_strided(reader: Reader, call: Call) -> Sequence[Axes]:
    """A change of strides only, as in a global pool, keeps the axes; any other freezes them."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    if [axis_size(a) for a in axes if axis_size(a) != 1] == [n for n in shape if n != 1]:
        return squeeze(reader, call)
    return fallback(reader, call)


@handles("expand", "expand_copy")
def expand(reader: Reader, call: Call) -> Sequence[Axes]:
    """An axis of size 1 takes the width of what it meets."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    axes = (*constants((1,) * (len(shape) - len(axes))), *axes)
    result = tuple(
        axis if axis_size(axis) == size else fresh_axes((size,), reader.reason(call))[0]
        for axis, size in zip(axes, shape, strict=True)
    )
    for index, axis in enumerate(result):
        reader.literal("size", index, axis)
    return [result]


@handles("pixel_shuffle")
def pixel_shuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Channels become pixels: the width stays divisible by the square of the factor."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    channels = _quotient(axes[-3], shape[-3], reader.reason(call))
    return [(*axes[:-3], channels, *constants(shape[-2:]))]


def _quotient(axis: Axis, size: int, reason: str) -> Axis:
    """An axis divided by a fixed number, so that ``size`` is left of it."""
    factor = axis_size(axis) // size
    if all(count % factor == 0 for _, count in resolve(axis)):
        return divide(axis, (size, factor), reason)[0]
    require_divisor(axis, factor, reason)
    return proportional(axis, size, reason)


@handles("pixel_unshuffle")
def pixel_unshuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Pixels become channels."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    square = call.arg("downscale_factor") ** 2
    channels = merge([axes[-3], constant(square)], reader.reason(call))
    return [(*axes[:-3], channels, *constants(shape[-2:]))]


@handles("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Channels are dealt out in turn to a fixed number of groups."""
    axes = reader.axes(call.arg("self"))
    require_divisor(axes[1], call.arg("groups"), reader.reason(call))
    return [axes]


@handles("im2col")
def im2col(reader: Reader, call: Call) -> Sequence[Axes]:
    """Windows of an image as channels."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    window = prod(call.arg("kernel_size"))
    return [(axes[0], merge([axes[1], constant(window)], reader.reason(call)), constant(shape[2]))]


@handles("col2im")
def col2im(reader: Reader, call: Call) -> Sequence[Axes]:
    """Channels as windows of an image."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    return [(axes[0], _quotient(axes[1], shape[1], reader.reason(call)), *constants(shape[2:]))]


@handles("unfold")
def unfold(reader: Reader, call: Call) -> Sequence[Axes]:
    """Windows along one axis, which stays fixed."""
    axes, shape = list(reader.axes(call.arg("self"))), call.shapes[0]
    dim = call.arg("dimension") % len(axes)
    freeze(axes[dim], reader.reason(call))
    axes[dim] = constant(shape[dim])
    return [(*axes, constant(shape[-1]))]


@handles("view_as_real")
def view_as_real(reader: Reader, call: Call) -> Sequence[Axes]:
    """Complex numbers as pairs."""
    return [(*reader.axes(call.arg("self")), constant(2))]


@handles("view_as_complex")
def view_as_complex(reader: Reader, call: Call) -> Sequence[Axes]:
    """Pairs as complex numbers."""
    return [reader.axes(call.arg("self"))[:-1]]


# --- space ------------------------------------------------------------------------------------


@handles(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "max_pool1d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest1d",
    "upsample_linear1d", "upsample_trilinear3d", "upsample_nearest3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d", "reflection_pad2d", "replication_pad2d",
    "reflection_pad1d", "replication_pad1d", "replication_pad3d", "avg_pool1d", "grid_sampler_2d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_avg_pool1d", "max_unpool2d",
    "grid_sampler_3d", "fractional_max_pool2d", "adaptive_max_pool1d",
)  # fmt: skip
def spatial(reader: Reader, call: Call) -> Sequence[Axes]:
    """Batch and channels are kept; the axes behind them are resampled."""
    axes = reader.axes(input_tensors(call)[0])
    kept = len(axes) - next((n for tag, n in _SPATIAL_AXES.items() if tag in call.name), 2)
    return [(*axes[:kept], *_space(reader, call, axes[kept:], ()))] * len(call.shapes)


_SPATIAL_AXES = {"1d": 1, "2d": 2, "3d": 3}


@handles("roi_align", "roi_pool", "ps_roi_align", "_roi_align")
def roi_align(reader: Reader, call: Call) -> Sequence[Axes]:
    """Regions of a map, with the map's channels."""
    channels = reader.axes(input_tensors(call)[0])[1]
    return [(constant(s[0]), channels, *constants(s[2:])) for s in call.shapes]


# --- reduction, lookup --------------------------------------------------------------------------


@handles(
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
    "linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin", "nansum", "median",
)  # fmt: skip
def reduce(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some axes are summed over; the others are kept."""
    tensors = input_tensors(call)
    if len(tensors) > 1:
        return elementwise(reader, call)
    axes = reader.axes(tensors[0])
    dims = call.arg("dim")
    if dims is None or dims == []:
        dims = range(len(axes))
    dims = {d % len(axes) for d in ([dims] if isinstance(dims, int) else dims)} if axes else set()
    keep = bool(call.arg("keepdim", False))
    out = tuple(
        constant(1) if i in dims else axis for i, axis in enumerate(axes) if keep or i not in dims
    )
    return [out for _ in call.shapes]


@handles("topk")
def topk(reader: Reader, call: Call) -> Sequence[Axes]:
    """The largest entries of an axis, which stays fixed."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim", -1) % len(axes)
    freeze(axes[dim], reader.reason(call))
    axes[dim] = constant(call.shapes[0][dim])
    return [tuple(axes) for _ in call.shapes]


def _indexed(indices: Sequence[Tensor | None]) -> tuple[list[int], int]:
    """The axes that index tensors take (a mask takes several) and their common rank."""
    dims: list[int] = []
    rank, dim = 0, 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype == torch.bool else 1
        if index is not None:
            dims += range(dim, dim + width)
            rank = max(rank, 1 if index.dtype == torch.bool else index.dim())
        dim += width
    return dims, rank


@handles("index")
def index(reader: Reader, call: Call) -> Sequence[Axes]:
    """Indexed axes stay fixed; the others are kept."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    dims, rank = _indexed(call.arg("indices"))
    for tensor in input_tensors(call)[1:]:
        for axis in reader.axes(tensor):
            freeze(axis, reader.reason(call))
    for dim in dims:
        freeze(axes[dim], reader.reason(call))
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    start = dims[0] if adjacent else 0
    kept = [axis for dim, axis in enumerate(axes) if dim not in dims]
    return [(*kept[:start], *constants(shape[start : start + rank]), *kept[start:])]


@handles("index_put", "_unsafe_index_put")
def index_put(reader: Reader, call: Call) -> Sequence[Axes]:
    """Values written at indexed places; the axes behind those agree."""
    axes, values = reader.axes(call.arg("self")), reader.axes(call.arg("values"))
    dims, _ = _indexed(call.arg("indices"))
    for dim in dims:
        freeze(axes[dim], reader.reason(call))
    result = list(axes)
    for back in range(1, min(len(axes) - dims[-1], len(values) + 1)):
        if axis_size(axes[-back]) == axis_size(values[-back]):
            result[-back] = unify(axes[-back], values[-back], reader.reason(call))
    return [tuple(result)]


@handles("index_select")
def index_select(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of one axis, which stays fixed."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim") % len(axes)
    freeze(axes[dim], reader.reason(call))
    axes[dim] = constant(call.shapes[0][dim])
    return [tuple(axes)]


@handles("gather")
def gather(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries looked up along one axis; the others agree with the index where they are equal."""
    axes, places = reader.axes(call.arg("self")), reader.axes(call.arg("index"))
    dim = call.arg("dim") % len(axes)
    freeze(axes[dim], reader.reason(call))
    freeze(places[dim], reader.reason(call))
    return [
        tuple(
            place if i == dim or axis_size(place) != axis_size(axis)
            else unify(axis, place, reader.reason(call))
            for i, (axis, place) in enumerate(zip(axes, places, strict=True))
        )
    ]  # fmt: skip
