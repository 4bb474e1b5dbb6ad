"""A network that has been read: its passes, and sizes at any choice of widths."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError
from precrop.modules.apart import apart
from precrop.modules.copying import copied, first_line, submodule
from precrop.modules.hooks import keep_own_hooks, unwrapped
from precrop.modules.names import held_tensors
from precrop.modules.streams import Stream, install, traced_hook
from precrop.read.axes import (
    Axis,
    Folded,
    Tie,
    atoms,
    axis_size,
    freeze,
    resolve,
    segment_size,
    varies,
)
from precrop.read.corrected import Correction
from precrop.read.inputs import Inputs, check_network
from precrop.read.meta import MetaKernels
from precrop.read.modules import share_stated_widths
from precrop.read.ops import HANDLERS, fallback
from precrop.read.reader import INPUT, OUTPUT, CallReading, LayerReading, Product, Reader
from precrop.read.tables import Tables
from precrop.read.trace import Answer, Trace, Watch, input_tensors, run, same_path
from precrop.read.unused import (
    decided_by_values,
    frames_that_hold,
    leave_out,
    other_answers,
    siblings,
    unused_modules,
    widths_of,
)

# Where several values decide what runs, the others are tried all at once, or else so many singly.
MOST_TURNS = 8
NOT_CALLED = "no pass calls it"
NOTHING_KEPT: Mapping[str, str] = {}
# Tables of fewer parameters than this share of the network's are not listed as frozen.
SMALL = 0.01
# Numbers of inputs that tell a batch axis from others; a single one is special to some code.
_TRIED = (2, 3, 4)
_WHOLE = re.compile(r"\b(Long|Int|integer|integral|index|indices|bool)", re.IGNORECASE)
"""In an error message: the network takes other tensors than those of floats."""
# Stand-in biases: steep enough for some classes to pass a detector's threshold.
BIASES = (-2.0, 8.0)


def skeleton(
    model: nn.Module,
    *,
    real: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> nn.Module:
    """A copy of the network's modules without its weights: meta tensors, or stand-ins if ``real``.

    Stand-ins are zeros, and rising biases: every layer then puts out its bias whatever it reads, so
    a detector finds some boxes, and the same ones at every width. Buffers keep their values
    then. Plain tensors that modules hold keep them in any case: code may look at them.

    Args:
        model: the network.
        real: make tensors that can be computed with, on the CPU.
        shapes: shapes of parameters and buffers, by name, where they are not the model's.
    """
    shapes = shapes or {}
    buffers = {name for name, _ in model.named_buffers()} if real else set()

    def empty(name: str, tensor: Tensor) -> Tensor:
        shape = tuple(shapes.get(name, tensor.shape))
        if not real:
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        if name in buffers and shape == tensor.shape:
            return tensor.detach().to("cpu", copy=True)
        if name.endswith("bias") and len(shape) == 1:
            return torch.linspace(*BIASES, shape[0], dtype=tensor.dtype)
        full = torch.ones if name.endswith("running_var") else torch.zeros
        return full(shape, dtype=tensor.dtype)

    def plain(name: str, tensor: Tensor) -> Tensor:
        # On the CPU in any case: code may look at them, or move them to the device of others.
        shape = tuple(shapes.get(name, tensor.shape))
        if shape == tensor.shape:
            return tensor.detach().to("cpu", copy=True)
        return torch.zeros(shape, dtype=tensor.dtype)

    made = copied(model, empty, plain)
    keep_own_hooks(made, model)
    return made


@dataclass
class Pass:
    """One forward pass that was followed: its mode, its trace and what was read in it."""

    training: bool
    trace: Trace
    readings: list[CallReading]


@dataclass(frozen=True)
class Sizes:
    """Sizes of axes when every tie keeps a share of its units."""

    kept: Mapping[Tie, tuple[int, int]]

    def segments(self, axis: Axis) -> list[tuple[int, int]]:
        """``(old, new)`` sizes of an axis' segments."""
        pairs = []
        for segment in resolve(axis):
            size = segment_size(segment)
            atom, count = segment
            if isinstance(atom, Folded):
                pairs.append((size, count * prod(map(self.size, atom.factors))))
                continue
            kept, units = self.kept.get(atom.tie.root(), (1, 1)) if atom else (1, 1)
            pairs.append((size, size * kept // units))
        return pairs

    def size(self, axis: Axis) -> int:
        """New size of an axis."""
        return sum(new for _, new in self.segments(axis))

    def product(self, product: Product) -> int:
        """New value of a product of axes."""
        return product.coefficient * prod(map(self.size, product.axes))


@dataclass(frozen=True)
class _Work:
    """The operations of a pass, and how many numbers they make."""

    ops: list[torch._ops.OpOverload]
    numbers: int


def _is_linear(works: Sequence[_Work]) -> bool:
    """Whether passes on ever more inputs make the same calls and each as many numbers more."""
    growth = {more.numbers - few.numbers for few, more in pairwise(works)}
    return len(growth) == 1 and min(growth) > 0 and all(w.ops == works[0].ops for w in works)


class Network:
    """A network's forward passes, read. ``model`` itself is only looked at, never changed.

    Attributes:
        model: the network itself; its tensors are never computed with.
        real: whether the network needed real tensors.
        passes: eval at batch 1, then train at batch 2 where that runs and runs other code, then
            both with other answers where values decide what runs.
        notes: what could not be read, in words.
        streams: where layers have widths of their own at residual streams.
        fold: whether steps of recurrent layers are read once. Their sizes and MACs are those of the
            whole pass, but the calls are fewer: for what follows every call, leave it out.
        unused: modules with weights that no pass called, and how many numbers each holds.
        followers: unused modules whose widths are those of a sibling, by path.
        left_out: unused modules that the built network does not have.
        routed: whether values decide what runs.
    """

    @apart()
    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        *,
        scale_groups: bool = False,
        streams: Sequence[Stream] = (),
        fold: bool = False,
        drop_unused: bool = False,
    ) -> None:
        self.inputs = inputs
        self.fold = fold
        self.left_out: tuple[str, ...] = ()
        self.streams = tuple(streams)
        self.meta = MetaKernels()
        self.notes: dict[str, str] = {}
        self.real = False
        self.model = unwrapped(model)
        self.parameters = dict(self.model.named_parameters())
        self.unused: dict[str, int] = {}
        self.followers: dict[str, str] = {}
        self.routed = False
        self._kept: Mapping[str, str] = {}
        self._scale_groups = scale_groups
        self.tables = Tables(self.model)
        check_network(model)
        if inputs.examples:
            self._find_batch()
        self.real = self.tables.kept
        self._traced = self.replica()
        evaluation = self.run(self._traced, training=False)
        if not self.real and (evaluation.error is not None or self.tables.kept):
            evaluation = self._run_really(training=False)
        if evaluation.error is not None:
            raise self._failing(evaluation.error) from evaluation.error
        training = self.run(self._traced, training=True)
        if training.error is not None and not self.real:
            evaluation, training = self._read_really(evaluation, training)
        self._traces = [(False, evaluation)]
        if training.error is not None:
            self.notes["train mode"] = f"was not read: {first_line(training.error)}"
        elif not same_path(evaluation, training):
            self._traces.append((True, training))
        self._traces += [turned for known in [*self._traces] for turned in self._turned(*known)]
        self.read()
        self._find_unused(drop_unused)

    def _find_batch(self) -> None:
        """Find the axis along which the example's inputs lie, if they do along any.

        With every further input a network makes the same calls, and as many numbers more. A time
        axis is none: attention makes ever more of them, and recurrent layers more calls.
        """
        for inputs in self.inputs.batched():
            self.inputs = inputs
            for self.real in (False, True):
                found = [self._work(batch) for batch in _TRIED] if inputs.has_batch else []
                works = [work for work in found if work is not None]
                if len(works) == len(_TRIED):
                    break
            if len(works) == len(_TRIED) and _is_linear(works):
                break
        self.real = False

    def _work(self, batch: int) -> "_Work | None":
        """What a pass in eval mode does; None if it fails."""
        trace = self.run(self.replica(), training=False, batch=batch)
        if trace.error is not None:
            return None
        numbers = sum(prod(shape) for call in trace.calls for shape in call.shapes)
        return _Work([call.op for call in trace.calls], numbers)

    def _failing(self, error: Exception) -> PrecropError:
        """The network's own error in one line, and what to write where that is clear."""
        text = f"the network fails on input {self.inputs.text}: {first_line(error)}"
        shorter, self.real = self.inputs.without_first(), False
        if shorter is not None:
            self.inputs = shorter
            if self.run(self.replica(), training=False).error is None:
                (shape,) = shorter.args
                return PrecropError(f"write the shape without the batch, {shape}: {text}")
        if not self.inputs.examples and _WHOLE.search(str(error)):
            return PrecropError(f"{text}; example_inputs= takes tensors of any type")
        return PrecropError(text)

    def _run_really(self, *, training: bool) -> Trace:
        """Trace a new skeleton, from now on with real tensors."""
        self.real = True
        self._traced = self.replica()
        return self.run(self._traced, training=training)

    def _read_really(self, evaluation: Trace, training: Trace) -> tuple[Trace, Trace]:
        """Both passes on real tensors if train mode runs on those alone; else as they were."""
        before = self._traced
        really = self._run_really(training=True)
        if really.error is None:
            again = self._run_really(training=False)
            really = self.run(self._traced, training=True)
            if again.error is None and really.error is None:
                return again, really
        self.real, self._traced = False, before
        return evaluation, training

    def read(self) -> None:
        """Follow the traces from the beginning; forgets what was tied or frozen since."""
        self.reader = Reader(self._traced, HANDLERS, fallback, scale_groups=self._scale_groups)
        called = {frame.path for _, trace in self._traces for frame in trace.frames}
        share_stated_widths(self.reader, self._traced, called)
        self.passes = [
            Pass(training, trace, self.reader.read(trace, macs=trace is self._traces[0][1]))
            for training, trace in self._traces
        ]
        self._adopt()
        for layer in self.layers:
            if layer.name in self._kept:
                freeze(layer.outputs, self._kept[layer.name])

    def anew(self, kept: Mapping[str, str] = NOTHING_KEPT) -> "Network":
        """The same passes, followed from the beginning; nothing else is held.

        Args:
            kept: layers whose output keeps its width, by name, and why.
        """
        other = copy.copy(self)
        other.notes, other._kept = dict(self.notes), kept
        other.read()
        return other

    def replica(self, shapes: Mapping[str, Sequence[int]] | None = None) -> nn.Module:
        """A skeleton to run once: networks may keep what a forward pass computed."""
        made = skeleton(self.model, real=self.real, shapes=shapes)
        install(made, self.streams, traced_hook)
        leave_out(made, self.left_out)
        return made

    def _turned(self, training: bool, trace: Trace) -> Iterator[tuple[bool, Trace]]:
        """The same pass with other answers, where values of tensors decide what runs."""
        own, known = trace.answers, [trace]
        at_once = other_answers(own)
        singly = [
            [*own[:index], answers[index]]
            for answers in at_once
            for index in range(min(len(own), MOST_TURNS))
        ]
        for given in (at_once, singly if len(own) > 1 else []):
            traces = [self.run(self._traced, training=training, answers=one) for one in given]
            good = [found for found in traces if found.error is None]
            for found in good:
                if not any(same_path(found, other) for other in known):
                    known.append(found)
                    yield training, found
            if good:
                return

    def _find_unused(self, drop: bool) -> None:
        """Find what no pass called, and what of it can follow or be left out."""
        used = self.reader.tensors.keys()
        buffers = {*held_tensors(self._traced), *dict(self._traced.named_buffers())}
        self.unused = unused_modules(self.model, used)
        if not self.unused:
            return
        names = self.reader.names
        self.routed = self.real and any(
            decided_by_values(trace, names, buffers) for _, trace in self._traces
        )
        if drop and self.droppable:
            self.left_out = self._not_missed(list(self.unused))
        kept = [path for path in self.unused if path not in self.left_out]
        self.followers = siblings(self.model, kept, used)
        self.read()

    @property
    def droppable(self) -> bool:
        """Whether no input can run what no pass called, as far as passes show it.

        On meta tensors there are no values that could decide it.
        """
        return not self.real and "train mode" not in self.notes

    def _not_missed(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of the modules without which every pass is the same."""
        if self._same_without(paths):
            return tuple(paths)
        return tuple(path for path in paths if len(paths) > 1 and self._same_without([path]))

    def _same_without(self, paths: Sequence[str]) -> bool:
        for forward in self.passes:
            made = self.replica()
            leave_out(made, paths)
            trace = self.run_again(made, forward)
            ops = [call.op for call in trace.calls]
            if trace.error is not None or ops != [call.op for call in forward.trace.calls]:
                return False
        return True

    def _adopt(self) -> None:
        """Give unused modules the widths of their siblings; hold what the others may meet."""
        tensors = self.reader.tensors
        for path, twin in self.followers.items():
            for name in [name for name in tensors if name.startswith(f"{twin}.")]:
                tensors[path + name[len(twin) :]] = tensors[name]
        alone = [path for path in self.unused if path not in (*self.followers, *self.left_out)]
        for path in alone if self.routed else ():
            sizes = widths_of(submodule(self.model, path))
            for forward in self.passes:
                frames = set(frames_that_hold(forward.trace, path))
                pairs = zip(forward.trace.calls, forward.readings, strict=True)
                met = [reading for call, reading in pairs if call.frame in frames]
                axes = (
                    axis
                    for reading in met
                    for tensor in (*reading.inputs, *reading.outputs)
                    for axis in tensor
                    if axis_size(axis) in sizes
                )
                for axis in filter(varies, axes):
                    freeze(axis, f"{path} may run on other inputs")

    def run_again(
        self,
        model: nn.Module,
        forward: Pass,
        limit: int | None = None,
        correction: Correction | None = None,
        watch: Watch | None = None,
    ) -> Trace:
        """Trace a skeleton as in a pass that was followed, branches included."""
        answers = forward.trace.answers
        return self.run(
            model,
            training=forward.training,
            limit=limit,
            answers=answers,
            correction=correction,
            watch=watch,
        )

    def run(
        self,
        model: nn.Module,
        *,
        training: bool,
        limit: int | None = None,
        answers: Sequence[Answer] = (),
        batch: int | None = None,
        correction: Correction | None = None,
        watch: Watch | None = None,
    ) -> Trace:
        """Trace a skeleton: eval at batch 1 or train at batch 2; up to ``limit`` calls.

        ``answers`` are given where values of tensors decide what runs; ``correction`` lets
        the trace go on behind calls that are not as predicted, a ``watch`` ends it.
        """
        model.train(training)
        size = batch if batch is not None else 2 if training else 1
        args, kwargs = self.inputs.make(size, model, device="cpu" if self.real else "meta")
        meta = None if self.real else self.meta
        options: dict[str, Any] = {"fold": self.fold, "answers": answers, "correction": correction}
        options["watch"] = watch
        with self.tables.lent():
            return run(model, args, kwargs, meta, limit, **options)

    @property
    def layers(self) -> list[LayerReading]:
        """Layers with a weight tensor, in the order of execution."""
        return list(self.reader.layers.values())

    @property
    def left_out_params(self) -> int:
        """How many parameters the original has in what is left out."""
        return sum(self.unused[path] for path in self.left_out)

    def sizes(self, ties: Sequence[Tie], units: Sequence[int]) -> Sizes:
        """Sizes when the group behind ``ties[i]`` keeps ``units[i]`` units."""
        return Sizes({t: (int(kept), t.quantum) for t, kept in zip(ties, units, strict=True)})

    def frozen(self) -> dict[str, str]:
        """Layers whose output keeps its width, and why; the network's own ends are not listed.

        An end is also what no further layer reads: a detector's boxes before they are sorted.
        """
        reasons: dict[str, str] = {}
        inner = set().union(*map(_read_weights, self.passes))
        for layer in self.layers:
            if varies(layer.outputs) or axis_size(layer.outputs) == 1:
                continue
            if layer.weight not in inner:
                continue
            ties = [atom.tie.root() for atom in atoms(layer.outputs)]
            reason = next((tie.frozen for tie in ties if tie.frozen), None)
            if reason is None:
                reason = "its width cannot be divided" if ties else "its width is fixed"
            if reason not in (INPUT, OUTPUT):
                reasons[layer.name] = reason
        reasons |= self._frozen_tables()
        left = {*self.followers, *self.left_out}
        return reasons | {path: NOT_CALLED for path in self.unused if path not in left}

    def _frozen_tables(self) -> dict[str, str]:
        """Weights that belong to no layer and keep all of their sizes, and why."""
        layers = {layer.weight for layer in self.layers}
        least = SMALL * sum(parameter.numel() for parameter in self.parameters.values())
        found = {}
        for name, parameter in self.parameters.items():
            axes = self.reader.tensors.get(name)
            if axes is None or parameter.dim() < 2 or name in layers or parameter.numel() < least:
                continue
            if any(map(varies, axes)):
                continue
            reasons = [atom.tie.root().frozen for axis in axes for atom in atoms(axis)]
            reason = next((r for r in reasons if r not in (None, INPUT, OUTPUT)), None)
            path = name.rpartition(".")[0] if name.endswith("weight") else name
            found[path] = reason or "its width is fixed"
        return found


def _read_weights(forward: Pass) -> set[str]:
    """Weights of the layers whose output reaches another layer, found from the last call back."""
    needed: set[int] = set()
    weights: set[str] = set()
    pairs = zip(forward.trace.calls, forward.readings, strict=True)
    for call, reading in reversed(list(pairs)):
        reaches = any(id(tensor) in needed for tensor in call.outputs)
        if reaches and reading.weight is not None:
            weights.add(reading.weight)
        if reaches or reading.weight is not None:
            needed.update(id(tensor) for tensor in input_tensors(call))
    return weights


def tensor_axes(network: Network, name: str, tensor: Tensor) -> tuple[Axis, ...]:
    """Axes of a parameter or buffer; constant where no call used it, or with another shape only."""
    known = network.reader.tensors.get(name)
    if known is None or tuple(map(axis_size, known)) != tensor.shape:
        return tuple(((None, n),) for n in tensor.shape)
    return known
