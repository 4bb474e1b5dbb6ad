"""Steps of a sequence (`precrop.read.recurrence`) and packed sequences: time is not a width."""

from collections.abc import Sequence

from precrop.read.axes import constant, freeze
from precrop.read.ops.registry import constants, handles
from precrop.read.reader import Axes, Reader
from precrop.read.trace import Call


@handles("one_step", "all_steps")
def steps(reader: Reader, call: Call) -> Sequence[Axes]:
    """Another number of steps; all else is kept."""
    axes, dim = list(reader.axes(call.arg("x"))), call.arg("dim")
    freeze(axes[dim], reader.reason(call))
    axes[dim] = constant(call.shapes[0][dim])
    return [tuple(axes)]


@handles("_pack_padded_sequence")
def pack(reader: Reader, call: Call) -> Sequence[Axes]:
    """Batch and time become one axis; the entries behind them are kept."""
    axes = reader.axes(call.arg("input"))
    for axis in axes[:2]:
        freeze(axis, reader.reason(call))
    data, *others = call.shapes
    return [(constant(data[0]), *axes[2:]), *map(constants, others)]
