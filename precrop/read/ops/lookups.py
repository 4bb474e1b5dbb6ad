"""Reductions over axes and lookups along them."""

from collections.abc import Sequence

import torch

from precrop.read.axes import Axis, axis_size, constant
from precrop.read.known import Axes, fresh_axes
from precrop.read.ops.elementwise import elementwise
from precrop.read.ops.registry import along, broadcast, constants, fixed, handles
from precrop.read.reader import Reader
from precrop.read.trace import Call
from precrop.read.values import TensorValue


@handles(
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
    "linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin", "nansum", "median",
    "aminmax", "kthvalue", "mode", "count_nonzero",
)  # fmt: skip
def reduce(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some axes are summed over, or one entry of them is found; the others are kept."""
    if len(call.inputs) > 1:
        return elementwise(reader, call)
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


@handles("index_select", "select", "unbind")
def entries(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some entries of an axis, one of them, or each by itself: the axis stays fixed.

    At any width there is a first entry, and a last one.
    """
    axes, dim = along(reader, call)
    reader.takes(call.inputs[0], axes[dim])
    if call.name == "select" and call.arg("index") in (0, -1):
        return [(*axes[:dim], *axes[dim + 1 :])]
    return [tuple(fixed(reader, axes, dim, shape)) for shape in call.shapes]


@handles("topk", "one_step", "all_steps")
def some(reader: Reader, call: Call) -> Sequence[Axes]:
    """The largest entries of an axis, or steps of a sequence: the axis stays fixed."""
    axes, dim = along(reader, call)
    if reader.ranks(call.inputs[0], axes[dim]):
        axes[dim] = fresh_axes(call.shapes[0], reader.reason)[dim]
    else:
        axes = fixed(reader, axes, dim, call.shapes[0])
    return [tuple(axes) for _ in call.shapes]


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


@handles("index")
def index(reader: Reader, call: Call) -> Sequence[Axes]:
    """Indexed axes stay fixed; the others are kept."""
    operand, *places = call.inputs
    axes = reader.axes(operand)
    taken, found = _indexed(axes, call.arg("indices"))
    for tensor in places:
        reader.freeze(*reader.axes(tensor))
    if taken == [0]:
        reader.takes(operand, axes[0])
    reader.freeze(*(axes[dim] for dim in taken))
    pairs = zip(found, call.shapes[0], strict=True)
    return [tuple(constant(size) if dim < 0 else axes[dim] for dim, size in pairs)]


@handles("index_put", "_unsafe_index_put")
def index_put(reader: Reader, call: Call) -> Sequence[Axes]:
    """Values written at indexed places, which stay fixed; the other axes agree."""
    axes, values = list(reader.axes(call.arg("self"))), reader.axes(call.arg("values"))
    taken, found = _indexed(tuple(axes), call.arg("indices"))
    if reader.ranks(call.arg("self"), axes[taken[0]]):
        return [tuple(axes)]
    reader.freeze(*(axes[dim] for dim in taken))
    for dim, value in zip(reversed(found), reversed(values), strict=False):  # as in a broadcast
        if dim >= 0 and axis_size(axes[dim]) == axis_size(value):
            axes[dim] = reader.unify(axes[dim], value)
    return [tuple(axes)]


@handles("index_add", "index_copy", "index_reduce")
def index_add(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of an axis, which stays fixed, get what another tensor has; the others agree."""
    axes, dim = along(reader, call)
    _write(reader, axes, dim, call.arg("source"))
    return [tuple(axes)]


def _write(reader: Reader, axes: list[Axis], dim: int, source: TensorValue) -> None:
    """Unite the axes with those of what is written; fixed are ``dim`` and what differs in size."""
    for i, axis in enumerate(reader.axes(source)):
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
    reader.freeze(axes[dim], places[dim])
    for i, axis in enumerate(axes):
        if i != dim and axis_size(places[i]) == axis_size(axis):
            places[i] = reader.unify(axis, places[i])
    return [tuple(places)]


@handles("scatter", "scatter_add", "scatter_reduce")
def scatter(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries written at places along one axis, which stays fixed; the other axes agree."""
    axes, dim = along(reader, call)
    for written in filter(None, (call.arg("index"), call.arg("src"))):
        _write(reader, axes, dim, written)
    return [tuple(axes)]


@handles("slice_scatter", "select_scatter")
def put_in(reader: Reader, call: Call) -> Sequence[Axes]:
    """A stretch of an axis, or one entry of it, replaced: it stays fixed, the other axes agree."""
    axes, dim = along(reader, call)
    source = list(reader.axes(call.arg("src")))
    if len(source) < len(axes):
        source.insert(dim, constant(1))
    for i, axis in enumerate(source):
        if i == dim and axis_size(axis) != axis_size(axes[i]):
            reader.freeze(axes[i], axis)
        else:
            axes[i] = reader.unify(axes[i], axis)
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


@handles("multinomial")
def draws(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of an axis drawn by their weight: it stays fixed."""
    axes = reader.axes(call.arg("self"))
    return [tuple(fixed(reader, axes, len(axes) - 1, call.shapes[0]))]
