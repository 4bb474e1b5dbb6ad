"""Operations on weights before their layer uses them: quantisation, norms, orthogonality."""

from collections.abc import Sequence

from precrop.read.axes import axis_size, tie
from precrop.read.known import Axes, constants
from precrop.read.ops.elementwise import fallback
from precrop.read.ops.registry import broadcast, handles
from precrop.read.reader import Reader
from precrop.read.trace import Call


@handles("linalg_householder_product")
def orthogonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Return orthonormal columns, as many as there are reflections."""
    vectors, factors = (reader.axes(tensor) for tensor in call.inputs)
    return [(*vectors[:-1], reader.unify(vectors[-1], factors[-1]))]


@handles(
    "linalg_matrix_exp", "linalg_inv_ex", "_linalg_det", "_linalg_slogdet", "linalg_cholesky_ex",
    "_linalg_eigh", "linalg_lu_factor_ex", "_linalg_svd", "trace",
)  # fmt: skip
def square(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify the sides of square matrices; outputs are numbers, vectors or matrices, or empty."""
    *batch, row, column = reader.axes(call.inputs[0])
    if axis_size(row) != axis_size(column):
        return fallback(reader, call)
    side = reader.unify(column, row)
    whole = (*batch, side, side)
    return [whole[: len(shape)] if shape != (0,) else constants(shape) for shape in call.shapes]


@handles("linalg_pinv")
def pseudo_inverse(reader: Reader, call: Call) -> Sequence[Axes]:
    """Exchange the two sides of matrices."""
    *batch, row, column = reader.axes(call.arg("self"))
    return [(*batch, column, row)]


@handles("linalg_qr")
def orthogonal_triangular(reader: Reader, call: Call) -> Sequence[Axes]:
    """Tie the two sides: Q and R meet at the shorter one."""
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
    """Solve for every column of ``B``, whose rows unify with the matrix' sides."""
    columns = reader.axes(call.arg("B"))
    _, matrix, *others = square(reader, call)
    reader.unify(matrix[-1], columns[-2])
    return [columns, matrix, *others]


@handles("diagonal")
def diagonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Return the diagonals of matrices, as long as the shorter side."""
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
    """Unify the channels with scales, zero points and ranges that have one entry per channel."""
    x, *others = call.inputs
    axes = list(reader.axes(x))
    channel = call.arg("axis", call.arg("ch_axis", 0)) % len(axes)
    for tensor in others:
        if tensor.dim() == 1 and tensor.shape[0] == axis_size(axes[channel]) > 1:
            axes[channel] = reader.unify(axes[channel], reader.axes(tensor)[0])
    return [tuple(axes) for _ in call.shapes]


@handles("_weight_norm_interface")
def weight_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify directions (``v``) with their lengths (``g``), one for every entry of an axis."""
    directions, lengths = (reader.axes(call.arg(name)) for name in "vg")
    return [broadcast(reader, [directions, lengths], call.shapes[0]), lengths]
