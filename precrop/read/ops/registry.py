"""The table of handlers, and helpers that they share."""

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
    """Return the first operand's axes and the index of the one that an argument names."""
    axes = list(reader.axes(call.inputs[0]))
    return axes, call.arg(name) % len(axes)


def fixed(reader: Reader, axes: Sequence[Axis], dim: int, shape: Sequence[int]) -> list[Axis]:
    """Freeze one axis; return the axes with its constant size in an output, or without it."""
    reader.freeze(axes[dim])
    rest = len(axes) - dim - 1
    return [*axes[:dim], *constants(shape[dim : len(shape) - rest]), *axes[dim + 1 :]]


def stating(reader: Reader, name: str, axes: Sequence[Axis]) -> Axes:
    """Return axes after noting that the integers of a list argument state their sizes."""
    for index, axis in enumerate(axes):
        reader.literal(name, index, axis)
    return tuple(axes)


def broadcast(reader: Reader, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Unify the axes of operands that are broadcast to a shape; return the result's axes."""
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
    """Unify an axis with those of vector arguments that are given (a bias, a norm's scale)."""
    for name in names:
        if call.arg(name) is not None:
            axis = reader.unify(axis, reader.axes(call.arg(name))[0])
    return axis


def asked(call: Call, *gradients: Axes) -> list[Axes]:
    """Return those of a call's gradients that its ``output_mask`` asks for."""
    wanted = call.arg("output_mask")
    return [axes for axes, one in zip(gradients, wanted, strict=True) if one]
