"""The record of a forward pass: every ATen call with its arguments, shapes and calling module."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from precrop.modules.names import named_tensors
from precrop.modules.streams import At, End, given_to, tensors_at
from precrop.read.operations import per_operation
from precrop.read.values import Numbering, Shape, TensorValue, Values

T = TypeVar("T")
Answer = bool | int | float


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of one module: its path, its class and the index of the frame that called it."""

    path: str
    kind: type[nn.Module]
    parent: int


Passed = tuple[int, End, Any]
"""A frame's index, its end, and what it takes there (``args, kwargs``) or returns (in a list)."""


@dataclass(frozen=True)
class Site:
    """A place in the code: the n-th call of an operation in one call of a class' ``forward``.

    For a call inside one of PyTorch's own layers, ``kind`` is the class of the module that contains
    the layer, and ``layer`` is the layer's path in that module.
    """

    kind: type[nn.Module] | None
    layer: str
    op: str
    occurrence: int


@dataclass(slots=True, eq=False)
class Operation:
    """One ATen call; subclasses say whether it holds tensors or their numbers.

    Attributes:
        op: the operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        frame: index of the module frame that makes it; -1 outside of all modules.
        shapes: the shapes of its outputs when it returned.
        times: how often the network makes it, where one step stands for all (`recurrence`).
        name: the operation's name without namespace, overload and in-place underscore (``add``).
        full_name: the name with its namespace (``vision::roll``), unless that is ``aten``.
    """

    op: torch._ops.OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    frame: int = -1
    shapes: tuple[Shape, ...] = ()
    times: int = 1
    name: str = field(init=False)
    full_name: str = field(init=False)

    def __post_init__(self) -> None:
        """Set the names once, since they are read many times."""
        self.name, self.full_name = _names(self.op)

    def find(self, table: Mapping[str, T]) -> T | None:
        """Look up the operation in a table, by its full name or else by its name."""
        return table.get(self.full_name, table.get(self.name))

    def arg(self, name: str, default: Any = None) -> Any:
        """Return the argument with this name in the operation's schema, or its default there.

        If this overload has no such argument, return ``default``.
        """
        if name in self.kwargs:
            return self.kwargs[name]
        found = _parameters(self.op).get(name)
        if found is None:
            return default
        position, own = found
        return self.args[position] if position < len(self.args) else own


@dataclass(slots=True, eq=False)
class Step(Operation):
    """A call with its tensors, as recorded while the pass runs."""

    inputs: Sequence[Tensor] = field(init=False)
    outputs: Sequence[Tensor] = ()
    returned: bool = False

    def __post_init__(self) -> None:
        """Collect the inputs: the tensors among the arguments, in order."""
        Operation.__post_init__(self)
        self.inputs = tensors_among((*self.args, *self.kwargs.values()))


@dataclass(slots=True, eq=False)
class Call(Operation):
    """A call with `TensorValue` in place of tensors; ``inputs`` are those among the arguments."""

    inputs: tuple[TensorValue, ...] = ()
    outputs: tuple[TensorValue, ...] = ()


@dataclass(frozen=True, eq=False)
class Recording:
    """A forward pass as it ran, with its tensors, even if it failed or was ended early.

    ``error`` is the exception if it raised one. ``refused`` is the shape that a failing reshape was
    asked for, which never becomes an ATen call; only passes with a limit note it. ``answers`` are
    the values that Python took out of tensors to branch on; ``guessed`` says whether one of them
    was computed from parameters, which are stand-ins. ``decided`` says whether values decide what
    runs: of inputs, parameters or random numbers on real tensors, only of random numbers on meta
    tensors. ``moved`` are parameters whose data was replaced, as ``weight.data = kernel`` does
    without an ATen call. ``passed`` is what modules take and return.
    """

    calls: Sequence[Step] = ()
    frames: Sequence[Frame] = ()
    passed: Sequence[Passed] = ()
    inputs: Sequence[Tensor] = ()
    outputs: Sequence[Tensor] = ()
    error: BaseException | None = None
    refused: Shape | None = None
    answers: Sequence[Answer] = ()
    guessed: bool = False
    decided: bool = False
    moved: Sequence[nn.Parameter] = ()


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward pass with numbers in place of its tensors: calls, module frames, inputs, outputs.

    ``assigned`` maps each parameter whose data the pass replaced to the result put there (both by
    number). ``passed`` maps each end of every frame to the tensors there, by their places.
    ``answers``, ``guessed`` and ``decided`` are those of the `Recording`.
    """

    calls: Sequence[Call] = ()
    frames: Sequence[Frame] = ()
    inputs: tuple[TensorValue, ...] = ()
    outputs: tuple[TensorValue, ...] = ()
    answers: Sequence[Answer] = ()
    guessed: bool = False
    decided: bool = False
    values: Values = field(default_factory=Values)
    assigned: Mapping[int, int] = field(default_factory=dict)
    passed: Mapping[tuple[int, End], Mapping[At, TensorValue]] = field(default_factory=dict)

    def path(self, call: Call) -> str:
        """Return the path of the module that makes a call; the empty path is the network."""
        return self.frames[call.frame].path if call.frame >= 0 else ""

    def around(self, index: int) -> list[int]:
        """Return the module frames around a call, innermost first."""
        frames = []
        frame = self.calls[index].frame
        while frame >= 0:
            frames.append(frame)
            frame = self.frames[frame].parent
        return frames

    @cached_property
    def sites(self) -> list[Site]:
        """The place in the code of every call."""
        counts = Counter[tuple[int, str]]()
        found = []
        for call in self.calls:
            found.append(Site(*self._owner(call), call.name, counts[call.frame, call.name]))
            counts[call.frame, call.name] += 1
        return found

    @cached_property
    def places(self) -> dict[Site, list[int]]:
        """For every place in the code, the indices of its calls."""
        found: dict[Site, list[int]] = {}
        for index, site in enumerate(self.sites):
            found.setdefault(site, []).append(index)
        return found

    def _owner(self, call: Call) -> tuple[type[nn.Module] | None, str]:
        """Return the innermost class around a call that is not PyTorch's, and the path from it."""
        if call.frame < 0:
            return None, ""
        owner = self.frames[call.frame]
        while owner.kind.__module__.startswith("torch.nn.") and owner.parent >= 0:
            owner = self.frames[owner.parent]
        return owner.kind, self.path(call)[len(owner.path) :].lstrip(".")

    @property
    def used(self) -> dict[int, str]:
        """The names of the network's tensors that some call takes, by number."""
        names, taken = self.values.names, (v.number for call in self.calls for v in call.inputs)
        return {number: names[number] for number in taken if number in names}


def numbered(recording: Recording, model: nn.Module) -> Trace:
    """Return the trace of a recorded pass: the same without its tensors."""
    numbering = Numbering(named_tensors(model))
    inputs = tuple(map(numbering.given, recording.inputs))
    calls = [numbered_call(step, numbering) for step in recording.calls]
    outputs = tuple(map(numbering.given, recording.outputs))
    moved = [numbering.given(parameter) for parameter in recording.moved]
    passed: dict[tuple[int, End], dict[At, TensorValue]] = {}
    for frame, end, given in recording.passed:
        for at, tensor in tensors_at(given_to(*given) if end == "read" else given):
            if (value := numbering.met(tensor)) is not None:
                passed.setdefault((frame, end), {})[at] = value
    values = numbering.values()
    assigned = _assigned(moved, calls, values)
    same = recording.answers, recording.guessed, recording.decided
    return Trace(calls, recording.frames, inputs, outputs, *same, values, assigned, passed)


def numbered_call(step: Step, numbering: Numbering) -> Call:
    """Return a recorded call with values in place of its tensors."""
    inputs: list[TensorValue] = []
    args = numbering.replaced(step.args, inputs)
    named = numbering.replaced(step.kwargs.values(), inputs)
    kwargs = dict(zip(step.kwargs, named, strict=True))
    outputs = tuple(map(numbering.made, step.outputs, step.shapes))
    same = step.frame, step.shapes, step.times
    return Call(step.op, args, kwargs, *same, tuple(inputs), outputs)


def _assigned(
    moved: Sequence[TensorValue], calls: Sequence[Call], values: Values
) -> dict[int, int]:
    """Return, by parameter, the number of the call result that became its data."""

    def place(value: TensorValue) -> Any:
        return values.memories[value.number], values.layouts.get(value.number), value.shape

    if not moved:
        return {}
    made = {place(value): value.number for call in reversed(calls) for value in call.outputs}
    found = {parameter.number: made.get(place(parameter)) for parameter in moved}
    return {number: result for number, result in found.items() if result is not None}


@per_operation
def _names(op: torch._ops.OpOverload) -> tuple[str, str]:
    """Return an operation's ``name`` and ``full_name`` (see `Operation`)."""
    namespace, name = op._schema.name.split("::")
    base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return base, base if namespace == "aten" else f"{namespace}::{base}"


@per_operation
def _parameters(op: torch._ops.OpOverload) -> dict[str, tuple[int, Any]]:
    """Return each parameter's position and default; keyword-only ones have ``sys.maxsize``."""
    arguments = enumerate(op._schema.arguments)
    return {a.name: (sys.maxsize if a.kwarg_only else i, a.default_value) for i, a in arguments}


def base_name(op: torch._ops.OpOverload) -> str:
    """Return an operation's name without namespace, overload and in-place underscore."""
    return _names(op)[0]


def tensors_among(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among arguments, also in nested lists and tuples, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_among(value)
    return found


# Classes of modules that change nothing in eval mode, and drop or scale values in train mode.
DROPPING = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "StochasticDepth", "DropPath")


CodePath = tuple[list[tuple[str, str, tuple[Any, ...]]], list[Any]]
"""Calls in order, each with its module and the origins of its inputs; the outputs' origins."""


def code_path(recording: Recording) -> CodePath:
    """Return the calls of a pass and where their inputs come from, without dropout and counters.

    If two passes have the same code path, what holds for the sizes in one holds in the other.
    """
    path: list[tuple[str, str, tuple[Any, ...]]] = []
    made = {id(tensor): (-1, place) for place, tensor in enumerate(recording.inputs)}

    def origin(tensor: Tensor) -> Any:
        return made.get(id(tensor), id(tensor) if isinstance(tensor, nn.Parameter) else None)

    for call in recording.calls:
        frame = recording.frames[call.frame] if call.frame >= 0 else None
        counts_batches = call.name == "add" and call.shapes == ((),)
        taken = tuple(map(origin, call.inputs))
        if counts_batches or (frame is not None and frame.kind.__name__ in DROPPING):
            made |= dict.fromkeys(map(id, call.outputs), next(filter(None, taken), (-1, -1)))
            continue
        made |= {id(tensor): (len(path), place) for place, tensor in enumerate(call.outputs)}
        path.append((call.name, frame.path if frame is not None else "", taken))
    return path, [*map(origin, recording.outputs)]
