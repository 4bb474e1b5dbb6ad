"""Sums, differences, products and quotients."""

from collections.abc import Sequence
from typing import Any

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
    bare,
    expanded,
)
from precrop.read.trace import Call


def add(call: Call, args: Sequence[Any]) -> Value:
    """Read a sum: constants and parameters in it do not depend on the input and are dropped.

    Weights are added to weights. The second operand's factor ``alpha`` is kept.
    """
    one, other = _ranked(args)
    if isinstance(one, Weight):
        if isinstance(other, (Flow, Gate)):
            raise UnreadableError("weights are added to something")
        if isinstance(other, Weight):
            return Weight(one.whole + abs(call.kwargs.get("alpha", 1)) * other.whole)
        return one
    if isinstance(one, Flow):
        return _sum(call, *args[:2])
    return Gate(None if bare(one) or bare(other) else _sum(call, *args[:2]))


def _ranked(args: Sequence[Any]) -> list[Any]:
    """Sort both operands: weights come first, then flows, then gates, then anything else."""
    kinds = (Weight, Flow, Gate)
    return sorted(args[:2], key=lambda value: [not isinstance(value, kind) for kind in kinds])


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


def subtract(call: Call, args: Sequence[Any]) -> Any:
    """Read a difference with a constant, a parameter or weights' own mean, which is dropped."""
    first, second = args[:2]
    if isinstance(first, Weight) and not isinstance(second, (Flow, Gate)):
        return first
    one, other = _ranked(args)
    if isinstance(one, Gate) and not isinstance(other, Gate):
        return one
    if isinstance(first, Flow) and not isinstance(second, (Flow, Gate, Weight)):
        return expanded(first, call.shapes[0])
    raise UnreadableError("it subtracts activations")


def multiply(call: Call, args: Sequence[Any]) -> Value:
    """Read a product with a constant, a gate or a parameter that is not a layer's weight."""
    one, other = _ranked(args)
    if isinstance(one, Weight):
        if isinstance(other, (Flow, Gate, Weight)):
            raise UnreadableError("a weight multiplies something elementwise")
        return one if isinstance(other, Inert) else _scaled(one, other)
    if isinstance(one, Flow):
        if one is other:
            return Gate(None)  # a square, as in norms written out
        if isinstance(other, Flow):
            raise UnreadableError("it multiplies activations with each other")
        if isinstance(other, (Gate, Inert)):
            return expanded(one, call.shapes[0])
        return Flow(one.values * _factor(other, one.values), one.exponent)
    return Gate(None) if isinstance(other, Gate) else one


def divide(call: Call, args: Sequence[Any]) -> Value:
    """Read a quotient by a constant.

    Dividing by a parameter, by a tensor's own norm or by a number plus an activation (softsign's
    ``x / (1 + |x|)``) counts as a normalisation, which changes nothing.
    """
    first, second = args[:2]
    shifted = isinstance(second, Flow) and second.shifted
    if isinstance(first, Weight):
        if isinstance(second, (Flow, Gate)):
            raise UnreadableError("it divides by an activation")
        if isinstance(second, (Inert, Weight)):
            return first
        return _scaled(first, 1 / second)
    if isinstance(first, Gate) and not isinstance(second, (Flow, Weight)):
        return first
    if isinstance(first, Flow) and (isinstance(second, Inert) or bare(second) or shifted):
        return expanded(first, call.shapes[0])
    if not isinstance(first, Flow) or isinstance(second, (Flow, Gate, Weight)):
        raise UnreadableError("it divides by an activation")
    return Flow(first.values / _factor(second, first.values), first.exponent)


def _factor(constant: Any, like: Tensor) -> Any:
    return constant.to(like).abs() if isinstance(constant, Tensor) else abs(constant)


def _scaled(weight: Weight, factor: Any) -> Weight:
    if isinstance(factor, Tensor) and factor.dim():
        return Weight(weight.whole * _factor(factor, weight.values))
    return Weight(weight.values * _factor(factor, weight.values), weight.even)
