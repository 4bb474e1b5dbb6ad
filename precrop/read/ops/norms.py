"""Normalisation layers: scale, shift and statistics have the width of what they normalise."""

from collections.abc import Sequence

from precrop.read.axes import axis_size, require_divisor
from precrop.read.known import Axes, constants
from precrop.read.ops.registry import asked, broadcast, handles, stating, with_vectors
from precrop.read.reader import Reader
from precrop.read.trace import Call


@handles("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
         "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm")  # fmt: skip
def batch_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify statistics, scale and shift with axis 1."""
    x = reader.axes(call.arg("input"))
    names = ("weight", "bias", "running_mean", "running_var")
    channels = with_vectors(reader, call, x[1], *names)
    statistics = [(channels,) if s == (axis_size(channels),) else constants(s)
                  for s in call.shapes[1:]]  # fmt: skip
    return [(x[0], channels, *x[2:]), *statistics]


@handles("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Unify scale and shift with the trailing axes."""
    x = list(reader.axes(call.arg("input")))
    first = len(x) - len(call.arg("normalized_shape"))
    for name in ("weight", "bias"):
        tensor = call.arg(name)
        for i, axis in enumerate(() if tensor is None else reader.axes(tensor)):
            x[first + i] = reader.unify(x[first + i], axis)
    stating(reader, "normalized_shape", x[first:])
    return [tuple(x), *((*x[:first], *constants(shape[first:])) for shape in call.shapes[1:])]


@handles("native_group_norm")
def group_norm(reader: Reader, call: Call) -> Sequence[Axes]:
    """Keep the width divisible by the number of groups; one group per channel follows the width."""
    batch, channels, *space = reader.axes(call.arg("input"))
    channels = with_vectors(reader, call, channels, "weight", "bias")
    if call.arg("group") != axis_size(channels):
        require_divisor(channels, call.arg("group"), reader.reason)
        return [(batch, channels, *space)]
    reader.literal("group", None, channels)
    statistics = (batch, channels)
    matrices = (shape for shape in call.shapes[1:] if len(shape) == len(statistics))
    return [(batch, channels, *space), *(statistics for _ in matrices)]


@handles("native_batch_norm_backward")
def batch_norm_gradients(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read gradients inside forward, by input, scale and shift."""
    operands = [reader.axes(call.arg(name)) for name in ("input", "grad_out")]
    batch, channels, *space = broadcast(reader, operands, call.arg("input").shape)
    channels = with_vectors(reader, call, channels, "weight")
    return asked(call, (batch, channels, *space), (channels,), (channels,))


@handles("native_layer_norm_backward")
def layer_norm_gradients(reader: Reader, call: Call) -> Sequence[Axes]:
    """Read gradients inside forward, by input, scale and shift."""
    named = (call.arg(name) for name in ("input", "grad_out", "weight"))
    operands = [reader.axes(tensor) for tensor in named if tensor is not None]
    x = broadcast(reader, operands, call.arg("input").shape)
    normalized = x[len(x) - len(call.arg("normalized_shape")) :]
    stating(reader, "normalized_shape", normalized)
    return asked(call, x, normalized, normalized)
