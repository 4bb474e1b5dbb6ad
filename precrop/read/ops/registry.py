"""The table of handlers, and what they share."""

from collections.abc import Callable, Sequence

from precrop.read.axes import Axis, axis_size, constant
from precrop.read.known import Axes, constants
from precrop.read.reader import Handler, Reader
from precrop.read.trace import Call

HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations by their base names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def along(reader: Reader, call: Call, name: str = "dim") -> tuple[list[Axis], int]:
    """The first operand's axes, and which of them an argument names."""
    axes = list(reader.axes(call.inputs[0]))
    return axes, call.arg(name) % len(axes)


def fixed(reader: Reader, axes: Sequence[Axis], dim: int, shape: Sequence[int]) -> list[Axis]:
    """The axes with one that stays fixed, whatever size it has in an output, if it is there."""
    reader.freeze(axes[dim])
    rest = len(axes) - dim - 1
    return [*axes[:dim], *constants(shape[dim : len(shape) - rest]), *axes[dim + 1 :]]


def stating(reader: Reader, name: str, axes: Sequence[Axis]) -> Axes:
    """The axes, whose sizes the integers of an argument state."""
    for index, axis in enumerate(axes):
        reader.literal(name, index, axis)
    return tuple(axes)


def broadcast(reader: Reader, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Unite the axes of operands that are aligned from the last one on."""
    result: list[Axis] = []
    for position in range(1, len(shape) + 1):
        axis: Axis | None = None
        for other in (axes[-position] for axes in operands if position <= len(axes)):
            if axis is None or (axis_size(axis) == 1 and axis_size(other) != 1):
                axis = other
            elif axis_size(other) == axis_size(axis):
                axis = reader.unify(axis, other)
        result.append(constant(shape[-position]) if axis is None else axis)
    return tuple(reversed(result))


def with_vectors(reader: Reader, call: Call, axis: Axis, *names: str) -> Axis:
    """An axis that is also the only one of some arguments: a bias, the scale of a norm."""
    for name in names:
        if call.arg(name) is not None:
            axis = reader.unify(axis, reader.axes(call.arg(name))[0])
    return axis


def asked(call: Call, *gradients: Axes) -> list[Axes]:
    """Those of a call's gradients that it was asked for."""
    wanted = call.arg("output_mask")
    return [axes for axes, one in zip(gradients, wanted, strict=True) if one]
