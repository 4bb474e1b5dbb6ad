"""The linear reading of every operation: what SynFlow makes of it.

- Activations are the identity; biases and everything else that is added without depending on the
  input are zero.
- Normalisations and scales that are parameters are a factor of one, and so are gates: what a
  sigmoid, a softmax or ``relu6(x + 3)`` puts out, where it multiplies.
- Convolutions and matrix products with a weight, sums, concatenations, pooling, padding, slicing
  and resizing are what they are; constant factors count by their absolute values.
- Anything else is refused: a product of two activations (attention) is not linear.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precrop.linear.values import (
    Flow,
    Gate,
    Inert,
    UnreadableError,
    Value,
    Weight,
    aligned,
    as_flow,
    expanded,
    normalised,
)
from precrop.read.trace import Call
from precrop.read.values import TensorValue

Handler = Callable[[Call, Sequence[Any]], Any]
"""From a call and its arguments, values in the place of tensors, to its first output or outputs."""


# --- what passes unchanged, and what does not pass ------------------------------------------------


def same(call: Call, args: Sequence[Any]) -> Any:
    """The first argument as it is: an activation, a normalisation, a copy."""
    return args[0]


def _gate(call: Call, args: Sequence[Any]) -> Gate:
    if isinstance(args[0], Weight):
        raise UnreadableError("weights pass it")
    return args[0] if isinstance(args[0], Gate) else Gate(as_flow(args[0]))


def _bounded(call: Call, args: Sequence[Any]) -> Any:
    """An activation with bounds; a gate if they are those of one, or by hand: ``relu6(x + 3)``."""
    if not isinstance(args[0], Flow):
        return args[0]
    low, high = (call.arg(name) for name in _BOUNDS[call.name])
    gates = low == 0 and (high == 1 or (high is not None and args[0].shifted))
    return Gate(args[0]) if gates else args[0]


def _gated_half(call: Call, args: Sequence[Any]) -> Flow:
    """GLU: one half of a tensor, gated by the other."""
    flow = _input(args[0])
    return Flow(flow.values.chunk(2, call.arg("dim", -1))[0], flow.exponent)


def _packed(call: Call, args: Sequence[Any]) -> list[Any]:
    """Sequences without their padding, and how many go on at every step."""
    flow = _input(args[0])
    data, sizes = call.op(flow.values, *args[1:])
    return [Flow(data, flow.exponent), sizes]


def _statistic(call: Call, args: Sequence[Any]) -> list[Value]:
    """A variance or a norm, with which its owner is normalised: as any normalisation a factor."""
    return [Inert() if isinstance(args[0], Weight) else Gate(None) for _ in call.outputs]


def _of_statistic(call: Call, args: Sequence[Any]) -> Value:
    """A power of a statistic, or of a weight on its way to one; a square is a statistic itself."""
    if isinstance(args[0], Weight):
        return Inert()
    square = call.name == "pow" and args[1] == 2 and isinstance(args[0], (Flow, Gate))
    if square or _bare(args[0]):
        return Gate(None)
    raise UnreadableError("it is not linear")


def _signed(call: Call, args: Sequence[Any]) -> Any:
    """A transform whose coefficients have signs, or are complex."""
    raise UnreadableError("absolute values say nothing of a Fourier transform")


def _set(call: Call, args: Sequence[Any]) -> Any:
    """A tensor that gives up its memory, or takes another's."""
    return args[1] if len(args) > 1 else torch.zeros(call.shapes[0])


def _blank(call: Call, args: Sequence[Any]) -> Tensor:
    """A constant of a given shape and type, such as ``zeros_like``."""
    flow = _input(args[0])
    device = {"device": flow.values.device} if call.kwargs.get("device") is not None else {}
    made: Tensor = call.op(flow.values, *args[1:], **{**call.kwargs, **device})
    return made


def _copied(call: Call, args: Sequence[Any]) -> Flow:
    """``copy_`` and its like: what is written; a constant that is written is zero."""
    source = args[1] if len(args) > 1 else None
    if isinstance(source, Weight):
        raise UnreadableError("it writes weights")
    flow = as_flow(source)
    if flow is not None:
        return expanded(flow, call.shapes[0])
    target = as_flow(args[0])
    assert target is not None
    return Flow(torch.zeros_like(target.values))


def _input(value: Any) -> Flow:
    flow = as_flow(value)
    if flow is None:
        raise UnreadableError("its input does not come from the network's")
    return flow


# --- arithmetic -----------------------------------------------------------------------------------


def _add(call: Call, args: Sequence[Any]) -> Value:
    """A sum. Constants and parameters that are added do not depend on the input: they are dropped.

    A factor ``alpha`` of the second operand is kept.
    """
    first, second = args[:2]
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Weight):
            if isinstance(other, (Flow, Gate, Weight)):
                raise UnreadableError("weights are added to something")
            return one
    if isinstance(first, Flow) or isinstance(second, Flow):
        return _sum(call, first, second)
    return Gate(None if _bare(first) or _bare(second) else _sum(call, first, second))


def _bare(gate: Any) -> bool:
    return isinstance(gate, Gate) and gate.flow is None


def _sum(call: Call, first: Any, second: Any) -> Flow:
    one, two, alpha = as_flow(first), as_flow(second), call.kwargs.get("alpha", 1)
    if two is not None and alpha != 1:
        if alpha < 0 and one is not None:
            raise UnreadableError("it subtracts activations")
        two = Flow(two.values * abs(alpha), two.exponent)
    flows = aligned([flow for flow in (one, two) if flow is not None])
    if len(flows) == 1:
        flow = expanded(flows[0], call.shapes[0])
        shifted = any(isinstance(value, (int, float)) for value in (first, second))
        return Flow(flow.values, flow.exponent, shifted)
    return Flow(flows[0].values + flows[1].values, flows[0].exponent)


def _subtract(call: Call, args: Sequence[Any]) -> Any:
    """A difference from a constant or a parameter, which is dropped; or from weights' own mean."""
    first, second = args[:2]
    if isinstance(first, Weight) and not isinstance(second, (Flow, Gate)):
        return first
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Gate) and not isinstance(other, (Flow, Gate, Weight)):
            return one
    if isinstance(first, Flow) and not isinstance(second, (Flow, Gate, Weight)):
        return expanded(first, call.shapes[0])
    raise UnreadableError("it subtracts activations")


def _multiply(call: Call, args: Sequence[Any]) -> Value:
    """A product with a constant, a gate or a parameter that is not a layer's weight."""
    first, second = args[:2]
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Weight):
            if isinstance(other, (Flow, Gate, Weight)):
                raise UnreadableError("a weight multiplies something elementwise")
            return one if isinstance(other, Inert) else _scaled(one, other)
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Flow):
            if one is other:
                return Gate(None)  # a square, as norms are written
            if isinstance(other, Flow):
                raise UnreadableError("it multiplies activations with each other")
            if isinstance(other, (Gate, Inert)):
                return expanded(one, call.shapes[0])
            return Flow(one.values * _factor(other, one.values), one.exponent)
    if isinstance(first, Gate) and isinstance(second, Gate):
        return Gate(None)
    gate: Gate = first if isinstance(first, Gate) else second
    return gate


def _divide(call: Call, args: Sequence[Any]) -> Value:
    """A quotient by a constant; one by a parameter or by something's own norm changes nothing."""
    first, second = args[:2]
    if isinstance(first, Weight):
        if isinstance(second, (Flow, Gate)):
            raise UnreadableError("it divides by an activation")
        if isinstance(second, (Inert, Weight)):
            return first
        return _scaled(first, 1 / second)
    if isinstance(first, Gate) and not isinstance(second, (Flow, Weight)):
        return first
    if isinstance(first, Flow) and (isinstance(second, Inert) or _bare(second)):
        return expanded(first, call.shapes[0])
    if not isinstance(first, Flow) or isinstance(second, (Flow, Gate, Weight)):
        raise UnreadableError("it divides by an activation")
    return Flow(first.values / _factor(second, first.values), first.exponent)


def _factor(constant: Any, like: Tensor) -> Any:
    return constant.abs().to(like) if isinstance(constant, Tensor) else abs(constant)


def _scaled(weight: Weight, factor: Any) -> Weight:
    if isinstance(factor, Tensor) and factor.dim():
        return Weight(weight.whole * _factor(factor, weight.values))
    return Weight(weight.values * _factor(factor, weight.values), weight.even)


# --- linear operations of one tensor --------------------------------------------------------------


def linear(call: Call, args: Sequence[Any]) -> Any:
    """Run an operation that is linear in its first argument, and takes no other tensor."""
    first, *rest = args
    if any(isinstance(leaf, (Flow, Gate, Weight, Inert)) for leaf in leaves(rest)):
        raise UnreadableError("another operand is not a constant")
    if isinstance(first, Weight):
        if first.even is not None and call.name in _KEEPING:
            return [Weight(first.values, shape) for shape in call.shapes]
        return [Weight(made) for made in _made(call, first.whole, rest)]
    if _bare(first):
        return [first for _ in call.outputs]
    flow = _input(first)
    flows = [Flow(made, flow.exponent) for made in _made(call, flow.values, rest)]
    return [Gate(output) for output in flows] if isinstance(first, Gate) else flows


def _made(call: Call, values: Tensor, rest: Sequence[Any]) -> list[Tensor]:
    if call.name in _VIEWS:  # what was contiguous in the recorded pass need not be here
        return [values.reshape(call.shapes[0])]
    if call.op._schema.is_mutable:
        values = values.clone()
    made = call.op(values, *rest, **_options(call))
    if isinstance(made, Tensor):
        return [made]
    return [made[0]] if call.name in MAX_POOLS else list(made)  # indices of maxima carry no flow


def _options(call: Call) -> Mapping[str, Any]:
    """Arguments by keyword; none of them is a tensor that the result is written into."""
    if any(isinstance(value, TensorValue) for value in call.kwargs.values()):
        raise UnreadableError("it writes into a tensor that it is given as out=")
    return call.kwargs


def leaves(arguments: Sequence[Any]) -> list[Any]:
    """Arguments with lists laid open."""
    found: list[Any] = []
    for argument in arguments:
        found += argument if isinstance(argument, (list, tuple)) else [argument]
    return found


def _restrided(call: Call, args: Sequence[Any]) -> Any:
    """Other strides for the same elements, or axes of size 1 added or left out."""
    flow, shape = _input(args[0]), call.shapes[0]
    if [n for n in flow.values.shape if n != 1] != [n for n in shape if n != 1]:
        raise UnreadableError("it changes a shape")
    return Flow(flow.values.reshape(shape), flow.exponent)


def _pooled(call: Call, args: Sequence[Any]) -> Flow:
    """A max-pool read as the average of what lies in its window, padding not counted.

    The sums are a convolution of every channel on its own. What a window needs beyond the padding
    (``ceil_mode``) follows from the output's size.
    """
    flow = _input(args[0])
    shape = call.shapes[0]
    rank = next(int(letter) for letter in call.name if letter.isdigit())
    kernel = _sizes(call.arg("kernel_size"), rank)
    stride = _sizes(call.arg("stride", []), rank) or kernel
    padding = _sizes(call.arg("padding", 0), rank)
    dilation = _sizes(call.arg("dilation", 1), rank)
    sides: list[int] = []
    extents = zip(flow.values.shape[-rank:], shape[-rank:], strict=True)
    for axis, (size, out) in reversed(list(enumerate(extents))):
        reach = (out - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        sides += [padding[axis], reach - padding[axis] - size]

    def sums(values: Tensor) -> Tensor:
        planes = values.reshape(-1, 1, *values.shape[-rank:])
        ones = planes.new_ones(1, 1, *kernel)
        geometry = (stride, [0] * rank, dilation, False, [0] * rank, 1)
        return torch.convolution(F.pad(planes, sides), ones, None, *geometry)

    counts = sums(flow.values.new_ones(1, *flow.values.shape[-rank:]))
    return Flow((sums(flow.values) / counts).reshape(shape), flow.exponent)


def _sizes(value: Any, rank: int) -> list[int]:
    if isinstance(value, int):
        return [value] * rank
    return list(value) * rank if len(value) == 1 else list(value)


def _adaptively_pooled(call: Call, args: Sequence[Any]) -> Flow:
    flow, pool = _input(args[0]), getattr(F, call.name.replace("max", "avg"))
    return Flow(pool(flow.values, list(call.arg("output_size"))), flow.exponent)


def _mean(call: Call, args: Sequence[Any]) -> Flow:
    """A maximum over axes, read as the average."""
    flow = _input(args[0])
    values = flow.values.mean(call.arg("dim") or None, call.arg("keepdim", False))
    return Flow(values, flow.exponent)


# --- several tensors ------------------------------------------------------------------------------


def _join(call: Call, args: Sequence[Any]) -> Any:
    """A concatenation or a stack; inputs that carry no flow add nothing to R and are zero."""
    parts, *rest = args
    if any(isinstance(part, Weight) for part in parts):
        if not all(isinstance(part, Weight) for part in parts):
            raise UnreadableError("weights are joined with something else")
        return Weight(call.op([part.whole for part in parts], *rest, **_options(call)))
    if all(_bare(part) for part in parts):
        return parts[0]
    flows = iter(aligned([flow for flow in map(as_flow, parts) if flow is not None]))
    joined = [None if as_flow(part) is None else next(flows) for part in parts]
    some = next(flow for flow in joined if flow is not None)
    values = [
        some.values.new_zeros(tensor.shape) if flow is None else flow.values
        for flow, tensor in zip(joined, call.args[0], strict=True)
    ]
    return Flow(call.op(values, *rest, **_options(call)), some.exponent)


def _convolution(call: Call, args: Sequence[Any]) -> Flow | Gate | Inert:
    if _constant(args[0]):
        return Inert()
    if _bare(args[0]):
        return Gate(None)
    flow, weight = _operands(args[0], args[1])
    stride, padding, dilation, transposed, output_padding, groups = args[3:9]
    geometry = (stride, padding, dilation, transposed, output_padding)
    if weight.even is None:
        values = torch.convolution(flow.values, weight.values, None, *geometry, groups)
        return normalised(values, flow.exponent)
    # Alike weights sum over their input channels first; one channel a group is enough, and one in
    # all where the channels are one that was expanded.
    batch, channels, *extent = flow.values.shape
    if flow.values.stride(1) == 0:
        sums, groups = flow.values[:, :1] * (channels // groups), 1
    else:
        sums = flow.values.reshape(batch, groups, channels // groups, *extent).sum(2)
    kernel = sums.new_ones(groups, 1, *weight.even[2:])
    values = torch.convolution(sums, kernel, None, *geometry, groups) * weight.values
    outputs = call.shapes[0][1]
    wide = values.unsqueeze(2).expand(batch, groups, outputs // groups, *values.shape[2:])
    return normalised(wide.reshape(batch, outputs, *values.shape[2:]), flow.exponent)


def _deformed(call: Call, args: Sequence[Any]) -> Any:
    """A deformable convolution as one whose window is not bent; its mask is a gate."""
    x, weight, _, mask, bias, *window = args[:11]
    if isinstance(mask, Flow):
        raise UnreadableError("it multiplies activations with each other")
    stride, padding, dilation = window[:2], window[2:4], window[4:]
    return _convolution(
        call, [x, weight, bias, stride, padding, dilation, False, [0, 0], call.arg("groups")]
    )


def _product(call: Call, args: Sequence[Any]) -> Flow | Inert:
    """A matrix product of activations (..., n, k) with a weight (k, m), batched or not.

    The weight may come first, as `torch.einsum` has it at times.
    """
    if isinstance(args[0], Weight) and isinstance(args[1], (Flow, Gate)):
        right = _input(args[1])
        return normalised(args[0].whole @ right.values, right.exponent)
    return _dense(call, args, lambda weight: weight)


def _functional_linear(call: Call, args: Sequence[Any]) -> Flow | Inert:
    return _dense(call, args, lambda weight: weight.mT)


def _dense(call: Call, args: Sequence[Any], turned: Callable[[Tensor], Tensor]) -> Flow | Inert:
    """Activations times a weight; of alike weights the outputs are alike."""
    if _constant(args[0]):
        return Inert()
    flow, weight = _operands(args[0], args[1])
    if weight.even is None:
        return normalised(flow.values @ turned(weight.values), flow.exponent)
    sums = flow.values.sum(-1, keepdim=True) * weight.values
    return normalised(sums.expand(call.shapes[0]), flow.exponent)


def _constant(inputs: Any) -> bool:
    """Whether a layer's input does not depend on the network's: neither does its output."""
    return isinstance(inputs, (Tensor, Inert))


def _operands(inputs: Any, weight: Any) -> tuple[Flow, Weight]:
    """The flow and the weight of a layer; a constant kernel (a blur) counts by absolute value."""
    if isinstance(weight, (Flow, Gate)) and isinstance(inputs, (Flow, Gate)):
        raise UnreadableError("it multiplies activations with each other")
    flow = _input(inputs)
    if isinstance(weight, Inert):
        raise UnreadableError("its weight belongs to no layer")
    return flow, Weight(weight.abs().to(flow.values)) if isinstance(weight, Tensor) else weight


# --- the table ------------------------------------------------------------------------------------

MAX_POOLS = (
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "max_pool1d", "max_pool2d", "max_pool3d",
)  # fmt: skip
_ADAPTIVE_MAX_POOLS = ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
_VIEWS = (
    "view", "_unsafe_view", "reshape", "_reshape_copy", "_reshape_alias", "flatten", "unflatten",
    "squeeze", "unsqueeze",
)  # fmt: skip
_KEEPING = (
    *_VIEWS, "permute", "transpose", "t", "slice", "select", "expand", "split", "split_with_sizes",
    "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "unbind", "narrow",
    "movedim", "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "repeat", "index_select", "mean",
)  # fmt: skip
"""What leaves weights that are all alike as they are."""
_BOUNDS = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}
_BY_READING: tuple[tuple[Handler, str], ...] = (
    (
        same,
        """
        relu silu gelu hardswish leaky_relu elu celu selu mish softplus prelu _prelu_kernel
        threshold tanh clamp_min clamp_max rrelu_with_noise log_softmax _log_softmax abs neg
        dropout native_dropout feature_dropout alpha_dropout batch_norm native_batch_norm
        _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        _native_batch_norm_legit_functional native_layer_norm layer_norm native_group_norm
        group_norm rms_norm _fused_rms_norm instance_norm
        clone alias detach contiguous lift_fresh _to_copy to stream_read stream_write
        """,
    ),
    (
        linear,
        """
        sum reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
        replication_pad3d zero_pad2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa im2col col2im unfold index gather amax
        """,
    ),
    (_gate, "sigmoid hardsigmoid _softmax softmax _safe_softmax"),
    (_bounded, "hardtanh clamp"),
    (_gated_half, "glu"),
    (_statistic, "var_mean std_mean var std linalg_vector_norm"),
    (_of_statistic, "sqrt rsqrt pow"),
    (_blank, "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"),
    (_copied, "copy fill zero"),
    (_set, "set"),
    (_restrided, "as_strided"),
    (lambda call, args: linear(call, args[:2]), "constant_pad_nd"),  # by zero
    (_packed, "_pack_padded_sequence"),
    (_join, "cat stack"),
    (_add, "add"),
    (lambda call, args: _add(call, [args[0], _multiply(call, args[1:3])]), "addcmul"),
    (_subtract, "sub"),
    (lambda call, args: _subtract(call, args[1::-1]), "rsub"),
    (_multiply, "mul"),
    (_divide, "div"),
    (_convolution, "convolution"),
    (_deformed, "deform_conv2d"),
    (_product, "mm bmm matmul"),
    (lambda call, args: _product(call, args[1:]), "addmm"),
    (_functional_linear, "linear"),
    (_signed, "_fft_r2c _fft_c2r _fft_c2c"),
)
READINGS: dict[str, Handler] = {
    **dict.fromkeys((*_KEEPING, *MAX_POOLS, *_ADAPTIVE_MAX_POOLS), linear),
    **{name: handler for handler, names in _BY_READING for name in names.split()},
}
"""Linear readings by the operation's name; a max-pool is read as it is."""

AVERAGES: dict[str, Handler] = {
    **dict.fromkeys(MAX_POOLS, _pooled),
    **dict.fromkeys(_ADAPTIVE_MAX_POOLS, _adaptively_pooled),
    "amax": _mean,
}
"""Readings of maxima as averages, which make R multilinear."""
