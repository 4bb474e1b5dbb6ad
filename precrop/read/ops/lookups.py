"""Reductions over axes and lookups along them."""

from collections.abc import Sequence

import torch

from precrop.read.axes import Axis, axis_size, constant
from precrop.read.known import Axes, constants, fresh_axes
from precrop.read.ops.elementwise import same_shape
from precrop.read.ops.registry import along, broadcast, fixed, handles
from precrop.read.reader import Reader
from precrop.read.trace import Call
from precrop.read.values import TensorValue


@handles(
    "mean", "sum", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean", "nansum",
    "linalg_vector_norm", "norm", "logsumexp", "any", "all", "aminmax", "count_nonzero",
)  # fmt: skip
def reduce(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some axes are summed over, or one entry of them is found; the others are kept."""
    axes, asked = reader.axes(call.inputs[0]), call.arg("dim")
    if asked is None or asked == []:
        asked = range(len(axes))
    dims = {d % len(axes) for d in ([asked] if isinstance(asked, int) else asked)} if axes else {}
    keep = bool(call.arg("keepdim"))
    for dim in dims:
        reader.mixes(call.inputs[0], axes[dim])
    out = tuple(
        constant(1) if i in dims else axis for i, axis in enumerate(axes) if keep or i not in dims
    )
    return [out for _ in call.shapes]


@handles("argmax", "argmin", "max", "min", "median", "nanmedian", "mode", "kthvalue")
def one(reader: Reader, call: Call) -> Sequence[Axes]:
    """One entry of an axis is found, and its place."""
    dim = call.arg("dim")
    if dim is not None:
        axis = reader.axes(call.inputs[0])[dim]
        reader.finds(axis, 1 if reader.ranks(call.inputs[0], axis) else call.arg("k", 1))
    return reduce(reader, call)


@handles("sort", "cummax", "cummin")
def in_order(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of an axis in another order, and their places."""
    axes, dim = along(reader, call)
    reader.finds(axes[dim])
    return same_shape(reader, call)


@handles("index_select", "select", "unbind")
def entries(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some entries of an axis, one of them, or each by itself: the axis stays fixed.

    At any width there is a first entry, and a last one, and one that was found.
    """
    axes, dim = along(reader, call)
    reader.takes(call.inputs[0], axes[dim])
    index = call.arg("index")
    if call.name == "index_select" and reader.are_found(index, axes[dim]):
        reader.stretches(call.inputs[0])
        return [(*axes[:dim], *(reader.axes(index) or (constant(1),)), *axes[dim + 1 :])]
    if call.name == "select" and index in (0, -1):
        return [(*axes[:dim], *axes[dim + 1 :])]
    return [tuple(fixed(reader, axes, dim, shape)) for shape in call.shapes]


@handles("topk")
def largest(reader: Reader, call: Call) -> Sequence[Axes]:
    """The largest entries of an axis, which keeps as many, and their places."""
    axes, dim = along(reader, call)
    axes[dim] = _found(reader, call, axes[dim], "k", call.shapes[0][dim])
    return [tuple(axes) for _ in call.shapes]


@handles("multinomial")
def draws(reader: Reader, call: Call) -> Sequence[Axes]:
    """Places along an axis, drawn by the weights of its entries."""
    *batch, axis = reader.axes(call.arg("self"))
    count = call.shapes[0][-1]
    drawn = _found(reader, call, axis, "num_samples", 1 if call.arg("replacement") else count)
    return [(*batch, drawn)]


def _found(reader: Reader, call: Call, axis: Axis, name: str, least: int) -> Axis:
    """The axis of as many entries of another one as an argument says."""
    found = fresh_axes(call.shapes[0], reader.reason)[call.arg("dim", -1)]
    if reader.ranks(call.inputs[0], axis):
        return found
    reader.finds(axis, least)
    reader.literal(name, None, found)
    return found


@handles("steps")
def steps(reader: Reader, call: Call) -> Sequence[Axes]:
    """Steps of a sequence, which stays fixed."""
    axes, dim = along(reader, call)
    return [tuple(fixed(reader, axes, dim, shape)) for shape in call.shapes]


@handles("unfold")
def windows(reader: Reader, call: Call) -> Sequence[Axes]:
    """Windows along one axis, which stays fixed."""
    axes, dim = along(reader, call, "dimension")
    *places, window = call.shapes[0]
    return [(*fixed(reader, axes, dim, places), constant(window))]


@handles("_pack_padded_sequence")
def pack(reader: Reader, call: Call) -> Sequence[Axes]:
    """Batch and time become one axis; the entries behind them are kept."""
    axes = reader.axes(call.arg("input"))
    reader.freeze(*axes[:2])
    data, *others = call.shapes
    return [(constant(data[0]), *axes[2:]), *map(constants, others)]


def _indexed(axes: Axes, indices: Sequence[TensorValue | None]) -> tuple[list[int], list[int]]:
    """The axes that index tensors take, and the axes of what they find there.

    A mask takes several axes. Of what is found each axis is that of the tensor, or -1 if it is one
    of the indices'; these come first where they do not take adjacent axes.
    """
    taken: list[int] = []
    rank, dim = 0, 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype == torch.bool else 1
        if index is not None:
            taken += range(dim, dim + width)
            rank = max(rank, 1 if index.dtype == torch.bool else index.dim())
        dim += width
    adjacent = taken == list(range(taken[0], taken[-1] + 1))
    start = taken[0] if adjacent else 0
    kept = [dim for dim in range(len(axes)) if dim not in taken]
    return taken, [*kept[:start], *[-1] * rank, *kept[start:]]


def _met(reader: Reader, places: Sequence[TensorValue], ends: Sequence[Axis]) -> Axes | None:
    """The common axes of indices, if these tell entries which the axes have at any width."""
    masked = any(index.dtype == torch.bool for index in places)
    if masked or not all(map(reader.are_found, places, ends)):
        return None
    shape = torch.broadcast_shapes(*(one.shape for one in places))  # type: ignore[no-untyped-call]
    return broadcast(reader, [reader.axes(index) for index in places], shape)


@handles("index")
def index(reader: Reader, call: Call) -> Sequence[Axes]:
    """Indexed axes stay fixed, unless what is taken was found along them; the others are kept."""
    operand, *places = call.inputs
    axes = reader.axes(operand)
    taken, found = _indexed(axes, call.arg("indices"))
    if taken == [0]:
        reader.takes(operand, axes[0])
    ends = [axes[dim] for dim in taken]
    met = _met(reader, places, ends)
    if met is None:
        reader.freeze(*ends, *(axis for index in places for axis in reader.axes(index)))
        pairs = zip(found, call.shapes[0], strict=True)
        met = constants([size for dim, size in pairs if dim < 0])
    else:
        reader.stretches(operand)
    new = iter(met)
    return [tuple(next(new) if dim < 0 else axes[dim] for dim in found)]


@handles("index_put", "_unsafe_index_put")
def index_put(reader: Reader, call: Call) -> Sequence[Axes]:
    """Values written at indexed places, as `index` takes them; the other axes agree."""
    axes, values = list(reader.axes(call.arg("self"))), reader.axes(call.arg("values"))
    places = [index for index in call.arg("indices") if index is not None]
    taken, found = _indexed(tuple(axes), call.arg("indices"))
    if reader.ranks(call.arg("self"), axes[taken[0]]):
        return [tuple(axes)]
    ends = [axes[dim] for dim in taken]
    met = _met(reader, places, ends)
    if met is None:
        reader.freeze(*ends)
    new = iter(reversed(met or ()))
    for dim, value in zip(reversed(found), reversed(values), strict=False):  # as in a broadcast
        axis = axes[dim] if dim >= 0 else next(new, value)
        if axis_size(axis) == axis_size(value):
            reader.unify(axis, value)
    return [tuple(axes)]


@handles("index_add", "index_copy", "index_reduce")
def index_add(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of an axis, which stays fixed, get what another tensor has; the others agree."""
    axes, dim = along(reader, call)
    _write(reader, axes, dim, reader.axes(call.arg("source")))
    return [tuple(axes)]


def _write(reader: Reader, axes: list[Axis], dim: int | None, source: Sequence[Axis]) -> None:
    """Unite the axes with those of what is written; fixed are ``dim`` and what differs in size."""
    for i, axis in enumerate(source):
        if i != dim and axis_size(axis) == axis_size(axes[i]):
            axes[i] = reader.unify(axes[i], axis)
        else:
            reader.freeze(axes[i], axis)


@handles("index_fill")
def index_fill(reader: Reader, call: Call) -> Sequence[Axes]:
    """A number written at indexed places of an axis, which stays fixed."""
    axes, dim = along(reader, call)
    if not reader.ranks(call.inputs[0], axes[dim]):
        reader.freeze(axes[dim])
    return [tuple(axes)]


@handles("gather")
def gather(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries looked up along one axis; the others agree with the index where they are equal."""
    axes, dim = along(reader, call)
    places = list(reader.axes(call.arg("index")))
    if not reader.are_found(call.arg("index"), axes[dim]):
        reader.freeze(axes[dim], places[dim])
    for i, axis in enumerate(axes):
        if i != dim and axis_size(places[i]) == axis_size(axis):
            places[i] = reader.unify(axis, places[i])
    return [tuple(places)]


@handles("scatter", "scatter_add", "scatter_reduce")
def scatter(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries written at places along one axis; the other axes agree."""
    axes, dim = along(reader, call)
    index, source = call.arg("index"), call.arg("src")
    whole, found = axes[dim], reader.are_found(index, axes[dim])
    if found:
        axes[dim] = reader.axes(index)[dim]  # as many entries are written as there are places
    for written in filter(None, (index, source)):
        _write(reader, axes, None if found else dim, reader.axes(written))
    axes[dim] = whole
    return [tuple(axes)]


@handles("slice_scatter", "select_scatter")
def put_in(reader: Reader, call: Call) -> Sequence[Axes]:
    """A stretch of an axis, or one entry of it, replaced: it stays fixed, the other axes agree."""
    axes, dim = along(reader, call)
    source = list(reader.axes(call.arg("src")))
    if len(source) < len(axes):
        source.insert(dim, constant(1))
    _write(reader, axes, None, source)
    return [tuple(axes)]


@handles("masked_scatter")
def masked_scatter(reader: Reader, call: Call) -> Sequence[Axes]:
    """Another tensor's entries in a row where a mask is set, as an image's between words."""
    shape, source = call.shapes[0], reader.axes(call.arg("source"))
    axes = broadcast(reader, [reader.axes(call.arg(name)) for name in ("self", "mask")], shape)
    if tuple(map(axis_size, source)) == shape:
        return [broadcast(reader, [axes, source], shape)]
    reader.freeze(*axes[:-1], *source[:-1])
    return [(*axes[:-1], reader.unify(axes[-1], source[-1]))]
