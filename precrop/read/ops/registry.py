"""The table of handlers, and what they share."""

from collections.abc import Callable, Sequence

from precrop.read.axes import Axis, axis_size, constant, unify
from precrop.read.reader import Axes, Handler, Reader
from precrop.read.trace import Call

HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations by their base names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


def constants(shape: Sequence[int]) -> Axes:
    """Axes of a tensor that no width reaches."""
    return tuple(map(constant, shape))


def broadcast(reader: Reader, call: Call, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Unite the axes of operands that are aligned from the last one on."""
    result: list[Axis] = []
    for position in range(1, len(shape) + 1):
        axis: Axis | None = None
        for axes in operands:
            if position > len(axes):
                continue
            other = axes[-position]
            if axis is None or (axis_size(axis) == 1 and axis_size(other) != 1):
                axis = other
            elif axis_size(other) == axis_size(axis):
                axis = unify(axis, other, reader.reason(call))
        result.append(constant(shape[-position]) if axis is None else axis)
    return tuple(reversed(result))
