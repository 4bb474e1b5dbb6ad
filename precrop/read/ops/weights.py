"""What is done to a weight before its layer uses it: quantised, normalised, made orthogonal."""

from collections.abc import Sequence

from precrop.read.axes import axis_size, tie
from precrop.read.known import Axes, constants
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import broadcast, handles
from precrop.read.reader import Reader
from precrop.read.trace import Call


@handles("linalg_householder_product")
def orthogonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Orthonormal columns, as many as there are factors."""
    vectors, factors = (reader.axes(tensor) for tensor in call.inputs)
    return [(*vectors[:-1], reader.unify(vectors[-1], factors[-1]))]


@handles(
    "linalg_matrix_exp", "linalg_inv_ex", "_linalg_det", "_linalg_slogdet", "linalg_cholesky_ex",
    "_linalg_eigh", "linalg_lu_factor_ex", "_linalg_svd", "trace",
)  # fmt: skip
def square(reader: Reader, call: Call) -> Sequence[Axes]:
    """A function of square matrices: numbers, vectors or matrices, which may be left out."""
    *batch, row, column = reader.axes(call.inputs[0])
    if axis_size(row) != axis_size(column):
        return fallback(reader, call)
    side = reader.unify(column, row)
    whole = (*batch, side, side)
    return [whole[: len(shape)] if shape != (0,) else constants(shape) for shape in call.shapes]


@handles("linalg_pinv")
def pseudo_inverse(reader: Reader, call: Call) -> Sequence[Axes]:
    """The other way round."""
    *batch, row, column = reader.axes(call.arg("self"))
    return [(*batch, column, row)]


@handles("linalg_qr")
def orthogonal_triangular(reader: Reader, call: Call) -> Sequence[Axes]:
    """Orthonormal columns, as many as the shorter side, and their mixtures: the sides are tied."""
    *batch, row, column = reader.axes(call.arg("A"))
    if axis_size(row) == axis_size(column):
        row = column = reader.unify(row, column)
    tie([row, column])
    inner = min(row, column, key=axis_size)
    made = [(*batch, row, inner), (*batch, inner, column)]
    return [
        axes if tuple(map(axis_size, axes)) == shape else constants(shape)
        for axes, shape in zip(made, call.shapes, strict=True)
    ]


@handles("_linalg_solve_ex")
def solve(reader: Reader, call: Call) -> Sequence[Axes]:
    """A square matrix's equations, one for every column of the other."""
    columns = reader.axes(call.arg("B"))
    _, matrix, *others = square(reader, call)
    reader.unify(matrix[-1], columns[-2])
    return [columns, matrix, *others]


@handles("diagonal")
def diagonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """The diagonal of matrices has the length of their shorter side."""
    axes = reader.axes(call.arg("self"))
    dims = [call.arg(name) % len(axes) for name in ("dim1", "dim2")]
    first, second = sides = [axes[dim] for dim in dims]
    if call.arg("offset") != 0:
        return fallback(reader, call)
    if axis_size(first) == axis_size(second):
        reader.unify(first, second)
    kept = [axis for dim, axis in enumerate(axes) if dim not in dims]
    return [(*kept, min(sides, key=axis_size))]


@handles(
    "fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask",
    "_fake_quantize_learnable_per_channel_affine", "fused_moving_avg_obs_fake_quant",
    "_fused_moving_avg_obs_fq_helper",
)  # fmt: skip
def fake_quantize(reader: Reader, call: Call) -> Sequence[Axes]:
    """Ranges, scales and zero points are one for all or one for every channel."""
    x, *others = call.inputs
    axes = list(reader.axes(x))
    channel = call.arg("axis", call.arg("ch_axis", 0)) % len(axes)
    for tensor in others:
        if tensor.dim() == 1 and tensor.shape[0] == axis_size(axes[channel]) > 1:
            axes[channel] = reader.unify(axes[channel], reader.axes(tensor)[0])
    return [tuple(axes) for _ in call.shapes]


@handles("_weight_norm_interface")
def weight_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Directions and the lengths that they get, one for every entry of an axis."""
    directions, lengths = (reader.axes(call.arg(name)) for name in "vg")
    return [broadcast(reader, [directions, lengths], call.shapes[0]), lengths]
