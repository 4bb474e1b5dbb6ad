"""Operations that rearrange a tensor's elements in other axes: views, permutations, shuffles."""

from collections.abc import Iterable, Sequence, Set
from itertools import accumulate, pairwise
from math import prod
from operator import mul

import torch

from precrop.read.axes import (
    Axis,
    Folded,
    axis_of,
    axis_size,
    constant,
    divide,
    freeze,
    is_constant,
    merge,
    proportional,
    require_divisor,
    resolve,
    unfolded,
)
from precrop.read.known import KERNEL_RANK, Axes, constants, fresh_axes
from precrop.read.ops.elementwise import fallback, same_shape
from precrop.read.ops.registry import handles, stating
from precrop.read.reader import Reader
from precrop.read.trace import Call


def _blocks(sizes: list[int], wanted: list[int]) -> list[tuple[int, int, int, int]]:
    """Return the smallest ranges of dims of both shapes with equal products, as index ranges."""
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


def _reshape_block(axes: list[Axis], wanted: list[int], reason: str, kept: Set[int]) -> list[Axis]:
    """Reshape one such range: divide the old axes at all common edges and merge the pieces."""
    if len(axes) == 1 and len(wanted) == 1:
        return axes
    if all(map(is_constant, axes)):
        return [constant(size) for size in wanted]
    sizes = [axis_size(axis) for axis in axes]
    old, new = (list(accumulate(row, mul, initial=1)) for row in (sizes, wanted))
    edges = sorted({*old, *new})
    if any(later % earlier for earlier, later in pairwise(edges)):
        for axis in axes:
            freeze(axis, reason)
        return [constant(size) for size in wanted]
    pieces: dict[int, Axis] = {}
    for axis, low, high in zip(axes, old, old[1:], strict=False):
        inside = [e for e in edges if low <= e <= high]
        factors = tuple(b // a for a, b in pairwise(inside))
        pieces.update(zip(inside, divide(axis, factors, reason, kept), strict=False))
    return [
        merge([pieces[e] for e in edges if low <= e < high], reason) for low, high in pairwise(new)
    ]


def _open_kernels(reader: Reader, call: Call) -> None:
    """Give a flat mixture of experts' kernels two widths where it is viewed as a kernel."""
    shape, name = call.shapes[0], reader.fact(call.inputs[0]).mixture
    if name is None or len(shape) < KERNEL_RANK or shape[-1] != shape[-2]:
        return
    flat = resolve(reader.axes(call.inputs[0])[-1])
    atom, count = flat[0]
    kernel, inner = shape[2:], prod(shape[1:])
    if len(flat) > 1 or count > 1 or atom is None or not atom.is_free() or atom.size % inner:
        return
    ends = (atom.size // inner, shape[1])
    atom.become(axis_of(Folded([*fresh_axes(ends, name), *constants(kernel)], name)))


@handles("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "view_copy")
def reshape(reader: Reader, call: Call) -> Sequence[Axes]:
    """Align the old and new axes in the smallest ranges of equal size and reshape each."""
    if isinstance(call.args[1], torch.dtype):
        return same_shape(reader, call)
    _open_kernels(reader, call)
    axes, shape = reader.axes(call.inputs[0]), call.shapes[0]
    if prod(shape) == 0 or all(map(is_constant, axes)):
        reader.freeze(*axes)
        return [constants(shape)]
    old = [part for axis in axes for part in unfolded(axis) if axis_size(part) != 1]
    wanted = [size for size in shape if size != 1]
    new: list[Axis] = []
    for a, b, c, d in _blocks([axis_size(axis) for axis in old], wanted):
        new += _reshape_block(old[a:b], wanted[c:d], reader.reason, reader.kept)
    return [stating(reader, "size", _around_ones(new, shape))]


def _around_ones(axes: Iterable[Axis], shape: Sequence[int]) -> Axes:
    """Return the axes of a tensor of some shape, given those that are larger than 1."""
    rest = iter(axes)
    return tuple(constant(1) if size == 1 else next(rest) for size in shape)


@handles("set")
def set_(reader: Reader, call: Call) -> Sequence[Axes]:
    """Empty a tensor, or give it another one's storage and axes."""
    sources, shape = call.inputs[1:], call.shapes[0]
    if not prod(shape):
        return [constants(shape)]
    axes = reader.axes(sources[0]) if sources else ()
    return [axes] if tuple(map(axis_size, axes)) == shape else fallback(reader, call)


@handles("permute")
def permute(reader: Reader, call: Call) -> Sequence[Axes]:
    """Put axes in another order."""
    axes = reader.axes(call.arg("self"))
    return [tuple(axes[dim] for dim in call.arg("dims"))]


@handles("transpose", "t", "swapaxes", "swapdims")
def transpose(reader: Reader, call: Call) -> Sequence[Axes]:
    """Exchange two axes."""
    axes = list(reader.axes(call.arg("self")))
    if len(axes) > 1:
        a, b = call.arg("dim0", 0), call.arg("dim1", 1)
        axes[a], axes[b] = axes[b], axes[a]
    return [tuple(axes)]


@handles("rot90")
def rotate(reader: Reader, call: Call) -> Sequence[Axes]:
    """Exchange two axes if the turn is by an odd number of quarters."""
    axes = list(reader.axes(call.arg("self")))
    if call.arg("k") % 2:
        a, b = call.arg("dims")
        axes[a], axes[b] = axes[b], axes[a]
    return [tuple(axes)]


@handles("diag_embed")
def diag_embed(reader: Reader, call: Call) -> Sequence[Axes]:
    """Put rows on the diagonal of matrices, both of whose sides have the rows' width."""
    *batch, side = reader.axes(call.arg("self"))
    if call.arg("offset"):
        return fallback(reader, call)
    first, second = sorted(call.arg(name) % len(call.shapes[0]) for name in ("dim1", "dim2"))
    batch.insert(first, side)
    batch.insert(second, side)
    return [tuple(batch)]


@handles("squeeze", "unsqueeze", "squeeze_copy", "unsqueeze_copy")
def squeeze(reader: Reader, call: Call) -> Sequence[Axes]:
    """Insert or remove axes of size 1."""
    kept = [axis for axis in reader.axes(call.arg("self")) if axis_size(axis) != 1]
    return [_around_ones(kept, call.shapes[0])]


@handles("as_strided")
def as_strided(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep the axes if only the strides change, as in a global pool; else freeze them."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    if [axis_size(a) for a in axes if axis_size(a) != 1] == [n for n in shape if n != 1]:
        return squeeze(reader, call)
    return fallback(reader, call)


@handles("expand", "expand_copy")
def expand(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give an expanded axis of size 1 a new width, which unifies with what it meets."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    axes = (*constants((1,) * (len(shape) - len(axes))), *axes)
    result = [
        axis if axis_size(axis) == size else fresh_axes((size,), reader.reason)[0]
        for axis, size in zip(axes, shape, strict=True)
    ]
    return [stating(reader, "size", result)]


@handles("pixel_shuffle")
def pixel_shuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Move channels to pixels; the width stays divisible by the square of the factor."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    channels = _quotient(axes[-3], shape[-3], reader.reason)
    return [(*axes[:-3], channels, *constants(shape[-2:]))]


def _quotient(axis: Axis, size: int, reason: str) -> Axis:
    """Return an axis divided by a fixed number, which leaves ``size``."""
    factor = axis_size(axis) // size
    if all(count % factor == 0 for _, count in resolve(axis)):
        return divide(axis, (size, factor), reason)[0]
    require_divisor(axis, factor, reason)
    return proportional(axis, size, reason)


@handles("pixel_unshuffle")
def pixel_unshuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Move pixels to channels."""
    axes, shape = reader.axes(call.arg("self")), call.shapes[0]
    square = call.arg("downscale_factor") ** 2
    channels = merge([axes[-3], constant(square)], reader.reason)
    return [(*axes[:-3], channels, *constants(shape[-2:]))]


@handles("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep the channels divisible by the fixed number of groups that they are dealt to."""
    axes = reader.axes(call.arg("self"))
    require_divisor(axes[1], call.arg("groups"), reader.reason)
    return [axes]


@handles("im2col")
def im2col(reader: Reader, call: Call) -> Sequence[Axes]:
    """Turn windows into channels; freeze a spatial axis unless a window spans all of it."""
    batch, channels, *space = reader.axes(call.arg("self"))
    window = []
    for dim, (axis, size) in enumerate(zip(space, call.arg("kernel_size"), strict=True)):
        padding, dilation = call.arg("padding")[dim], call.arg("dilation")[dim]
        if (axis_size(axis), padding, dilation) == (size, 0, 1):
            for name in ("kernel_size", "stride"):
                if call.arg(name)[dim] == size:
                    reader.literal(name, dim, axis)
        else:
            reader.freeze(axis)
            axis = constant(size)
        window.append(axis)
    return [(batch, merge([channels, *window], reader.reason), constant(call.shapes[0][2]))]


@handles("col2im")
def col2im(reader: Reader, call: Call) -> Sequence[Axes]:
    """Turn channels into windows of an image."""
    (batch, channels, *_), shape = reader.axes(call.arg("self")), call.shapes[0]
    return [(batch, _quotient(channels, shape[1], reader.reason), *constants(shape[2:]))]


@handles("view_as_real")
def view_as_real(reader: Reader, call: Call) -> Sequence[Axes]:
    """Add an axis of size 2 for the real and imaginary parts."""
    return [(*reader.axes(call.arg("self")), constant(2))]


@handles("view_as_complex")
def view_as_complex(reader: Reader, call: Call) -> Sequence[Axes]:
    """Remove the last axis, of real and imaginary parts."""
    return [reader.axes(call.arg("self"))[:-1]]
