"""Reductions over axes and lookups along them."""

from collections.abc import Sequence

import torch

from precrop.read.axes import axis_size, constant, freeze, unify
from precrop.read.ops.elementwise import elementwise
from precrop.read.ops.registry import constants, handles
from precrop.read.reader import Axes, Reader, fresh_axes
from precrop.read.trace import Call
from precrop.read.values import TensorValue


@handles(
    "mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
    "linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin", "nansum", "median",
)  # fmt: skip
def reduce(reader: Reader, call: Call) -> Sequence[Axes]:
    """Some axes are summed over; the others are kept."""
    tensors = call.inputs
    if len(tensors) > 1:
        return elementwise(reader, call)
    axes = reader.axes(tensors[0])
    dims = call.arg("dim")
    if dims is None or dims == []:
        dims = range(len(axes))
    dims = {d % len(axes) for d in ([dims] if isinstance(dims, int) else dims)} if axes else set()
    keep = bool(call.arg("keepdim", False))
    for dim in dims:
        reader.mixes(call, tensors[0], axes[dim])
    out = tuple(
        constant(1) if i in dims else axis for i, axis in enumerate(axes) if keep or i not in dims
    )
    return [out for _ in call.shapes]


@handles("kthvalue", "mode")
def one_of(reader: Reader, call: Call) -> Sequence[Axes]:
    """One entry of an axis, and its place."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim", -1) % len(axes)
    axes[dim : dim + 1] = [constant(1)] if call.arg("keepdim", False) else []
    return [tuple(axes) for _ in call.shapes]


@handles("topk")
def topk(reader: Reader, call: Call) -> Sequence[Axes]:
    """The largest entries of an axis, which stays fixed."""
    axes = list(reader.axes(call.arg("self")))
    dim, size = call.arg("dim", -1) % len(axes), call.shapes[0]
    if reader.ranks(call.arg("self"), axes[dim]):
        axes[dim] = fresh_axes(size, reader.reason(call))[dim]
        return [tuple(axes) for _ in call.shapes]
    freeze(axes[dim], reader.reason(call))
    axes[dim] = constant(size[dim])
    return [tuple(axes) for _ in call.shapes]


def _indexed(indices: Sequence[TensorValue | None]) -> tuple[list[int], int]:
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
    for tensor in call.inputs[1:]:
        for axis in reader.axes(tensor):
            freeze(axis, reader.reason(call))
    if dims == [0]:
        reader.takes(call, call.arg("self"), axes[0])
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
    if reader.ranks(call.arg("self"), axes[dims[0]]):
        return [axes]
    for dim in dims:
        freeze(axes[dim], reader.reason(call))
    result = list(axes)
    for back in range(1, min(len(axes) - dims[-1], len(values) + 1)):
        if axis_size(axes[-back]) == axis_size(values[-back]):
            result[-back] = unify(axes[-back], values[-back], reader.reason(call))
    return [tuple(result)]


@handles("index_add", "index_copy", "index_reduce")
def index_add(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of an axis, which stays fixed, get what another tensor has; the others agree."""
    axes, source = list(reader.axes(call.arg("self"))), reader.axes(call.arg("source"))
    dim = call.arg("dim") % len(axes)
    for i, axis in enumerate(axes):
        if i == dim:
            freeze(axis, reader.reason(call))
            freeze(source[i], reader.reason(call))
        else:
            axes[i] = unify(axis, source[i], reader.reason(call))
    return [tuple(axes)]


@handles("index_fill")
def index_fill(reader: Reader, call: Call) -> Sequence[Axes]:
    """A number written at indexed places of an axis, which stays fixed."""
    axes = reader.axes(call.arg("self"))
    axis = axes[call.arg("dim") % len(axes)]
    if not reader.ranks(call.arg("self"), axis):
        freeze(axis, reader.reason(call))
    return [axes]


@handles("index_select")
def index_select(reader: Reader, call: Call) -> Sequence[Axes]:
    """Entries of one axis, which stays fixed."""
    axes = list(reader.axes(call.arg("self")))
    dim = call.arg("dim") % len(axes)
    reader.takes(call, call.arg("self"), axes[dim])
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
