"""Operations that concatenate, cut, pad or repeat axes as rows of segments."""

from collections.abc import Iterable, Sequence

from precrop.read.axes import (
    Axis,
    axis_size,
    constant,
    cut,
    is_constant,
    merge,
    proportional,
    resolve,
    tie,
)
from precrop.read.known import Axes, constants, fresh_axes
from precrop.read.ops.registry import along, broadcast, fixed, handles, stating
from precrop.read.reader import Reader
from precrop.read.trace import Call


@handles("cat")
def concatenate(reader: Reader, call: Call) -> Sequence[Axes]:
    """Put the segments in a row along one axis; unify the other axes.

    One map many times over is expanded to the width of what it meets, as by `repeat`.
    """
    operands = [reader.axes(tensor) for tensor in call.inputs]
    # PyTorch skips empty vectors, whatever the others' rank.
    first, *others = [axes for axes in operands if axes != constants((0,))] or operands[:1]
    dim = call.arg("dim") % len(first)
    row = list(first)
    if axis_size(row[dim]) == 1 and others and len({one.number for one in call.inputs}) == 1:
        (row[dim],) = fresh_axes((len(operands),), reader.reason)
        reader.literal("tensors", None, row[dim])
        return [tuple(row)]
    for axes in others:
        for i, axis in enumerate(axes):
            row[i] = (*row[i], *axis) if i == dim else reader.unify(row[i], axis)
    row[dim] = resolve(row[dim])
    return [tuple(row)]


@handles("block_diag")
def block_diag(reader: Reader, call: Call) -> Sequence[Axes]:
    """Put the matrices' segments in a row along both axes; a vector is a matrix of one row."""
    matrices = [(constant(1),) * 2 + reader.axes(tensor) for tensor in call.inputs]
    rows, columns = ([axes[place] for axes in matrices] for place in (-2, -1))
    return [tuple(resolve(tuple(s for a in ends for s in a)) for ends in (rows, columns))]


@handles("stack")
def stack(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify the operands' axes and insert a new one of constant size."""
    operands, shape = [reader.axes(tensor) for tensor in call.inputs], call.shapes[0]
    dim = call.arg("dim") % len(shape)
    axes = broadcast(reader, operands, shape[:dim] + shape[dim + 1 :])
    return [(*axes[:dim], constant(shape[dim]), *axes[dim:])]


def _pieces(axis: Axis, sizes: Sequence[int], *, tied: bool = False) -> list[Axis]:
    pieces: list[Axis] = []
    for size in sizes:
        piece, axis = cut(axis, size, tied=tied)
        pieces.append(piece)
    return pieces


@handles("split", "unsafe_split", "chunk", "unsafe_chunk")
def split(reader: Reader, call: Call) -> Sequence[Axes]:
    """Cut an axis into equal pieces, which become one width; tie them if one is smaller."""
    axes, dim = along(reader, call)
    sizes = [shape[dim] for shape in call.shapes]
    if is_constant(axes[dim]):
        return _in_place_of(axes, dim, map(constant, sizes))
    uneven = len(set(sizes)) > 1
    pieces = _pieces(axes[dim], sizes, tied=uneven)
    if uneven:
        tie(pieces)
    else:
        for piece in pieces[1:]:
            reader.unify(pieces[0], piece)
    reader.literal("split_size", None, pieces[0])
    reader.stretches(call.inputs[0])
    return _in_place_of(axes, dim, pieces)


@handles("split_with_sizes", "unsafe_split_with_sizes")
def split_with_sizes(reader: Reader, call: Call) -> Sequence[Axes]:
    """Cut an axis into pieces of the sizes given, each a width of its own."""
    axes, dim = along(reader, call)
    pieces = _pieces(axes[dim], [shape[dim] for shape in call.shapes])
    stating(reader, "split_sizes", pieces)
    reader.stretches(call.inputs[0])
    return _in_place_of(axes, dim, pieces)


def _in_place_of(axes: Sequence[Axis], dim: int, pieces: Iterable[Axis]) -> list[Axes]:
    """Return, for every piece, the axes with the piece in the place of axis ``dim``."""
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


@handles("slice")
def slice_(reader: Reader, call: Call) -> Sequence[Axes]:
    """Cut a slice out of an axis; with a step other than 1 it stays proportional to the axis."""
    axes, dim = along(reader, call)
    axis, shape = axes[dim], call.shapes[0]
    if is_constant(axis):
        axes[dim] = constant(shape[dim])
    elif reader.ranks(call.inputs[0], axis):
        axes[dim] = fresh_axes(shape, reader.reason)[dim]
    elif call.arg("step") != 1:
        axes[dim] = proportional(axis, shape[dim], reader.reason)
    else:
        axes[dim] = _stretch(reader, axis, call.arg("start"), call.arg("end"))
        reader.stretches(call.inputs[0])
    return [tuple(axes)]


def _stretch(reader: Reader, axis: Axis, start: int | None, end: int | None) -> Axis:
    """Return the slice of an axis between two bounds, and note the sizes that these state."""
    size = axis_size(axis)
    bounds = (start or 0, size if end is None else end)
    first, last = (max(0, min(size, v + size if v < 0 else v)) for v in bounds)
    if last - first == 1 and (first == 0 or start == -1):
        return constant(1)  # the first or the last channel, which exists at any width
    _, rest = cut(axis, first)
    stretch, after = cut(rest, last - first)
    before = cut(axis, first)[0]  # anew, as the second cut may have divided its atoms
    if start:
        reader.literal("start", None, before if start > 0 else (*stretch, *after))
    if end is not None and abs(end) <= size:
        reader.literal("end", None, (*before, *stretch) if end > 0 else after)
    return stretch


@handles("glu")
def glu(reader: Reader, call: Call) -> Sequence[Axes]:
    """Cut an axis into halves of one width: values and their gates."""
    axes, dim = along(reader, call)
    value, gate = _pieces(axes[dim], [call.shapes[0][dim]] * 2)
    axes[dim] = reader.unify(value, gate)
    return [tuple(axes)]


@handles("constant_pad_nd")
def pad(reader: Reader, call: Call) -> Sequence[Axes]:
    """Add new widths before and after an axis; freeze it if the padding is negative."""
    axes, amounts = list(reader.axes(call.arg("self"))), call.arg("pad")
    for i in range(0, len(amounts), 2):
        dim, around = len(axes) - 1 - i // 2, amounts[i : i + 2]
        if not any(around):
            continue
        if is_constant(axes[dim]) or min(around) < 0:
            axes = fixed(reader, axes, dim, call.shapes[0])
            continue
        ends = [fresh_axes((n,), reader.reason)[0] if n else () for n in around]
        for j, end in enumerate(ends):
            if end:
                reader.literal("pad", i + j, end)
        axes[dim] = (*ends[0], *axes[dim], *ends[1])
    return [tuple(axes)]


@handles("repeat")
def repeat(reader: Reader, call: Call) -> Sequence[Axes]:
    """Repeat axes; one of size 1 becomes a new width, which unifies with what it meets."""
    repeats, axes = call.arg("repeats"), reader.axes(call.arg("self"))
    axes = (*constants((1,) * (len(repeats) - len(axes))), *axes)
    made: list[Axis] = []
    for place, (count, axis) in enumerate(zip(repeats, axes, strict=True)):
        if axis_size(axis) == 1 < count:
            made += fresh_axes((count,), reader.reason)
            reader.literal("repeats", place, made[-1])
        else:
            made.append(merge([constant(count), axis], reader.reason))
    return [tuple(made)]
