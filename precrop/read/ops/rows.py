"""Axes as rows of segments: concatenated, cut, padded, repeated."""

from collections.abc import Sequence

from precrop.read.axes import (
    Axis,
    axis_size,
    constant,
    cut,
    freeze,
    is_constant,
    merge,
    proportional,
    resolve,
    tie,
    unify,
)
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import broadcast, constants, handles
from precrop.read.reader import Axes, Reader, fresh_axes
from precrop.read.trace import Call


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
    axes = list(broadcast(reader, call, operands, shape[:dim] + shape[dim + 1 :]))
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
    if reader.ranks(call.arg("self"), axis):
        axes[dim] = fresh_axes(call.shapes[0], reader.reason(call))[dim]
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
    reader.takes(call, call.arg("self"), axes[dim])
    freeze(axes[dim], reader.reason(call))
    return [axes[:dim] + axes[dim + 1 :]]


@handles("unbind")
def unbind(reader: Reader, call: Call) -> Sequence[Axes]:
    """All entries of an axis, which stays fixed."""
    axes = reader.axes(call.arg("self"))
    dim = call.arg("dim", 0) % len(axes)
    reader.takes(call, call.arg("self"), axes[dim])
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
    """An axis several times in a row; one of size 1 is expanded to the width of what it meets."""
    repeats, axes = call.arg("repeats"), reader.axes(call.arg("self"))
    axes = (*constants((1,) * (len(repeats) - len(axes))), *axes)
    made: list[Axis] = []
    for place, (count, axis) in enumerate(zip(repeats, axes, strict=True)):
        if axis_size(axis) == 1 < count:
            made += fresh_axes((count,), reader.reason(call))
            reader.literal("repeats", place, made[-1])
        else:
            made.append(merge([constant(count), axis], reader.reason(call)))
    return [tuple(made)]


@handles("repeat_interleave")
def repeat_interleave(reader: Reader, call: Call) -> Sequence[Axes]:
    """Every channel several times."""
    axes, repeats, dim = list(reader.axes(call.args[0])), call.args[1], call.arg("dim")
    if dim is None or not isinstance(repeats, int):
        return fallback(reader, call)
    axes[dim] = merge([axes[dim], constant(repeats)], reader.reason(call))
    return [tuple(axes)]
