"""Forward passes seen from below: every ATen call with its arguments, shapes and calling module.

A network runs on meta tensors under a `TorchDispatchMode`, so Python control flow and in-place
operations are followed as they happen and nothing is computed. A network that needs values
(a detector's ``nonzero``) runs on real tensors instead.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from precrop.modules.apart import apart
from precrop.modules.hooks import CALL, own_call
from precrop.modules.random import drawn
from precrop.read.corrected import CorrectedReshapes, Correction
from precrop.read.meta import MetaKernels
from precrop.read.operations import OfOperations
from precrop.read.plain import PlainLayers, plain
from precrop.read.recurrence import FoldedSteps
from precrop.read.within import tensors_within

Shape = tuple[int, ...]
Answer = bool | int | float


@dataclass(slots=True)
class Frame:
    """One call of one module: its path in the network, its class, the frame that called it."""

    path: str
    kind: type[nn.Module]
    parent: int


@dataclass(slots=True)
class Call:
    """One ATen call. ``shapes`` are its output tensors' shapes at the time when it returned.

    ``times`` is how often the network makes it, where one step stands for all (`recurrence`).
    ``name`` is the operation's without namespace, overload and in-place underscore (``add``).
    """

    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    shapes: tuple[Shape, ...]
    frame: int
    returned: bool = False
    times: int = 1
    name: str = field(init=False)
    _operands: list[Tensor] | None = None

    def __post_init__(self) -> None:
        """Every call is asked for its name many times."""
        self.name = base_name(self.op)

    @property
    def operands(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        if self._operands is None:
            self._operands = [*_tensors(self.args), *_tensors(self.kwargs.values())]
        return self._operands

    def arg(self, name: str, default: Any = None) -> Any:
        """The argument with this name in the operation's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        position = _POSITIONS.get(self.op).get(name)
        if position is not None and position < len(self.args):
            return self.args[position]
        return default


@dataclass
class Trace:
    """A forward pass: calls in order, module frames, its inputs and outputs.

    ``error`` is set if it raised.

    ``refused`` is the shape that a reshape was asked for and could not give; such a request never
    becomes an ATen call. Only traces with a limit look for it. ``answers`` are the values that were
    taken out of tensors, for Python to branch on. ``assigned`` are the results that the
    pass put in place of parameters' data (``weight.data = kernel``, which is no ATen call), by the
    id of the parameter.
    """

    calls: list[Call] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    error: Exception | None = None
    refused: Shape | None = None
    answers: list[Answer] = field(default_factory=list)
    assigned: dict[int, Tensor] = field(default_factory=dict)


def _name(op: torch._ops.OpOverload) -> str:
    name = op._schema.name.split("::")[1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _positions_in(op: torch._ops.OpOverload) -> dict[str, int]:
    return {a.name: i for i, a in enumerate(op._schema.arguments) if not a.kwarg_only}


_NAMES = OfOperations(_name)
_POSITIONS = OfOperations(_positions_in)


def base_name(op: torch._ops.OpOverload) -> str:
    """Name of an operation without namespace, overload and in-place underscore."""
    return _NAMES.get(op)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def input_tensors(call: Call) -> list[Tensor]:
    """The tensors among a call's arguments, in order."""
    return call.operands


class _LimitError(Exception):
    """Ends a trace that was asked to stop after some calls."""


class _DifferentError(Exception):
    """Ends a trace of which no more is wanted than its first difference."""


Watch = Callable[[int, Call], bool]
"""Whether a trace is to end with a call, which has returned; with its index."""


class _ReshapeWatch(TorchFunctionMode):
    """Notes the shape that a failing ``reshape`` or ``unflatten`` was asked for."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        asked = _ASKED.get(function)
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError:
            if asked is not None:
                self.trace.refused = asked(*args, **(kwargs or {}))
            raise


def _reshaped(x: Tensor, *shape: Any) -> Shape:
    return tuple(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)


def _unflattened(x: Tensor, dim: int, sizes: Sequence[int]) -> Shape:
    dim %= x.dim()
    return (*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


_ASKED: dict[Any, Callable[..., Shape]] = {
    **dict.fromkeys((Tensor.reshape, torch.reshape), _reshaped),
    **dict.fromkeys((Tensor.unflatten, torch.unflatten), _unflattened),
}


_SCALAR = torch.ops.aten._local_scalar_dense.default


# Lists of more values than this are no answers: an image that other libraries look at.
MOST_VALUES = 1000
# What has values of its own, whatever its operands'.
MAKING = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")


def _kind(tensor: Tensor) -> type[Answer]:
    """The Python type of a tensor's values."""
    if tensor.dtype == torch.bool:
        return bool
    return float if tensor.is_floating_point() else int


class _Values(TorchFunctionMode):
    """Takes values out of tensors one by one: lists and arrays of them would not be seen."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in _LISTING and isinstance(args[0], Tensor) and args[0].numel() <= MOST_VALUES:
            values = _listed(args[0])
            if function is not Tensor.tolist:
                return np.array(values, dtype=function(args[0].detach(), *args[1:]).dtype)
            return values
        return function(*args, **(kwargs or {}))


_LISTING = (Tensor.tolist, Tensor.numpy, Tensor.__array__)


def _listed(tensor: Tensor) -> Any:
    return tensor.item() if tensor.dim() == 0 else [_listed(entry) for entry in tensor.unbind(0)]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self,
        trace: Trace,
        stack: list[int],
        meta: MetaKernels | None,
        limit: int | None,
        answers: Sequence[Answer],
        correction: Correction | None,
        watch: Watch | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.stack, self.meta, self.limit = trace, stack, meta, limit
        self.random = torch.Generator().manual_seed(0)
        self.answers = answers
        self.correction = correction
        self.watch = watch
        self.follows: set[int] = set()
        """Ids of tensors that follow from inputs or parameters."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; keeping PyTorch's compiler off takes time at each call."""
        return False

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        parts = plain(op)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        call = Call(op, args, kwargs, [], (), self.stack[-1])
        self.trace.calls.append(call)  # before it runs: a call that raises is the last one
        if self.limit is not None and len(self.trace.calls) >= self.limit:
            raise _LimitError
        index = len(self.trace.calls) - 1
        if self.correction is None:
            out = self._run(call)
        else:
            out = self.correction.run(index, op, lambda: self._run(call))
        call.outputs = [out] if isinstance(out, Tensor) else _output_list(out)
        call.shapes = tuple(tuple(o.shape) for o in call.outputs)
        call.returned = True
        if self.meta is None:
            self._follow(call)
        if self.watch is not None and self.watch(index, call):
            raise _DifferentError
        return out

    def _run(self, call: Call) -> Any:
        op, args, kwargs = call.op, call.args, call.kwargs
        if self.meta is None and op is _SCALAR and self._is_answer(args[0]):
            given = self.answers[len(self.trace.answers) :][:1]
            known = bool(given) and type(given[0]) is _kind(args[0])
            self.trace.answers.append(given[0] if known else op(*args, **kwargs))
            return self.trace.answers[-1]
        if self.meta is None:
            return drawn(op, args, kwargs, self.random)
        devices = {tensor.is_meta for tensor in call.operands}
        if devices == {True, False}:
            # A constant made on the CPU in forward meets meta tensors.
            args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        if True in devices:
            return self.meta(op, args, kwargs)
        return drawn(op, args, kwargs, self.random)

    def _follow(self, call: Call) -> None:
        operands = map(id, call.operands)
        if call.name not in MAKING and not self.follows.isdisjoint(operands):
            self.follows.update(map(id, call.outputs))

    def _is_answer(self, tensor: Tensor) -> bool:
        """Whether a value is one to branch on; a whole number may be a size or place, too."""
        return _kind(tensor) is not int or id(tensor) in self.follows


def _output_list(out: Any) -> list[Tensor]:
    return list(_tensors(out)) if isinstance(out, (list, tuple)) else []


@contextmanager
def _module_frames(
    modules: Mapping[str, nn.Module], trace: Trace, stack: list[int]
) -> Iterator[None]:
    """Note calls of the network's modules, on these instances: other threads have theirs.

    What is not registered, or made in forward, is part of the module that calls it.
    """
    before = [(module, module.__dict__.get(CALL)) for module in modules.values()]
    for path, module in modules.items():
        module.__dict__[CALL] = _noted(module, path, trace.frames, stack)
    try:
        yield
    finally:
        for module, call in before:
            del module.__dict__[CALL]
            if call is not None:
                module.__dict__[CALL] = call


def _noted(
    module: nn.Module, path: str, frames: list[Frame], stack: list[int]
) -> Callable[..., Any]:
    """The call of a module, hooks included, that notes its frame."""
    call, kind = own_call(module), type(module)

    def noted(*args: Any, **kwargs: Any) -> Any:
        frames.append(Frame(path, kind, stack[-1]))
        stack.append(len(frames) - 1)
        try:
            return call(*args, **kwargs)
        finally:
            stack.pop()

    return noted


def _plain_layers(
    parameters: Iterable[Tensor], meta: MetaKernels | None
) -> PlainLayers | nullcontext[None]:
    """What a trace needs to see plain layers: on meta tensors nothing is fused."""
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    layers = PlainLayers(dtype)
    return nullcontext() if meta is not None and layers.default is None else layers


def _recurs(modules: Iterable[nn.Module]) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in modules)


def run(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    meta: MetaKernels | None,
    limit: int | None = None,
    layers: TorchFunctionMode | None = None,
    *,
    fold: bool = False,
    answers: Sequence[Answer] = (),
    correction: Correction | None = None,
    watch: Watch | None = None,
) -> Trace:
    """Run ``model(*args, **kwargs)`` and record it; an exception ends the trace and is kept in it.

    The model is a copy that nothing else runs meanwhile; nothing but it is changed for the time.

    ``meta`` is None for a run on real tensors. With a ``limit`` the trace ends when that many calls
    were made, before the last one runs. ``layers`` says into what operations layers that PyTorch
    fuses are taken apart; ``fold`` reads the steps of recurrent layers once, on meta tensors.
    ``answers`` are given where Python asks a tensor for such a value, in order; beyond them the
    tensors' own values are. A ``correction`` lets the trace go on behind calls that differ; a
    ``watch`` ends it, without an error.
    """
    trace = Trace(inputs=tensors_within((args, kwargs)))
    stack = [-1]
    modules = dict(model.named_modules())
    whole = limit is None and watch is None
    before = _storages(modules.values()) if whole else []
    recorder = _Recorder(trace, stack, meta, limit, answers, correction, watch)
    recorder.follows.update(map(id, (*trace.inputs, *_parameters(modules.values()))))
    try:
        with (
            apart(),
            torch.no_grad(),
            layers or _plain_layers(_parameters(modules.values()), meta),
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            _module_frames(modules, trace, stack),
            _ReshapeWatch(trace) if limit is not None else nullcontext(),
            FoldedSteps(trace.calls) if fold and _recurs(modules.values()) else nullcontext(),
            CorrectedReshapes(correction, trace.calls) if correction else nullcontext(),
            _Values() if meta is None else nullcontext(),
            recorder,
        ):
            trace.outputs = tensors_within(model(*args, **kwargs))
    except _DifferentError:
        pass
    except Exception as error:  # whatever the network's own forward raises
        trace.error = error
    if before:
        trace.assigned = _assigned(before, _storages(modules.values()), trace.calls)
    return trace


def _parameters(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """The parameters of modules themselves, in order; quicker than asking the whole network."""
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                yield parameter


def _storages(modules: Iterable[nn.Module]) -> list[tuple[Tensor, int]]:
    """Parameters, and where the data of each is."""
    return [(p, _place(p)) for p in _parameters(modules) if p.layout == torch.strided]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _assigned(
    before: list[tuple[Tensor, int]], after: list[tuple[Tensor, int]], calls: list[Call]
) -> dict[int, Tensor]:
    """The results that now are parameters' data, by the id of the parameter."""
    first = {id(tensor): place for tensor, place in before}
    moved = {id(t): (t, place) for t, place in after if first.get(id(t), place) != place}
    if not moved:
        return {}
    places = {(_place(made), made.shape): made for call in calls for made in call.outputs}
    found = {key: places.get((place, tensor.shape)) for key, (tensor, place) in moved.items()}
    return {key: made for key, made in found.items() if made is not None}


# Modules that only scale what passes through them, and only in train mode.
DROPPING = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "StochasticDepth", "DropPath")


def same_path(evaluation: Trace, training: Trace) -> bool:
    """Whether train mode makes and returns what eval mode does, dropping and batch counts apart.

    Then whatever holds for the sizes in one pass holds for those in the other.
    """
    return _path(evaluation) == _path(training)


def _path(trace: Trace) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
    """Calls in order, each with its module; which of their outputs the network returns."""
    path: list[tuple[str, str]] = []
    made: dict[int, tuple[int, int]] = {}
    for call in trace.calls:
        frame = trace.frames[call.frame] if call.frame >= 0 else None
        counts_batches = call.name == "add" and call.shapes == ((),)
        if counts_batches or (frame is not None and frame.kind.__name__ in DROPPING):
            places = [made[id(tensor)] for tensor in input_tensors(call) if id(tensor) in made]
            made |= dict.fromkeys(map(id, call.outputs), places[0] if places else (-1, -1))
            continue
        made |= {id(tensor): (len(path), place) for place, tensor in enumerate(call.outputs)}
        path.append((call.name, frame.path if frame is not None else ""))
    return path, [made.get(id(tensor), (-1, -1)) for tensor in trace.outputs]
