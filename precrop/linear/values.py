"""What one operation of a replayed pass hands to the next.

R leaves float32, and in deep networks float64, so a flow is kept as values times a power of two.
The powers are constants: a gradient of the values is that of R up to one common factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp
from typing import Any

from torch import Tensor

from precrop.errors import PrecropError

_LARGE = 40
"""Values beyond two to this power, or its inverse, are scaled back: far from float32's end."""
_VANISHED = -1000
"""Of so small a power of two nothing is left in any type."""


class UnreadableError(PrecropError):
    """An operation that has no linear reading."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What reaches a point from the input: ``values * 2**exponent``.

    Attributes:
        shifted: a number was added just now, as in ``relu6(x + 3) / 6``.
    """

    values: Tensor
    exponent: int = 0
    shifted: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """What a bounded function puts out: a factor of one where it multiplies.

    Attributes:
        flow: what it is where it does not; None for a statistic of activations and for a product of
            gates, which are nothing else.
    """

    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Weight:
    """The absolute weights of a layer, perhaps reshaped.

    Attributes:
        values: the weights; where all are alike, one of them.
        even: the weights' shape where all are alike, else None.
    """

    values: Tensor
    even: tuple[int, ...] | None = None

    @property
    def whole(self) -> Tensor:
        """The weights, each written out."""
        return self.values if self.even is None else self.values.expand(self.even)


@dataclass(frozen=True, slots=True)
class Inert:
    """A parameter that is not a layer's weight, or made of one: it does not change the flow."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A further output of an operation, such as the places of maxima, or what was made of one."""


Value = Flow | Gate | Weight | Inert | Unknown | Tensor
"""A plain tensor is a constant: it depends on neither the input nor a parameter."""


def as_flow(value: Any) -> Flow | None:
    """The flow of a value that is one, or of a gate that nothing was multiplied with.

    Raises:
        UnreadableError: it is a gate that can be nothing else.
    """
    if isinstance(value, Gate):
        if value.flow is None:
            raise UnreadableError("it uses a statistic or a product of activations")
        return value.flow
    return value if isinstance(value, Flow) else None


def aligned(flows: Sequence[Flow]) -> list[Flow]:
    """The flows with one exponent, the largest."""
    top = max((flow.exponent for flow in flows), default=0)
    return [flow if flow.exponent == top else _lowered(flow, top) for flow in flows]


def _lowered(flow: Flow, exponent: int) -> Flow:
    down = flow.exponent - exponent
    return Flow(flow.values * (2.0**down if down > _VANISHED else 0.0), exponent)


def normalised(values: Tensor, exponent: int) -> Flow:
    """Values brought back near one where they went far from it."""
    largest = float(values.detach().amax()) if values.numel() else 0.0
    _, power = frexp(largest)
    if abs(power) <= _LARGE:
        return Flow(values, exponent)
    return Flow(values * 2.0**-power, exponent + power)


def expanded(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A flow that something larger was added to, or multiplied with."""
    if tuple(flow.values.shape) == shape:
        return flow
    return Flow(flow.values.expand(shape), flow.exponent)


def flow_of(value: Any) -> Flow:
    """The flow of an input; `UnreadableError` where it has none."""
    flow = as_flow(value)
    if flow is None:
        raise UnreadableError("its input does not come from the network's")
    return flow


def bare(gate: Any) -> bool:
    """Whether it is a gate whose flow is unknown."""
    return isinstance(gate, Gate) and gate.flow is None
