"""What passes unchanged, and what does not pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from precrop.linear.values import (
    Flow,
    Gate,
    Inert,
    UnreadableError,
    Value,
    Weight,
    as_flow,
    bare,
    expanded,
    flow_of,
)
from precrop.read.trace import Call

_BOUNDS = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}


def same(call: Call, args: Sequence[Any]) -> Any:
    """The first argument as it is: an activation, a normalisation, a copy."""
    return args[0]


def gate_of(call: Call, args: Sequence[Any]) -> Gate:
    """What lets through a share: a sigmoid, a softmax."""
    if isinstance(args[0], Weight):
        raise UnreadableError("weights pass it")
    return args[0] if isinstance(args[0], Gate) else Gate(as_flow(args[0]))


def bounded(call: Call, args: Sequence[Any]) -> Any:
    """An activation with bounds; a gate if they are those of one, or by hand: ``relu6(x + 3)``."""
    if not isinstance(args[0], Flow):
        return args[0]
    low, high = (call.arg(name) for name in _BOUNDS[call.name])
    gates = low == 0 and (high == 1 or (high is not None and args[0].shifted))
    return Gate(args[0]) if gates else args[0]


def gated_half(call: Call, args: Sequence[Any]) -> Flow:
    """GLU: one half of a tensor, gated by the other."""
    flow = flow_of(args[0])
    return Flow(flow.values.chunk(2, call.arg("dim", -1))[0], flow.exponent)


def packed(call: Call, args: Sequence[Any]) -> list[Any]:
    """Sequences without their padding, and how many go on at every step."""
    flow = flow_of(args[0])
    data, sizes = call.op(flow.values, *args[1:])
    return [Flow(data, flow.exponent), sizes]


def statistic(call: Call, args: Sequence[Any]) -> list[Value]:
    """A variance or a norm, with which its owner is normalised: as any normalisation a factor."""
    return [Inert() if isinstance(args[0], Weight) else Gate(None) for _ in call.outputs]


def of_statistic(call: Call, args: Sequence[Any]) -> Value:
    """A power of a statistic, or of a weight on its way to one; a square is a statistic itself."""
    if isinstance(args[0], Weight):
        return Inert()
    square = call.name == "pow" and args[1] == 2 and isinstance(args[0], (Flow, Gate))
    if square or bare(args[0]):
        return Gate(None)
    raise UnreadableError("it is not linear")


def of_weights(call: Call, args: Sequence[Any]) -> Inert:
    """A product of weights with constants, by which they are normalised (spectral norm)."""
    if any(isinstance(arg, (Flow, Gate)) for arg in args):
        raise UnreadableError("it is not linear")
    return Inert()


def signed(call: Call, args: Sequence[Any]) -> Any:
    """A transform whose coefficients have signs, or are complex."""
    raise UnreadableError("absolute values say nothing of a Fourier transform")


def take_memory(call: Call, args: Sequence[Any]) -> Any:
    """A tensor that gives up its memory, or takes another's."""
    return args[1] if len(args) > 1 else torch.zeros(call.shapes[0])


def blank(call: Call, args: Sequence[Any]) -> Tensor:
    """A constant of a given shape and type, such as ``zeros_like``."""
    flow = flow_of(args[0])
    device = {"device": flow.values.device} if call.kwargs.get("device") is not None else {}
    made: Tensor = call.op(flow.values, *args[1:], **{**call.kwargs, **device})
    return made


def copied(call: Call, args: Sequence[Any]) -> Flow:
    """``copy_`` and its like: what is written; a constant that is written is zero."""
    source = args[1] if len(args) > 1 else None
    if isinstance(source, Weight):
        raise UnreadableError("it writes weights")
    flow = as_flow(source)
    if flow is not None:
        return expanded(flow, call.shapes[0])
    return Flow(torch.zeros_like(flow_of(args[0]).values))
