"""Integer arguments of calls that state sizes, which a module may hold in an attribute."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precrop.read.axes import Axis
from precrop.read.network import Pass
from precrop.read.trace import Call, Operation, Recording, Site
from precrop.read.values import TensorValue, run_of

Literal = tuple[str, int | None]
"""An argument's name and, if it is a list, the position in it.

A tensor of successive integers counts as the list of its first and its last plus one. A list
without a position states its length.
"""
RESHAPES = ("view", "_unsafe_view")


@dataclass(frozen=True)
class Argument:
    """An argument that states the size of an axis, by its pass, the call's index and its name."""

    forward: Pass
    index: int
    literal: Literal

    @property
    def call(self) -> Call:
        """The call in the original network's pass."""
        return self.forward.trace.calls[self.index]

    @property
    def site(self) -> Site:
        """The place of the call in the code."""
        return self.forward.trace.sites[self.index]

    @property
    def axis(self) -> Axis:
        """The axis whose size the argument states."""
        return self.forward.readings[self.index].literals[self.literal]

    @property
    def stated(self) -> int | None:
        """The argument's value in the original network."""
        return self.value(self.call)

    def value(self, call: Operation) -> int | None:
        """Return its value in a call; None if it is no integer there or cannot be compared.

        A negative bound counts from the end and states the size of what lies behind it. One that
        is negative in only one of the two networks cannot be compared.
        """
        value, own = self._given(call), self._given(self.call)
        if type(value) is not int or type(own) is not int:
            return None
        if self.literal[0] in ("start", "end"):
            return abs(value) if (value < 0) == (own < 0) else None
        return value

    def _given(self, call: Operation) -> Any:
        name, position = self.literal
        value = call.arg(name)
        if isinstance(value, TensorValue):
            value = self.forward.trace.values.data.get(value.number)
        if isinstance(value, Tensor):
            value = run_of(value)
        if position is None and isinstance(value, (list, tuple)):
            return len(value)
        if position is not None:
            listed = isinstance(value, (list, tuple)) and position < len(value)
            value = value[position] if listed else None
        return value

    @property
    def is_hidden(self) -> bool:
        """Whether no output shape shows it: the first of successive integers used as indices."""
        name, position = self.literal
        return (self.call.name, name) == ("arange", "start") or (
            position == 0 and isinstance(self.call.arg(name), TensorValue)
        )

    def refused(self, recording: Recording) -> int | None:
        """Return the size that a failing reshape was asked for where the original made a view."""
        shape, position = recording.refused, self.literal[1]
        if shape is None or self.call.name not in RESHAPES or position is None:
            return None
        return int(shape[position]) if len(shape) == len(self.call.arg("size")) else None


def arguments(forward: Pass, index: int) -> list[Argument]:
    """Return the arguments of a call that state sizes."""
    return [Argument(forward, index, literal) for literal in forward.readings[index].literals]


def differing(forward: Pass, index: int) -> Iterator[Argument]:
    """Yield a differing call's arguments; if it is the copy of a reshape, its view's, too."""
    yield from arguments(forward, index)
    calls = forward.trace.calls[index : index + 2]
    if len(calls) > 1 and calls[0].name == "clone" and calls[1].name in RESHAPES:
        yield from arguments(forward, index + 1)
