"""Normalisation: scale, shift and statistics have the width of what they normalise."""

from collections.abc import Sequence

from precrop.read.axes import axis_size, require_divisor, unify
from precrop.read.ops.registry import constants, handles
from precrop.read.reader import Axes, Reader
from precrop.read.trace import Call


@handles("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
         "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm")  # fmt: skip
def batch_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Statistics, scale and shift have the width of axis 1."""
    x = reader.axes(call.arg("input"))
    channels = x[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.arg(name)
        if tensor is not None:
            channels = unify(channels, reader.axes(tensor)[0], reader.reason(call))
    statistics = [(channels,) if s == (axis_size(channels),) else constants(s)
                  for s in call.shapes[1:]]  # fmt: skip
    return [(x[0], channels, *x[2:]), *statistics]


@handles("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Scale and shift have the trailing axes."""
    x = list(reader.axes(call.arg("input")))
    normalized = call.arg("normalized_shape")
    first = len(x) - len(normalized)
    for name in ("weight", "bias"):
        tensor = call.arg(name)
        if tensor is not None:
            for i, axis in enumerate(reader.axes(tensor)):
                x[first + i] = unify(x[first + i], axis, reader.reason(call))
    for i in range(len(normalized)):
        reader.literal("normalized_shape", i, x[first + i])
    return [
        tuple(x),
        *(tuple(x[:first]) + constants(shape[first:]) for shape in call.shapes[1:]),
    ]


@handles("native_group_norm")
def group_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """The width stays divisible by the number of groups; one group a channel follows it."""
    x = list(reader.axes(call.arg("input")))
    for name in ("weight", "bias"):
        tensor = call.arg(name)
        if tensor is not None:
            x[1] = unify(x[1], reader.axes(tensor)[0], reader.reason(call))
    if call.arg("group") != axis_size(x[1]):
        require_divisor(x[1], call.arg("group"), reader.reason(call))
        return [tuple(x)]
    reader.literal("group", None, x[1])
    statistics = (x[0], x[1])
    return [tuple(x), *(statistics for shape in call.shapes[1:] if len(shape) == len(statistics))]
