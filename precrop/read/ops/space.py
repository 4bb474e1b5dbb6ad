"""Spatial axes: convolution kernels, pooling, resampling, spectra; ends of residual streams."""

from collections.abc import Sequence

from precrop.read.axes import Atom, Axis, axis_of, axis_size, bound, constant, freeze, resolve
from precrop.read.known import Axes, constants
from precrop.read.ops.registry import along, fixed, handles
from precrop.read.reader import Reader
from precrop.read.trace import Call


def moved_along(reader: Reader, call: Call, space: Axes, window: Axes) -> Axes:
    """Return the axes that a window moves along (in ECA channels); freeze those it resizes."""
    for axis in window:
        freeze(axis, "a kernel's size")
    shape = call.shapes[0]
    kept = []
    for axis, size in zip(space, shape[len(shape) - len(space) :], strict=True):
        if axis_size(axis) != size and _strides_by_one(call):
            axis = _between_pads(axis, size)
        if axis_size(axis) != size:
            reader.freeze(axis)
            axis = constant(size)
        kept.append(axis)
    return tuple(kept)


def _strides_by_one(call: Call) -> bool:
    """Whether a window's stride is 1, so that it shortens axes of all sizes equally."""
    stride = call.arg("stride")
    return stride == 1 or (isinstance(stride, (list, tuple)) and {*stride} == {1})


def _between_pads(axis: Axis, size: int) -> Axis:
    """Return an axis without its padding if a window removes just that (local response norms)."""
    row = resolve(axis)
    for before, behind in ((1, 1), (1, 0), (0, 1)):
        ends, inner = (*row[:before], *row[len(row) - behind :]), row[before : len(row) - behind]
        if inner and axis_size(inner) == size:
            freeze(ends, "padding for a window")
            return inner
    return axis


@handles(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "max_pool1d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest1d",
    "upsample_linear1d", "upsample_trilinear3d", "upsample_nearest3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d", "reflection_pad2d", "replication_pad2d",
    "reflection_pad1d", "replication_pad1d", "replication_pad3d", "avg_pool1d", "grid_sampler_2d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_avg_pool1d", "max_unpool2d",
    "grid_sampler_3d", "fractional_max_pool2d", "adaptive_max_pool1d", "reflection_pad3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact3d", "_upsample_lanczos2d_aa",
    "fractional_max_pool3d", "max_unpool3d",
)  # fmt: skip
def spatial(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep batch and channels; the axes after them are resampled."""
    axes = reader.axes(call.inputs[0])
    kept = len(axes) - next((n for tag, n in _SPATIAL_AXES.items() if tag in call.name), 2)
    return [(*axes[:kept], *moved_along(reader, call, axes[kept:], ()))] * len(call.shapes)


_SPATIAL_AXES = {"1d": 1, "2d": 2, "3d": 3}


@handles("_fft_r2c", "_fft_c2r")
def spectrum(reader: Reader, call: Call) -> Sequence[Axes]:
    """Freeze the axes that are transformed; keep the others."""
    axes = list(reader.axes(call.arg("self")))
    for dim in call.arg("dim"):
        axes = fixed(reader, axes, dim % len(axes), call.shapes[0])
    return [tuple(axes)]


@handles("roi_align", "roi_pool", "ps_roi_align", "_roi_align")
def roi_align(reader: Reader, call: Call) -> Sequence[Axes]:
    """Cut regions out of a feature map, whose channels they keep."""
    channels = reader.axes(call.inputs[0])[1]
    return [(constant(s[0]), channels, *constants(s[2:])) for s in call.shapes]


@handles("stream_read")
def stream_read(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give a module that reads a residual stream a width of its own (`precrop.modules.streams`)."""
    axes, dim = along(reader, call)
    path, size = call.arg("path"), call.arg("size")
    axes[dim] = reader.known.read_widths.setdefault(path, axis_of(Atom(size, path)))
    bound(axes[dim])
    reader.literal("size", None, axes[dim])
    return [tuple(axes)]


@handles("stream_write")
def stream_write(reader: Reader, call: Call) -> Sequence[Axes]:
    """Note the width that a module writes to a residual stream, whose own width is constant."""
    axes, dim = along(reader, call)
    bound(axes[dim])
    reader.known.written_widths.setdefault(call.arg("path"), axes[dim])
    axes[dim] = constant(call.arg("size"))
    return [tuple(axes)]
