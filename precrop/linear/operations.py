"""Registering an operation once, for reading and for the linear replay."""

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
"""Readings by name: the first argument as it is, as of an activation or a normalisation; the
operation itself, which is linear in the one argument that depends on the input."""


def _same_axes(reader: Reader, call: Call) -> Sequence[Axes]:
    """Every output has the axes of the first tensor."""
    return [reader.axes(call.args[0]) for _ in call.shapes]


AXES: dict[str, Handler] = {"same": _same_axes}


def op(
    *names: str, axes: Handler | str | None = None, linear: LinearHandler | str | None = None
) -> Callable[[Handler], Handler]:
    """Say what an operation does to sizes, and what SynFlow and the exact objective make of it.

    Args:
        names: of ATen or custom operations, without overload and in-place underscore. With its
            namespace (``vision::roll``) a name is that of one custom operation; without, it is
            that of every operation so called, ATen's among them.
        axes: a handler, or ``same``: each output has the axes of the first argument. Left out
            where what is returned here decorates the handler.
        linear: a linear reading, or ``same`` (an activation: the first argument as it is), or
            ``linear`` (the operation itself, which needs a gradient). Without one, methods that
            replay the network refuse the operation.

    Returns:
        A decorator of the handler of axes.

    Raises:
        PrecropError: an unknown word.
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
