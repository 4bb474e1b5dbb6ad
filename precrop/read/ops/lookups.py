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
    """Drop the axes that are reduced, or keep them with size 1; keep the others."""
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
    """Reduce an axis to one entry and its index."""
    dim = call.arg("dim")
    if dim is not None:
        axis = reader.axes(call.inputs[0])[dim]
        reader.finds(axis, 1 if reader.ranks(call.inputs[0], axis) else call.arg("k", 1))
    return reduce(reader, call)


@handles("sort", "cummax", "cummin")
def in_order(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep all axes; the second output holds indices of the axis along which is sorted."""
    axes, dim = along(reader, call)
    reader.finds(axes[dim])
    return same_shape(reader, call)


@handles("index_select", "select", "unbind")
def entries(reader: Reader, call: Call) -> Sequence[Axes]:
    """Take entries of an axis, one or several, and freeze it.

    It can vary if the first or last entry is taken, or entries by indices found along the axis.
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
    """Take the ``k`` largest entries of an axis, which keeps at least ``k``, and their indices."""
    axes, dim = along(reader, call)
    axes[dim] = _found(reader, call, axes[dim], "k", call.shapes[0][dim])
    return [tuple(axes) for _ in call.shapes]


@handles("multinomial")
def draws(reader: Reader, call: Call) -> Sequence[Axes]:
    """Draw indices of an axis by the weights of its entries."""
    *batch, axis = reader.axes(call.arg("self"))
    count = call.shapes[0][-1]
    drawn = _found(reader, call, axis, "num_samples", 1 if call.arg("replacement") else count)
    return [(*batch, drawn)]


def _found(reader: Reader, call: Call, axis: Axis, name: str, least: int) -> Axis:
    """Return a new axis for the entries found along another one; an argument states its size."""
    found = fresh_axes(call.shapes[0], reader.reason)[call.arg("dim", -1)]
    if reader.ranks(call.inputs[0], axis):
        return found
    reader.finds(axis, least)
    reader.literal(name, None, found)
    return found


@handles("steps")
def steps(reader: Reader, call: Call) -> Sequence[Axes]:
    """Take steps of a sequence, whose time axis is frozen."""
    axes, dim = along(reader, call)
    return [tuple(fixed(reader, axes, dim, shape)) for shape in call.shapes]


@handles("unfold")
def windows(reader: Reader, call: Call) -> Sequence[Axes]:
    """Take windows along one axis, which is frozen."""
    axes, dim = along(reader, call, "dimension")
    *places, window = call.shapes[0]
    return [(*fixed(reader, axes, dim, places), constant(window))]


@handles("_pack_padded_sequence")
def pack(reader: Reader, call: Call) -> Sequence[Axes]:
    """Freeze batch and time, which become one axis; keep the axes after them."""
    axes = reader.axes(call.arg("input"))
    reader.freeze(*axes[:2])
    data, *others = call.shapes
    return [(constant(data[0]), *axes[2:]), *map(constants, others)]


def _indexed(axes: Axes, indices: Sequence[TensorValue | None]) -> tuple[list[int], list[int]]:
    """Return the dims that index tensors address, and the source of every dim of the result.

    A boolean mask addresses as many dims as it has. A source is a dim of the tensor, or -1 for a
    dim of the indices; the latter come first if the addressed dims are not adjacent.
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
    """Return the indices' broadcast axes; None if they may be invalid at some widths."""
    masked = any(index.dtype == torch.bool for index in places)
    if masked or not all(map(reader.are_found, places, ends)):
        return None
    shape = torch.broadcast_shapes(*(one.shape for one in places))  # type: ignore[no-untyped-call]
    return broadcast(reader, [reader.axes(index) for index in places], shape)


@handles("index")
def index(reader: Reader, call: Call) -> Sequence[Axes]:
    """Freeze indexed axes unless the indices were found along them; keep the others."""
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
    """Treat indexed axes as `index` does; unify the others with those of the values written."""
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
    """Freeze the axis whose entries are written; unify the others with the source's."""
    axes, dim = along(reader, call)
    _write(reader, axes, dim, reader.axes(call.arg("source")))
    return [tuple(axes)]


def _write(reader: Reader, axes: list[Axis], dim: int | None, source: Sequence[Axis]) -> None:
    """Unify axes with those of what is written; freeze ``dim`` and axes of different sizes."""
    for i, axis in enumerate(source):
        if i != dim and axis_size(axis) == axis_size(axes[i]):
            axes[i] = reader.unify(axes[i], axis)
        else:
            reader.freeze(axes[i], axis)


@handles("index_fill")
def index_fill(reader: Reader, call: Call) -> Sequence[Axes]:
    """Freeze the axis in which a number is written at indexed places."""
    axes, dim = along(reader, call)
    if not reader.ranks(call.inputs[0], axes[dim]):
        reader.freeze(axes[dim])
    return [tuple(axes)]


@handles("gather")
def gather(reader: Reader, call: Call) -> Sequence[Axes]:
    """Look up entries along one axis; unify the others with the index's where sizes are equal."""
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
    """Write entries at indices along one axis; unify the others with the index's and source's."""
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
    """Freeze an axis of which a slice or entry is replaced; unify the others with the source's."""
    axes, dim = along(reader, call)
    source = list(reader.axes(call.arg("src")))
    if len(source) < len(axes):
        source.insert(dim, constant(1))
    _write(reader, axes, None, source)
    return [tuple(axes)]


@handles("masked_scatter")
def masked_scatter(reader: Reader, call: Call) -> Sequence[Axes]:
    """Write another tensor's entries, in order, where a mask is set (image tokens among words)."""
    shape, source = call.shapes[0], reader.axes(call.arg("source"))
    axes = broadcast(reader, [reader.axes(call.arg(name)) for name in ("self", "mask")], shape)
    if tuple(map(axis_size, source)) == shape:
        return [broadcast(reader, [axes, source], shape)]
    reader.freeze(*axes[:-1], *source[:-1])
    return [(*axes[:-1], reader.unify(axes[-1], source[-1]))]
