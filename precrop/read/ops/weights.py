"""What is done to a weight before its layer uses it: quantised, normalised."""

from collections.abc import Sequence

from precrop.read.axes import axis_size, unify
from precrop.read.ops.elementwise import factory, fallback, same_shape
from precrop.read.ops.lookups import reduce
from precrop.read.ops.registry import broadcast, handles
from precrop.read.reader import Axes, Reader, fresh_axes
from precrop.read.trace import Call

handles(
    "fake_quantize_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fake_quantize_learnable_per_tensor_affine",
)(same_shape)  # fmt: skip

handles("aminmax")(reduce)

# A buffer that gets its size in the first forward pass takes the width of what it meets.
handles("resize", "resize_as")(factory)


@handles("_linalg_check_errors")
def check(reader: Reader, call: Call) -> Sequence[Axes]:
    """Looks at what an algorithm reports, and makes nothing."""
    return []


@handles("linalg_householder_product")
def orthogonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """Orthonormal columns, as many as there are factors."""
    vectors, factors = (reader.axes(tensor) for tensor in call.inputs)
    return [(*vectors[:-1], unify(vectors[-1], factors[-1], reader.reason(call)))]


@handles("linalg_matrix_exp", "linalg_inv_ex")
def square(reader: Reader, call: Call) -> Sequence[Axes]:
    """A function of square matrices."""
    axes = reader.axes(call.inputs[0])
    side = unify(axes[-1], axes[-2], reader.reason(call))
    result = (*axes[:-2], side, side)
    return [result[: len(shape)] for shape in call.shapes]


@handles("_linalg_solve_ex")
def solve(reader: Reader, call: Call) -> Sequence[Axes]:
    """A square matrix's equations, one for every column of the other."""
    matrix, columns = (reader.axes(call.arg(name)) for name in "AB")
    side = unify(unify(matrix[-1], matrix[-2], reader.reason(call)), columns[-2])
    square = (*matrix[:-2], side, side)
    return [columns, square, square[:-1], square[:-2]]


@handles("eye")
def identity(reader: Reader, call: Call) -> Sequence[Axes]:
    """An identity matrix takes the width of what it meets."""
    axes = fresh_axes(call.shapes[0], reader.reason(call))
    if axis_size(axes[0]) == axis_size(axes[1]):
        unify(axes[0], axes[1])
    reader.literal("n", None, axes[0])
    return [axes]


@handles("diagonal")
def diagonal(reader: Reader, call: Call) -> Sequence[Axes]:
    """The diagonal of matrices has the length of their shorter side."""
    axes = list(reader.axes(call.arg("self")))
    dims = [call.arg(name, default) % len(axes) for name, default in (("dim1", 0), ("dim2", 1))]
    sides = [axes[dim] for dim in dims]
    if call.arg("offset", 0) != 0:
        return fallback(reader, call)
    if axis_size(sides[0]) == axis_size(sides[1]):
        unify(sides[0], sides[1], reader.reason(call))
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
            axes[channel] = unify(axes[channel], reader.axes(tensor)[0], reader.reason(call))
    return [tuple(axes) for _ in call.shapes]


@handles("_weight_norm_interface")
def weight_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Directions and the lengths that they get, one for every entry of an axis."""
    lengths = reader.axes(call.arg("g"))
    whole = broadcast(reader, call, [reader.axes(call.arg("v")), lengths], call.shapes[0])
    return [whole, lengths]
