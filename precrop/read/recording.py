"""Runs a forward pass and records it as it happens.

The network runs on meta tensors under a `TorchDispatchMode`, which sees every ATen call, in-place
ones too, whatever Python control flow leads to it; nothing is computed. A network that needs values
(a detector's ``nonzero``) runs on real tensors instead.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from precrop.errors import PrecropError
from precrop.modules.apart import apart
from precrop.modules.hooks import CALL, HOOKS, own_call
from precrop.modules.instead import FunctionMode, Instead
from precrop.modules.names import modules_of
from precrop.own import OWN_ERRORS
from precrop.read.corrected import CorrectedReshapes, Correction
from precrop.read.inputs import floating_type
from precrop.read.meta import MetaKernels, computed
from precrop.read.operations import per_operation
from precrop.read.plain import PlainLayers, plain
from precrop.read.recurrence import FoldedSteps
from precrop.read.trace import Answer, Frame, Passed, Recording, Step, tensors_among
from precrop.read.values import Shape, memory_of
from precrop.read.within import tensors_within


class _EndError(Exception):
    """Ends a pass of which no more calls are wanted."""


class _SharedError(PrecropError):
    """A copy of a network computes with a tensor of the network itself."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a copy of the network computes with {name} of the network itself: its code finds it "
            "outside of its modules, as in a global variable, a class attribute or a cache; let it "
            "look there for nothing that it has as a module, parameter or buffer"
        )


Watch = Callable[[int, Step], bool]
"""Takes the index of a call, and the call, which has returned; tells whether to end the trace."""


class Ending(TypedDict, total=False):
    """Arguments of `run` that end a trace early or let it go on."""

    limit: int | None
    correction: Correction | None
    watch: Watch | None


class _ReshapeWatch(FunctionMode):
    """Notes the shape that a failing ``reshape`` or ``unflatten`` was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: Shape | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError:
            if function in _ASKED:
                self.refused = _ASKED[function](*args, **(kwargs or {}))
            raise


def _reshaped(x: Tensor, *shape: Any) -> Shape:
    return tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)


def _unflattened(x: Tensor, dim: int, sizes: Sequence[int]) -> Shape:
    dim %= x.dim()
    return (*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


_ASKED: dict[Any, Callable[..., Shape]] = {
    **dict.fromkeys((Tensor.reshape, torch.reshape), _reshaped),
    **dict.fromkeys((Tensor.unflatten, torch.unflatten), _unflattened),
}


_SCALAR = torch.ops.aten._local_scalar_dense.default
_COMPARING = (torch.ops.aten.equal.default, torch.ops.aten.allclose.default)
"""Operations that, like `_SCALAR`, return a Python value on which code may branch."""
_SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")
"""Operations whose outputs' shapes depend on values."""
# Larger tensors are converted to lists or arrays at once: no code branches on so many values.
MOST_VALUES = 1000
# Operations whose outputs have values of their own, whatever those of their operands are.
MAKING = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")


def _one_by_one(function: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Convert a tensor to a list or an array by ``item``, since a trace only sees such calls."""
    if tensor.numel() > MOST_VALUES:
        return function(tensor, *args, **kwargs)
    values = _listed(tensor)
    if function is Tensor.tolist:
        return values
    return np.array(values, dtype=function(tensor.detach(), *args).dtype)


_LISTING: dict[Any, Callable[..., Any]] = {
    function: partial(_one_by_one, function)
    for function in (Tensor.tolist, Tensor.numpy, Tensor.__array__)
}


def _listed(tensor: Tensor) -> Any:
    return tensor.item() if tensor.dim() == 0 else [_listed(entry) for entry in tensor.unbind(0)]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the ATen calls of a pass, the module frames they are made in, and what decides them."""

    def __init__(
        self,
        meta: MetaKernels | None,
        limit: int | None,
        given: Sequence[Answer],
        correction: Correction | None,
        watch: Watch | None,
        theirs: Mapping[int, str],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.meta, self.limit, self.given = meta, limit, given
        self.theirs, self.met = theirs, set[int]()
        self.correction, self.watch = correction, watch
        self.random = torch.Generator().manual_seed(0)
        self.calls: list[Step] = []
        self.frames: list[Frame] = []
        self.passed: list[Passed] = []
        self.stack = [-1]
        self.answers: list[Answer] = []
        self.weighed: set[int] = set()
        """Ids of tensors that follow from parameters, which are stand-ins on real tensors."""
        self.guessed = False
        self.follows: set[int] = set()
        """Ids of tensors computed from inputs or parameters; ``calls`` keeps the tensors alive."""
        self.varies: set[int] = set()
        """Ids of tensors whose values may differ in another pass, random numbers included."""
        self.decided = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and to skip Dynamo costs time at each call."""
        return False

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        parts = plain(op)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        call = Step(op, args, kwargs, self.stack[-1])
        self.calls.append(call)  # before it runs: a call that raises is the last one
        self._check_own(call.inputs)
        if self.limit is not None and len(self.calls) >= self.limit:
            raise _EndError
        index = len(self.calls) - 1
        if self.correction is None:
            out = self._run(call)
        else:
            out = self.correction.run(index, op, lambda: self._run(call))
        call.outputs = tensors_among((out,))
        call.shapes = tuple(tuple(o.shape) for o in call.outputs)
        call.returned = True
        self.met.update(map(id, call.outputs))
        self._follow(call)
        if self.watch is not None and self.watch(index, call):
            raise _EndError
        return out

    def _follow(self, call: Step) -> None:
        """Mark outputs that depend on marked inputs; note whether values decide what runs."""
        taken = [] if call.name in MAKING else [id(tensor) for tensor in call.inputs]
        if self.meta is None and not self.follows.isdisjoint(taken):
            self.follows.update(map(id, call.outputs))
            if not self.weighed.isdisjoint(taken):
                self.weighed.update(map(id, call.outputs))
        if not self.varies.isdisjoint(taken):
            self.decided = self.decided or _looks_at_values(call)
        elif not _draws(call.op):
            return
        self.varies.update(map(id, call.outputs))

    def _check_own(self, tensors: Sequence[Tensor]) -> None:
        """Refuse a call on a tensor of the original model, which the call might change."""
        for tensor in tensors if self.theirs else ():
            if id(tensor) not in self.met:
                self.met.add(id(tensor))
                if memory_of(tensor) in self.theirs:
                    raise _SharedError(self.theirs[memory_of(tensor)])

    def _run(self, call: Step) -> Any:
        op, args, kwargs = call.op, call.args, call.kwargs
        if self.meta is None and (kind := self._answer(call)) is not None:
            given = self.given[len(self.answers) :][:1]
            known = bool(given) and type(given[0]) is kind
            self.answers.append(given[0] if known else op(*args, **kwargs))
            self.guessed |= not self.weighed.isdisjoint(map(id, call.inputs))
            return self.answers[-1]
        return computed(self.meta, op, args, kwargs, call.inputs, self.random)

    def _answer(self, call: Step) -> type[Answer] | None:
        """Return the type of the value that a call takes out of tensors to branch on, or None.

        An integer counts only if it follows from inputs or parameters: others are sizes or places.
        """
        if call.op in _COMPARING:
            return bool
        if call.op is not _SCALAR:
            return None
        tensor = call.args[0]
        if tensor.dtype == torch.bool:
            return bool
        if tensor.is_floating_point():
            return float
        return int if id(tensor) in self.follows else None


def _looks_at_values(call: Step) -> bool:
    """Whether values of a call's operands, not only their shapes, decide what runs next."""
    masks = call.name == "index" and any(one.dtype == torch.bool for one in call.inputs[1:])
    return masks or call.op in (_SCALAR, *_COMPARING) or call.name in _SIZED_BY_VALUES


@per_operation
def _draws(op: Any) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in op.tags


@contextmanager
def _module_frames(modules: Mapping[str, nn.Module], recorder: _Recorder) -> Iterator[None]:
    """Note the calls of the network's modules while the context is open.

    The instances are patched, not their classes, which other threads use. A module that is not
    registered counts as part of the one that calls it.
    """
    before = [(module, module.__dict__.get(CALL)) for module in modules.values()]
    for path, module in modules.items():
        module.__dict__[CALL] = _noted(module, path, recorder)
    try:
        yield
    finally:
        for module, call in before:
            del module.__dict__[CALL]
            if call is not None:
                module.__dict__[CALL] = call


def _noted(module: nn.Module, path: str, recorder: _Recorder) -> Callable[..., Any]:
    """Wrap a module's call, hooks included, to note its frame, its arguments and its result."""
    call, kind = own_call(module), type(module)
    frames, stack, passed = recorder.frames, recorder.stack, recorder.passed

    def noted(*args: Any, **kwargs: Any) -> Any:
        frame = len(frames)
        frames.append(Frame(path, kind, stack[-1]))
        passed.append((frame, "read", (args, kwargs)))
        stack.append(frame)
        try:
            result = call(*args, **kwargs)
        finally:
            stack.pop()
        passed.append((frame, "write", [result]))
        return result

    return noted


_Held = list[tuple[Any, Any]]
"""Attribute dicts of modules, and dicts, lists and sets in them, each with a copy of its state."""
_TABLES = (dict, OrderedDict, list, set)
_LOOKED_AT = ("_parameters", "_modules")


def _held(modules: Iterable[nn.Module]) -> _Held:
    """Copy the attributes of modules, for `_give_back`; of PyTorch's own layers only the hooks.

    ``_parameters`` and ``_modules`` are left out: the caller looks at what a pass adds to them.
    """
    held: _Held = []
    for module in modules:
        own = vars(module)
        if type(module).__module__.startswith("torch."):
            tables = [own[name] for name in HOOKS if name in own]
        else:
            tables = [v for name, v in own.items() if type(v) in _TABLES and name not in _LOOKED_AT]
            held.append((own, own.copy()))
        held += [(table, table.copy() if table else ()) for table in tables]
    return held


def _give_back(held: _Held) -> None:
    """Restore the attributes of modules, so that every pass begins with the same caches."""
    for table, before in held:
        if table or before:
            table.clear()
            (table.extend if isinstance(table, list) else table.update)(before)


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
    theirs: Mapping[int, str] | None = None,
) -> Recording:
    """Run ``model(*args, **kwargs)`` and record it; an exception ends the pass and is kept with it.

    The model must be a copy that no other thread runs; nothing else is changed meanwhile.

    ``meta`` is None for a run on real tensors. With a ``limit`` the trace ends at that many calls,
    before the last one runs. ``layers`` takes apart layers that PyTorch would fuse; ``fold`` reads
    the steps of recurrent layers once, on meta tensors. ``answers`` replace, in order, the values
    that Python takes out of tensors; after the last one, the tensors' own values are used. A
    ``correction`` lets the trace continue after a call that differs; a ``watch`` ends it without an
    error. ``theirs`` are the names of the original model's tensors, by memory.

    Raises:
        PrecropError: the model computes with one of those.
    """
    whole = limit is None and watch is None and correction is None
    recorder = _Recorder(meta, limit, answers, correction, watch, theirs or {})
    inputs = tensors_within((args, kwargs))
    modules = modules_of(model)
    parameters = [*_parameters(modules.values())]
    recorder.follows.update(map(id, (*inputs, *parameters)))
    if meta is None:  # on meta tensors only random numbers have values
        recorder.varies.update(recorder.follows)
        recorder.weighed.update(map(id, parameters))
    before, held = _memories(parameters) if whole else {}, _held(modules.values())
    fold = fold and any(isinstance(module, nn.RNNBase) for module in modules.values())
    plain_layers = PlainLayers(floating_type(parameters))
    if layers is None and (meta is None or plain_layers.default is not None):
        layers = plain_layers  # PyTorch fuses nothing on meta tensors
    reshapes, outputs, raised = _ReshapeWatch(), list[Tensor](), None
    try:
        with (
            apart(),
            torch.no_grad(),
            layers or nullcontext(),
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            _module_frames(modules, recorder),
            reshapes if limit is not None else nullcontext(),
            FoldedSteps(recorder.calls) if fold else nullcontext(),
            CorrectedReshapes(correction, recorder.calls) if correction else nullcontext(),
            Instead(_LISTING) if meta is None else nullcontext(),
            recorder,
        ):
            outputs = tensors_within(model(*args, **kwargs))
    except _EndError:
        pass
    except _SharedError:
        raise
    except OWN_ERRORS as error:  # of the network's own forward
        raised = _without_frames(error)
    if raised is None:
        _give_back(held)  # `Prober` ends a pass by an error to run a module in that state
    after = _memories(_parameters(modules.values())) if whole else {}
    moved = [p for key, (p, memory) in after.items() if before.get(key, (p, None))[1] is not memory]
    noted = recorder.calls, recorder.frames, recorder.passed
    ends = inputs, outputs, raised
    values = recorder.answers, recorder.guessed, recorder.decided
    return Recording(*noted, *ends, reshapes.refused, *values, moved)


def failed(error: BaseException) -> Recording:
    """Return the recording of a pass that failed before it began."""
    return Recording(error=_without_frames(error))


def _without_frames(error: BaseException) -> BaseException:
    """Drop the tracebacks of an error, its causes and contexts, as they hold the pass' tensors.

    The innermost place in code that is neither ours nor PyTorch's is added as a note instead.
    """
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith(_NOT_THEIRS):
            error.add_note(f"raised at {frame.f_code.co_filename}, line {line}")
            break
    behind: BaseException | None = error
    while behind is not None and behind.__traceback__ is not None:  # an error may cause itself
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__
    return error


_NOT_THEIRS = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])


def _parameters(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """Yield the modules' own parameters in order; quicker than ``parameters()`` of the network."""
    for module in modules:
        yield from (one for one in module._parameters.values() if one is not None)


_Memories = dict[int, tuple[nn.Parameter, torch.UntypedStorage]]
"""By id, parameters and their storages; holding both keeps their ids and memories unique."""


def _memories(parameters: Iterable[nn.Parameter]) -> _Memories:
    strided = (p for p in parameters if p.layout is torch.strided)
    return {id(parameter): (parameter, parameter.untyped_storage()) for parameter in strided}
