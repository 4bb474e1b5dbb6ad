"""Convolutions and matrix products with a weight."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from precrop.linear.values import (
    Flow,
    Gate,
    Inert,
    UnreadableError,
    Weight,
    bare,
    flow_of,
    normalised,
)
from precrop.read.trace import Call


def convolution(call: Call, args: Sequence[Any]) -> Flow | Gate | Inert:
    """Read a convolution; with equal weights it computes only one channel per group."""
    if _constant(args[0]):
        return Inert()
    if bare(args[0]):
        return Gate(None)
    flow, weight = _operands(args[0], args[1])
    stride, padding, dilation, transposed, output_padding, groups = args[3:9]
    geometry = (stride, padding, dilation, transposed, output_padding)
    if weight.even is None:
        values = torch.convolution(flow.values, weight.values, None, *geometry, groups)
        return normalised(values, flow.exponent)
    # With equal weights the input channels can be summed first, so one channel per group is enough,
    # and one in total where all channels are one that was expanded (stride 0).
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


def deformed(call: Call, args: Sequence[Any]) -> Any:
    """Read a deformable convolution as a plain one; its mask is a gate."""
    x, weight, _, mask, bias, *window = args[:11]
    if isinstance(mask, Flow):
        raise UnreadableError("it multiplies activations with each other")
    stride, padding, dilation = window[:2], window[2:4], window[4:]
    return convolution(
        call, [x, weight, bias, stride, padding, dilation, False, [0, 0], call.arg("groups")]
    )


def product(call: Call, args: Sequence[Any]) -> Flow | Inert:
    """Read a matrix product of activations (..., n, k) with a weight (k, m), batched or not.

    The left operand may be the weight, as sometimes in `torch.einsum`, or a constant such as a
    graph's adjacency matrix. Equal weights give equal outputs.
    """
    if isinstance(args[0], (Weight, Tensor, Inert)) and isinstance(args[1], (Flow, Gate)):
        right, left = _operands(args[1], args[0])
        return normalised(left.whole @ right.values, right.exponent)
    if _constant(args[0]):
        return Inert()
    flow, weight = _operands(args[0], args[1])
    if weight.even is None:
        return normalised(flow.values @ weight.values, flow.exponent)
    sums = flow.values.sum(-1, keepdim=True) * weight.values
    return normalised(sums.expand(call.shapes[0]), flow.exponent)


def _constant(inputs: Any) -> bool:
    """Return whether a layer's input, and so its output, does not depend on the network's input."""
    return isinstance(inputs, (Tensor, Inert))


def _operands(inputs: Any, weight: Any) -> tuple[Flow, Weight]:
    """Return a layer's flow and weight; a constant kernel (a blur) counts by its absolute value."""
    if isinstance(weight, (Flow, Gate)) and isinstance(inputs, (Flow, Gate)):
        raise UnreadableError("it multiplies activations with each other")
    flow = flow_of(inputs)
    if isinstance(weight, Inert):
        raise UnreadableError("its weight belongs to no layer")
    return flow, Weight(weight.to(flow.values).abs()) if isinstance(weight, Tensor) else weight
