"""Operations that leave a flow unchanged, gate it, or cannot be read."""

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
    """Return the first argument unchanged: an activation, a normalisation, a copy."""
    return args[0]


def gate_of(call: Call, args: Sequence[Any]) -> Gate:
    """Read a function into [0, 1], such as a sigmoid or a softmax, as a gate."""
    if isinstance(args[0], Weight):
        raise UnreadableError("weights pass it")
    return args[0] if isinstance(args[0], Gate) else Gate(as_flow(args[0]))


def bounded(call: Call, args: Sequence[Any]) -> Any:
    """Read a clamp as an activation; as a gate with bounds 0 and 1 or in ``relu6(x + 3)``."""
    if not isinstance(args[0], Flow):
        return args[0]
    low, high = (call.arg(name) for name in _BOUNDS[call.name])
    gates = low == 0 and (high == 1 or (high is not None and args[0].shifted))
    return Gate(args[0]) if gates else args[0]


def gated_half(call: Call, args: Sequence[Any]) -> Flow:
    """Read GLU, which gates one half of a tensor by the other, as its first half."""
    flow = flow_of(args[0])
    return Flow(flow.values.chunk(2, call.arg("dim", -1))[0], flow.exponent)


def packed(call: Call, args: Sequence[Any]) -> list[Any]:
    """Pack padded sequences; also return how many of them are still running at each step."""
    flow = flow_of(args[0])
    data, sizes = call.op(flow.values, *args[1:])
    return [Flow(data, flow.exponent), sizes]


def statistic(call: Call, args: Sequence[Any]) -> list[Value]:
    """Read a variance or a norm, which normalises its argument, as a factor of one."""
    return [Inert() if isinstance(args[0], Weight) else Gate(None) for _ in call.outputs]


def of_statistic(call: Call, args: Sequence[Any]) -> Value:
    """Read a power of a statistic, or of a weight on its way to one; a square is a statistic."""
    if isinstance(args[0], Weight):
        return Inert()
    square = call.name == "pow" and args[1] == 2 and isinstance(args[0], (Flow, Gate))
    if square or bare(args[0]):
        return Gate(None)
    raise UnreadableError("it is not linear")


def of_weights(call: Call, args: Sequence[Any]) -> Inert:
    """Read a product of weights with constants, which normalises them (spectral norm)."""
    if any(isinstance(arg, (Flow, Gate)) for arg in args):
        raise UnreadableError("it is not linear")
    return Inert()


def signed(call: Call, args: Sequence[Any]) -> Any:
    """Refuse a transform with signed or complex coefficients."""
    raise UnreadableError("absolute values say nothing of a Fourier transform")


def take_memory(call: Call, args: Sequence[Any]) -> Any:
    """Read ``set_``: a tensor takes another's memory, or gives up its own."""
    return args[1] if len(args) > 1 else torch.zeros(call.shapes[0])


def blank(call: Call, args: Sequence[Any]) -> Tensor:
    """Make a constant tensor, as ``zeros_like`` does."""
    flow = flow_of(args[0])
    device = {"device": flow.values.device} if call.kwargs.get("device") is not None else {}
    made: Tensor = call.op(flow.values, *args[1:], **{**call.kwargs, **device})
    return made


def copied(call: Call, args: Sequence[Any]) -> Flow:
    """Return what ``copy_`` and similar operations write; constants count as zero."""
    source = args[1] if len(args) > 1 else None
    if isinstance(source, Weight):
        raise UnreadableError("it writes weights")
    flow = as_flow(source)
    if flow is not None:
        return expanded(flow, call.shapes[0])
    return Flow(torch.zeros_like(flow_of(args[0]).values))
