"""Integer arguments of calls that state sizes: numbers that a module may hold in an attribute."""

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

A tensor of successive integers is listed as the first one and the one behind the last. A list
without a position states its length.
"""
RESHAPES = ("view", "_unsafe_view")


@dataclass(frozen=True)
class Argument:
    """An argument of a call that states the size of an axis: of which pass, call and name."""

    forward: Pass
    index: int
    literal: Literal

    @property
    def call(self) -> Call:
        """The call in the original's pass."""
        return self.forward.trace.calls[self.index]

    @property
    def site(self) -> Site:
        """The place of the call in the code."""
        return self.forward.trace.sites[self.index]

    @property
    def axis(self) -> Axis:
        """The axis whose size it states."""
        return self.forward.readings[self.index].literals[self.literal]

    @property
    def stated(self) -> int | None:
        """Its value in the original."""
        return self.value(self.call)

    def value(self, call: Operation) -> int | None:
        """Its value in a call, if it is an integer there.

        A bound counted from the end is negative; its axis is what lies behind it. It can't be
        compared with one counted from the beginning.
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
        """Whether no shape shows it: where a run of integers begins that index other tensors."""
        name, position = self.literal
        return (self.call.name, name) == ("arange", "start") or (
            position == 0 and isinstance(self.call.arg(name), TensorValue)
        )

    def refused(self, recording: Recording) -> int | None:
        """The size that a failing reshape was asked for in place of a view."""
        shape, position = recording.refused, self.literal[1]
        if shape is None or self.call.name not in RESHAPES or position is None:
            return None
        return int(shape[position]) if len(shape) == len(self.call.arg("size")) else None


def arguments(forward: Pass, index: int) -> list[Argument]:
    """The arguments of a call that state sizes."""
    return [Argument(forward, index, literal) for literal in forward.readings[index].literals]


def differing(forward: Pass, index: int) -> Iterator[Argument]:
    """Those of a call that differs, and of the view behind the copy that a reshape begins with."""
    yield from arguments(forward, index)
    calls = forward.trace.calls[index : index + 2]
    if len(calls) > 1 and calls[0].name == "clone" and calls[1].name in RESHAPES:
        yield from arguments(forward, index + 1)
