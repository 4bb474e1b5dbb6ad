"""Runs copies of a network without its weights to find and trace its forward passes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Unpack

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError, typed_reason
from precrop.modules.copying import copied
from precrop.modules.hooks import keep_own_hooks
from precrop.modules.names import buffers_of, modules_of, parameters_of
from precrop.modules.streams import Stream, install
from precrop.own import OWN_ERRORS
from precrop.read.inputs import Inputs
from precrop.read.known import TRAIN_MODE
from precrop.read.meta import MetaKernels
from precrop.read.recording import Ending, failed, run
from precrop.read.tables import Tables
from precrop.read.trace import Answer, CodePath, Recording, Trace, code_path, numbered
from precrop.read.unused import leave_out, other_answers
from precrop.read.values import memory_of

# Other answers are tried all at once first. If all of those passes fail, at most MOST_TURNS answers
# are changed one at a time; fewer if these passes would compute more than MOST_NUMBERS elements.
MOST_TURNS, MOST_NUMBERS = 8, 1 << 29
# Batch sizes tried to find the batch axis; some code treats a batch of 1 differently.
_TRIED = (2, 3, 4)
_WHOLE = re.compile(r"\b(Long|Int|integer|integral|index|indices|bool)", re.IGNORECASE)
"""Words in an error message which show that the network expects integer or boolean tensors."""
_BATCH = re.compile(r"size\(\)\[0\] == (\d+)")
"""In an exported program's error message: the batch size that it was exported for."""
# Range of the stand-in biases: high enough for some classes to pass a detector's threshold.
BIASES = (-2.0, 8.0)


def skeleton(
    model: nn.Module,
    *,
    real: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> nn.Module:
    """Copy the network's modules with meta tensors, or if ``real`` stand-ins, as its weights.

    Stand-ins are zeros, with biases that rise along the channels: a layer returns its bias whatever
    its input is, so a detector finds some boxes, and the same ones at every width. With ``real``,
    buffers keep their values. Plain tensors in attributes always do, as code may look at them.
    ``shapes`` gives other shapes to some parameters and buffers, by name.
    """
    shapes = shapes or {}
    buffers = buffers_of(model).keys() if real else set()

    def plain(name: str, tensor: Tensor) -> Tensor:
        # Always on the CPU: code may look at values, or move them to another tensor's device.
        shape = tuple(shapes.get(name, tensor.shape))
        if shape == tensor.shape and not tensor.is_meta:
            return tensor.detach().to("cpu", copy=True)
        return torch.zeros(shape, dtype=tensor.dtype)

    def empty(name: str, tensor: Tensor) -> Tensor:
        shape = tuple(shapes.get(name, tensor.shape))
        if not real:
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        if name in buffers and shape == tensor.shape:
            return plain(name, tensor)
        if name.endswith("bias") and len(shape) == 1:
            return torch.linspace(*BIASES, shape[0], dtype=tensor.dtype)
        full = torch.ones if name.endswith("running_var") else torch.zeros
        return full(shape, dtype=tensor.dtype)

    made = copied(model, empty, plain)
    keep_own_hooks(made, model)
    return made


@dataclass(frozen=True, eq=False)
class TracedPass:
    """One forward pass: whether it ran in train mode, and its trace."""

    training: bool
    trace: Trace


@dataclass(frozen=True)
class Tracer:
    """Runs skeletons of a network; the network itself is neither run nor changed.

    Attributes:
        model: the network.
        inputs: its inputs.
        tables: tables that its code keeps outside of its modules.
        streams: where layers have widths of their own at residual streams.
        fold: whether the steps of a recurrent layer are traced once. Sizes and MACs are those of
            the whole pass, but there are fewer calls; do not use it where every call counts.
        real: whether the network needs real tensors.
        left_out: paths of modules that the built network does not have.
        meta: runs operations on meta tensors and remembers their results' shapes.
    """

    model: nn.Module
    inputs: Inputs
    tables: Tables
    streams: tuple[Stream, ...] = ()
    fold: bool = False
    real: bool = False
    left_out: tuple[str, ...] = ()
    meta: MetaKernels = field(default_factory=MetaKernels)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The network's parameters, by name."""
        return parameters_of(self.model)

    @cached_property
    def memories(self) -> dict[int, str]:
        """The names of the network's parameters and buffers, by their storage."""
        named = [*self.parameters.items(), *buffers_of(self.model).items()]
        return {memory_of(tensor): name for name, tensor in named}

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The network's modules, by path."""
        return modules_of(self.model)

    def replica(self, shapes: Mapping[str, Sequence[int]] | None = None) -> nn.Module:
        """Return a new skeleton, in whose attributes no forward pass has left anything yet."""
        made = skeleton(self.model, real=self.real, shapes=shapes)
        install(made, self.streams, traced=True)
        leave_out(made, self.left_out)
        return made

    def run_again(
        self, model: nn.Module, forward: TracedPass, **ending: Unpack[Ending]
    ) -> Recording:
        """Run a skeleton in the mode of an earlier pass, with the same branches taken."""
        return self.run(model, training=forward.training, answers=forward.trace.answers, **ending)

    def run(
        self,
        model: nn.Module,
        *,
        training: bool,
        answers: Sequence[Answer] = (),
        batch: int | None = None,
        **ending: Unpack[Ending],
    ) -> Recording:
        """Run a skeleton, in eval mode at batch 1 or in train mode at batch 2 by default.

        ``answers`` replace the values that code takes out of tensors to branch on.
        """
        try:
            model.train(training)
        except OWN_ERRORS as error:  # of the network's own code
            return failed(error)
        size = batch or (2 if training else 1)
        args, kwargs = self.inputs.make(size, model, device="cpu" if self.real else "meta")
        with self.tables.lent():
            meta = None if self.real else self.meta
            theirs, fold = self.memories, self.fold
            return run(
                model, args, kwargs, meta, fold=fold, answers=answers, theirs=theirs, **ending
            )


@dataclass(frozen=True)
class Traced:
    """All forward passes of a network that were found.

    Attributes:
        tracer: the tracer that ran them.
        skeleton: the copy of the network that was run.
        runs: eval mode at batch 1; train mode at batch 2 if it works and runs other code; both
            again with other answers where values decide what runs.
        notes: what could not be traced, and why.
    """

    tracer: Tracer
    skeleton: nn.Module
    runs: tuple[TracedPass, ...]
    notes: Mapping[str, str]


def trace_passes(tracer: Tracer) -> Traced:
    """Trace a network's passes, on real tensors only where meta tensors do not work.

    Raises:
        PrecropError: the network fails on its inputs.
    """
    if tracer.inputs.examples:
        tracer = replace(tracer, inputs=_batched(tracer))
    tracer, made, usual, notes = _usual_passes(replace(tracer, real=tracer.tables.kept))
    others = [other for one, path in usual for other in _turned(tracer, made, one, path)]
    return Traced(tracer, made, (*(one for one, _ in usual), *others), notes)


def _usual_passes(
    tracer: Tracer,
) -> tuple[Tracer, nn.Module, list[tuple[TracedPass, CodePath]], dict[str, str]]:
    """Trace eval mode, and train mode if it runs other code; also return the tracer that worked."""
    made = tracer.replica()
    evaluation = tracer.run(made, training=False)
    if not tracer.real and (evaluation.error is not None or tracer.tables.kept):
        return _usual_passes(replace(tracer, real=True))
    if evaluation.error is not None:
        raise _failing(tracer, evaluation.error) from evaluation.error
    for name in parameters_of(made):
        if name not in tracer.parameters:
            raise PrecropError(f"forward makes {name} when it first runs: run it once, then plan")
    found = [_traced(made, False, evaluation)]  # now, as train mode may change tensors
    training = tracer.run(made, training=True)
    if training.error is not None and not tracer.real:
        real = replace(tracer, real=True)
        again = real.replica()
        if all(real.run(again, training=mode).error is None for mode in (True, False)):
            return _usual_passes(real)
    notes = {}
    if training.error is not None:
        notes[TRAIN_MODE] = f"was not read: {typed_reason(training.error)}"
    elif code_path(training) != found[0][1]:
        found.append(_traced(made, True, training))
    return tracer, made, found, notes


def _traced(made: nn.Module, training: bool, recording: Recording) -> tuple[TracedPass, CodePath]:
    """Return a pass' trace, which does not hold its tensors (maybe gigabytes), and code path."""
    return TracedPass(training, numbered(recording, made)), code_path(recording)


def _turned(
    tracer: Tracer, made: nn.Module, forward: TracedPass, path: CodePath
) -> Iterator[TracedPass]:
    """Yield passes that take new code paths when values that code branches on are changed."""

    def turned(answers: Sequence[Answer]) -> tuple[TracedPass, CodePath] | None:
        recording = tracer.run(made, training=forward.training, answers=answers)
        return _traced(made, forward.training, recording) if recording.error is None else None

    own, known = forward.trace.answers, [path]
    at_once = other_answers(own)
    turns = min(len(own), MOST_TURNS, MOST_NUMBERS // max(1, _numbers(forward.trace)))
    singly = [[*own[:index], answers[index]] for answers in at_once for index in range(turns)]
    for given in (at_once, singly if len(own) > 1 else []):
        good, most = False, len(given) + 2 * MOST_TURNS
        for one in given:  # one at a time: each recording holds its tensors until it is traced
            found = turned(one)
            good = good or found is not None
            if found is None or found[1] in known:
                continue
            known.append(found[1])
            yield found[0]
            # Questions that only this way asks, such as those of later exits.
            further = other_answers(found[0].trace.answers[len(one) :])
            given.extend([[*one, *more] for more in further][: most - len(given)])
        if good:
            return


def _failing(tracer: Tracer, error: BaseException) -> PrecropError:
    """Return the network's own error in one line, with advice on the inputs where it is clear."""
    text = f"the network fails on input {tracer.inputs.text}: {typed_reason(error)}"
    shorter = tracer.inputs.without_first()
    if shorter is not None:
        tracer = replace(tracer, inputs=shorter, real=False)
        if tracer.run(tracer.replica(), training=False).error is None:
            shape = tuple(shorter.spec)
            return PrecropError(f"write the shape without the batch, {shape}: {text}")
    if batch := _BATCH.search(str(error)):
        given = f"example_inputs=torch.randn({batch[1]}, …)"
        return PrecropError(f"{text}; it was exported for batches of {batch[1]}: give {given}")
    if not tracer.inputs.examples and _WHOLE.search(str(error)):
        return PrecropError(f"{text}; example_inputs= takes tensors of any type")
    return PrecropError(text)


def _batched(tracer: Tracer) -> Inputs:
    """Return the example inputs with their batch axis, if there is one.

    Every further input along a batch axis adds equally many elements and no calls. Along a time
    axis, attention adds ever more elements, and recurrent layers add calls.
    """
    inputs = tracer.inputs
    for inputs in tracer.inputs.batched():
        for real in (False, True) if inputs.has_batch else ():
            tried = replace(tracer, inputs=inputs, real=real)
            works = [*filter(None, (_work(tried, batch) for batch in _TRIED))]
            if len(works) == len(_TRIED):
                if _is_linear(works):
                    return inputs
                break
    return inputs


_Work = tuple[list[torch._ops.OpOverload], int]
"""The operations of a pass, and the total number of elements in their outputs."""


def _is_linear(works: Sequence[_Work]) -> bool:
    """Whether passes on growing batches make the same calls, and equally many more elements."""
    growth = {more - few for (_, few), (_, more) in pairwise(works)}
    return len(growth) == 1 and min(growth) > 0 and all(ops == works[0][0] for ops, _ in works)


def _work(tracer: Tracer, batch: int) -> _Work | None:
    """Return the work of a pass in eval mode; None if it fails."""
    trace = tracer.run(tracer.replica(), training=False, batch=batch)
    if trace.error is not None:
        return None
    return [call.op for call in trace.calls], _numbers(trace)


def _numbers(run: Recording | Trace) -> int:
    """Return the total number of elements in the outputs of a pass' calls."""
    return sum(prod(shape) for call in run.calls for shape in call.shapes)
