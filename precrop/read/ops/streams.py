"""Ends of layers at a residual stream (`precrop.modules.streams`): each has a width of its own."""

from collections.abc import Sequence

from precrop.read.axes import Atom, Axis, axis_of, bound, constant
from precrop.read.ops.registry import handles
from precrop.read.reader import Axes, Reader
from precrop.read.trace import Call


@handles("stream_read")
def read_narrowed(reader: Reader, call: Call) -> Sequence[Axes]:
    """The module's own width, whatever the stream's is."""
    path, size = call.arg("path"), call.arg("x").shape[call.arg("dim")]
    own = reader.read_widths.setdefault(path, axis_of(Atom(size, path)))
    bound(own)
    reader.literal("size", None, own)
    return [_replaced(reader.axes(call.arg("x")), call.arg("dim"), own)]


@handles("stream_write")
def read_padded(reader: Reader, call: Call) -> Sequence[Axes]:
    """The stream keeps its width, whatever is written to it."""
    axes, dim = reader.axes(call.arg("x")), call.arg("dim")
    bound(axes[dim])
    reader.written_widths.setdefault(call.arg("path"), axes[dim])
    return [_replaced(axes, dim, constant(call.arg("size")))]


def _replaced(axes: Axes, dim: int, axis: Axis) -> Axes:
    return (*axes[:dim], axis, *axes[dim + 1 :])
