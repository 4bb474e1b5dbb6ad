"""Register an operation, both for reading networks and for the linear replay."""

from collections.abc import Callable, Sequence
from typing import Any

from precrop.errors import PrecropError
from precrop.linear.readings.shapes import linear
from precrop.linear.readings.table import READINGS
from precrop.linear.readings.table import Handler as LinearHandler
from precrop.linear.readings.unchanged import same
from precrop.read.known import Axes
from precrop.read.ops import handles
from precrop.read.reader import Handler, Reader
from precrop.read.trace import Call

LINEAR: dict[str, LinearHandler] = {"same": same, "linear": linear}
"""Linear readings by name. ``same`` returns the first argument unchanged, as for activations and
normalisations; ``linear`` runs the operation, which must be linear in its first argument."""


def _same_axes(reader: Reader, call: Call) -> Sequence[Axes]:
    """Give every output the axes of the first argument."""
    return [reader.axes(call.args[0]) for _ in call.shapes]


AXES: dict[str, Handler] = {"same": _same_axes}


def op(
    *names: str, axes: Handler | str | None = None, linear: LinearHandler | str | None = None
) -> Callable[[Handler], Handler]:
    """Declare what an operation does to sizes, and how SynFlow and the exact objective read it.

    Args:
        names: names of ATen or custom operations, without overload and in-place underscore. A name
            with its namespace (``vision::roll``) means that custom operation; one without means
            every operation of that name, ATen's included.
        axes: a handler, or ``same``: each output has the axes of the first argument. Leave it out
            to decorate the handler with what is returned.
        linear: a linear reading, or ``same`` (an activation: returns the first argument), or
            ``linear`` (runs the operation itself, which needs a gradient). Without one, methods
            that replay the network refuse the operation.

    Returns:
        A decorator for the handler of axes.

    Raises:
        PrecropError: ``axes`` or ``linear`` is an unknown name.
    """
    reading = _known("linear", linear, LINEAR)
    if reading is not None:
        READINGS.update(dict.fromkeys(names, reading))

    register = handles(*names)
    handler = _known("axes", axes, AXES)
    if handler is not None:
        register(handler)
    return register


def _known(what: str, given: Any, table: dict[str, Any]) -> Any:
    if isinstance(given, str) and given not in table:
        known = ", ".join(map(repr, table))
        raise PrecropError(f"{what}={given!r} is unknown: write {known} or a function")
    return table[given] if isinstance(given, str) else given
