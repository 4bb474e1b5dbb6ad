"""The values that operations of a replayed pass take and return.

R exceeds the range of float32, in deep networks also of float64, so a flow is values times a power
of two. The powers are constants: gradients of the values are those of R up to a common factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp
from typing import Any

from torch import Tensor

from precrop.errors import PrecropError

_LARGE = 40
"""Power of two beyond which (or below its inverse) values are rescaled, well within float32."""
_VANISHED = -1000
"""Power of two that counts, like any lower one, as a factor of zero."""


class UnreadableError(PrecropError):
    """Raised for an operation without a linear reading."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What reaches a tensor from the network's input: ``values * 2**exponent``.

    Attributes:
        shifted: whether the last operation added a number, as in ``relu6(x + 3) / 6``.
    """

    values: Tensor
    exponent: int = 0
    shifted: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """The output of a bounded function such as a sigmoid: a factor of one where it multiplies.

    Attributes:
        flow: its value in any other use; None for a statistic of activations or a product of gates,
            which have no other use.
    """

    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Weight:
    """The absolute weights of a layer, perhaps reshaped.

    Attributes:
        values: the weights; a single one if all are equal.
        even: the weights' shape if all are equal, else None.
    """

    values: Tensor
    even: tuple[int, ...] | None = None

    @property
    def whole(self) -> Tensor:
        """The weights as a tensor of their full shape."""
        return self.values if self.even is None else self.values.expand(self.even)


@dataclass(frozen=True, slots=True)
class Inert:
    """A parameter that is no layer's weight, or a value made of it: it leaves flows unchanged."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that the replay does not compute, such as indices of maxima, or one made of it."""


Value = Flow | Gate | Weight | Inert | Unknown | Tensor
"""A plain tensor is a constant: it depends on neither the input nor a parameter."""


def as_flow(value: Any) -> Flow | None:
    """Return the flow that a value is, or that a gate used other than as a factor is; else None.

    Raises:
        UnreadableError: it is a gate without a flow.
    """
    if isinstance(value, Gate):
        if value.flow is None:
            raise UnreadableError("it uses a statistic or a product of activations")
        return value.flow
    return value if isinstance(value, Flow) else None


def aligned(flows: Sequence[Flow]) -> list[Flow]:
    """Return the flows rescaled to the largest of their exponents."""
    top = max((flow.exponent for flow in flows), default=0)
    return [flow if flow.exponent == top else _lowered(flow, top) for flow in flows]


def _lowered(flow: Flow, exponent: int) -> Flow:
    down = flow.exponent - exponent
    return Flow(flow.values * (2.0**down if down > _VANISHED else 0.0), exponent)


def normalised(values: Tensor, exponent: int) -> Flow:
    """Return a flow, its values rescaled near one if they are far from it."""
    largest = float(values.detach().amax()) if values.numel() else 0.0
    _, power = frexp(largest)
    if abs(power) <= _LARGE:
        return Flow(values, exponent)
    return Flow(values * 2.0**-power, exponent + power)


def expanded(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """Return a flow broadcast to the shape of a sum or product."""
    if tuple(flow.values.shape) == shape:
        return flow
    return Flow(flow.values.expand(shape), flow.exponent)


def flow_of(value: Any) -> Flow:
    """Return the flow of an operation's input, or raise `UnreadableError` if it has none."""
    flow = as_flow(value)
    if flow is None:
        raise UnreadableError("its input does not come from the network's")
    return flow


def bare(gate: Any) -> bool:
    """Return whether this is a gate without a flow."""
    return isinstance(gate, Gate) and gate.flow is None
