"""What a forward pass was: every ATen call with its arguments, shapes and calling module."""

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
    """One call of one module: its path in the network, its class, the frame that called it."""

    path: str
    kind: type[nn.Module]
    parent: int


Passed = tuple[int, End, Any]
"""What the module of a frame is given (its arguments and those by name), or returns (in a list)."""


@dataclass(frozen=True)
class Site:
    """A place in the code: the n-th call of an operation in forward of a class.

    PyTorch's own layers are everywhere, so a call in one of them is placed by the class that has
    the layer, and the layer's path in it.
    """

    kind: type[nn.Module] | None
    layer: str
    op: str
    occurrence: int


@dataclass(slots=True, eq=False)
class Operation:
    """One ATen call, in whatever form its tensors are.

    Attributes:
        op: the operation.
        args: its arguments by position.
        kwargs: its arguments by name.
        frame: the module's call that makes it; -1 is the network's own code around modules.
        shapes: its outputs' at the time when it returned.
        times: how often the network makes it, where one step stands for all (`recurrence`).
        name: the operation's without namespace, overload and in-place underscore (``add``).
        full_name: with namespace (``vision::roll``), unless that is PyTorch's own.
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
        """Every call is asked for its name many times."""
        self.name, self.full_name = _names(self.op)

    def find(self, table: Mapping[str, T]) -> T | None:
        """What a table has for the operation: under its full name, or else under its name."""
        return table.get(self.full_name, table.get(self.name))

    def arg(self, name: str, default: Any = None) -> Any:
        """The argument with this name in the operation's schema, or its default there.

        ``default`` stands for one that this overload of the operation does not have.
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
    """A call while its pass runs and is compared with others, with the tensors themselves."""

    inputs: Sequence[Tensor] = field(init=False)
    outputs: Sequence[Tensor] = ()
    returned: bool = False

    def __post_init__(self) -> None:
        """Its inputs are the tensors among the arguments, in order."""
        Operation.__post_init__(self)
        self.inputs = tensors_among((*self.args, *self.kwargs.values()))


@dataclass(slots=True, eq=False)
class Call(Operation):
    """A call with values in place of tensors; ``inputs`` are those in the arguments, in order."""

    inputs: tuple[TensorValue, ...] = ()
    outputs: tuple[TensorValue, ...] = ()


@dataclass(frozen=True, eq=False)
class Recording:
    """A forward pass as it ran, however it ended, with its tensors: to be compared, or numbered.

    ``error`` is set if it raised. ``refused`` is the shape that a reshape was asked for and could
    not give; such a request never becomes an ATen call. Only passes with a limit look for it.
    ``answers`` are the numbers that were taken out of tensors, for Python to branch on; ``guessed``
    says whether parameters, which are stand-ins, made one of them. ``decided`` says whether values
    decide what runs: of inputs, parameters or random numbers on real tensors, of random numbers
    alone on meta tensors.
    ``moved`` are parameters whose data is elsewhere than before: ``weight.data = kernel`` is no
    ATen call. ``passed`` is what modules are given and return.
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
    """A forward pass: calls in order, module frames, its inputs and outputs, without a tensor.

    ``assigned`` maps parameters whose data the pass replaced to the results that it put there,
    ``passed`` both ends of every frame to the tensors there, by their places. ``answers``,
    ``guessed`` and ``decided`` are those of the `Recording`.
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
        """The module that makes a call; the empty path is the network."""
        return self.frames[call.frame].path if call.frame >= 0 else ""

    def around(self, index: int) -> list[int]:
        """Module frames around a call, from the innermost."""
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
        """The calls of every place in the code, by their index."""
        found: dict[Site, list[int]] = {}
        for index, site in enumerate(self.sites):
            found.setdefault(site, []).append(index)
        return found

    def _owner(self, call: Call) -> tuple[type[nn.Module] | None, str]:
        """The class around a call that is not one of PyTorch's, and the path from it."""
        if call.frame < 0:
            return None, ""
        owner = self.frames[call.frame]
        while owner.kind.__module__.startswith("torch.nn.") and owner.parent >= 0:
            owner = self.frames[owner.parent]
        return owner.kind, self.path(call)[len(owner.path) :].lstrip(".")

    @property
    def used(self) -> dict[int, str]:
        """The network's tensors that some call takes, with their names."""
        names, taken = self.values.names, (v.number for call in self.calls for v in call.inputs)
        return {number: names[number] for number in taken if number in names}


def numbered(recording: Recording, model: nn.Module) -> Trace:
    """A pass of a model with numbers in place of its tensors."""
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
    """A call with values in place of its tensors."""
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
    """The results that are the data of some parameters now, by the parameter."""

    def place(value: TensorValue) -> Any:
        return values.memories[value.number], values.layouts.get(value.number), value.shape

    if not moved:
        return {}
    made = {place(value): value.number for call in reversed(calls) for value in call.outputs}
    found = {parameter.number: made.get(place(parameter)) for parameter in moved}
    return {number: result for number, result in found.items() if result is not None}


@per_operation
def _names(op: torch._ops.OpOverload) -> tuple[str, str]:
    """As `Operation` has them: without namespace, and with it."""
    namespace, name = op._schema.name.split("::")
    base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return base, base if namespace == "aten" else f"{namespace}::{base}"


@per_operation
def _parameters(op: torch._ops.OpOverload) -> dict[str, tuple[int, Any]]:
    """By name the position and the default; one that is given by name alone has no position."""
    arguments = enumerate(op._schema.arguments)
    return {a.name: (sys.maxsize if a.kwarg_only else i, a.default_value) for i, a in arguments}


def base_name(op: torch._ops.OpOverload) -> str:
    """Name of an operation without namespace, overload and in-place underscore."""
    return _names(op)[0]


def tensors_among(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments and in lists of them, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_among(value)
    return found


# Modules that only scale what passes through them, and only in train mode.
DROPPING = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "StochasticDepth", "DropPath")


CodePath = tuple[list[tuple[str, str, tuple[Any, ...]]], list[Any]]
"""Calls in order, each with its module and what it takes; what the network returns."""


def code_path(recording: Recording) -> CodePath:
    """What a pass makes and returns, dropping and batch counts apart.

    Where it is equal, whatever holds for the sizes in one pass holds for those in the other.
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
