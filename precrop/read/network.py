"""A network that has been read: its widths as a `Structure`, and sizes at any choice of widths."""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod
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
    axis_of,
    axis_size,
    freeze,
    leaves,
    resolve,
    segment_size,
    tie,
    unify,
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
from precrop.solve.structure import Cost, Group, Layer, Peak, Structure, parts

# A product of more widths than this has no place in the allocation; its widths are frozen.
MAX_DEGREE = 2
# Parameters may have more, as the weight of a bilinear layer and a folded axis do.
MAX_PARAMETER_DEGREE = 4
# Where several values decide what runs, the others are tried all at once, or else so many singly.
MOST_TURNS = 8
NOT_CALLED = "no pass calls it"
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
    a detector finds some boxes, and the same ones at every width. Buffers keep their values, plain
    tensors on meta, too: code may look at them.

    Args:
        model: the network.
        real: make tensors that can be computed with, on the CPU.
        shapes: shapes of parameters and buffers, by name, where they are not the model's.
    """
    shapes = shapes or {}
    held = held_tensors(model)
    valued = {*held, *(name for name, _ in model.named_buffers() if real)}

    def empty(name: str, tensor: Tensor) -> Tensor:
        shape = tuple(shapes.get(name, tensor.shape))
        if name in valued and shape == tensor.shape:
            return tensor.detach().to("cpu", copy=True)
        if not real:
            # Code that moves plain tensors to the device of others does so at every size.
            return torch.zeros(shape, dtype=tensor.dtype, device="cpu" if name in held else "meta")
        if name.endswith("bias") and len(shape) == 1:
            return torch.linspace(*BIASES, shape[0], dtype=tensor.dtype)
        full = torch.ones if name.endswith("running_var") else torch.zeros
        return full(shape, dtype=tensor.dtype)

    made = copied(model, empty)
    keep_own_hooks(made, model)
    return made


CostModel = Callable[["Network", Mapping[Tie, int]], Cost | Peak]
"""A further cost of a network, such as its latency, by the position of every varying tie."""


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
        cost_models: costs beside ``params`` and ``macs``, by name.
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
        self.cost_models: dict[str, CostModel] = {}
        self.real = False
        self.model = unwrapped(model)
        self.parameters = dict(self.model.named_parameters())
        self.unused: dict[str, int] = {}
        self.followers: dict[str, str] = {}
        self.routed = False
        self._kept: list[tuple[frozenset[str], str]] = []
        self._scale_groups = scale_groups
        self._most_read: dict[str, int] = {}
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
        for names, reason in self._kept:
            for layer in self.layers:
                if layer.name in names:
                    freeze(layer.outputs, reason)

    def anew(self) -> "Network":
        """The same passes, followed from the beginning; nothing is held, ignored or counted."""
        other = copy.copy(self)
        other.notes = dict(self.notes)
        other.cost_models, other._kept, other._most_read = {}, [], {}
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
                self.freeze(axes, f"{path} may run on other inputs")

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

    def keep_width(self, names: Iterable[str], reason: str) -> None:
        """Keep the output width of some layers, by name."""
        self._kept.append((frozenset(names), reason))
        self.read()

    def freeze(self, axes: Iterable[Axis], reason: str) -> bool:
        """Freeze axes; False if all of them were fixed already."""
        found = [axis for axis in axes if self.varies(axis)]
        for axis in found:
            freeze(axis, reason)
        return bool(found)

    def tie(self, axes: Iterable[Axis]) -> bool:
        """Let the varying widths of the axes keep one ratio; False if they do or cannot."""
        found = {
            a.tie.root(): a for axis in axes for a in atoms(axis) if self._varies(a.tie.root())
        }
        if len(found) < 2 or gcd(*(root.quantum for root in found)) == 1:
            return False
        tie([axis_of(atom) for atom in found.values()])
        return True

    def unite(self, axes: Sequence[Axis]) -> bool:
        """Let two varying axes of one size be one; False if they are, or one of them is fixed."""
        first, second = map(resolve, axes)
        if first == second or not (self.varies(first) and self.varies(second)):
            return False
        unify(first, second)
        return True

    def varies(self, axis: Axis) -> bool:
        """Whether some width changes the axis."""
        return any(self._varies(atom.tie.root()) for atom in atoms(axis))

    @staticmethod
    def _varies(tie: Tie) -> bool:
        return tie.frozen is None and tie.quantum > 1

    def structure(self) -> tuple[Structure, list[Tie]]:
        """Groups, layers and costs as they stand, and the tie behind every group."""
        while True:
            ties = self._ties()
            index = {tie: i for i, tie in enumerate(ties)}
            products = [product for layer in self.layers for product in layer.macs]
            shapes = self._parameter_products()
            costs: dict[str, Cost | Peak] = {
                "params": self.cost(shapes, index),
                "macs": self.cost([*products, *self.reader.macs], index),
            }
            costs |= {name: model(self, index) for name, model in self.cost_models.items()}
            crowded = self._crowded(costs, [*products, *self.reader.macs], index)
            if not crowded:
                break
            ties[max(crowded)].frozen = "its cost is a product of three widths"
        layers = tuple(self.layer(layer, index) for layer in self.layers)
        return Structure(self._groups(index), layers, costs), ties

    def _crowded(
        self,
        costs: Mapping[str, Cost | Peak],
        macs: Iterable[Product],
        index: Mapping[Tie, int],
    ) -> set[int]:
        """Groups in a product of too many widths; several in one axis of a layer count once."""
        crowded: set[int] = set()
        for name, cost in costs.items():
            most = MAX_PARAMETER_DEGREE if name in ("params", "macs") else MAX_DEGREE
            terms = (term for part in parts(cost) for term in part.terms if len(term) > most)
            crowded |= {group for term in terms for group in term}
        for product in macs:
            varying = [axis for axis in product.axes if self.varies(axis)]
            if len(varying) > MAX_DEGREE and not product.merges:
                counted = self.cost([product], index).terms
                crowded |= {group for term in counted if len(term) > MAX_DEGREE for group in term}
        return crowded

    def _ties(self) -> list[Tie]:
        """Ties of the varying groups, in the order in which layers produce them.

        A width that no layer makes is one of a learnt table (an embedding, a token) or frozen: a
        buffer's columns, such as coordinates, mean something.
        """
        made = [layer.outputs for layer in self.layers]
        weights = {layer.weight for layer in self.layers}
        for name in sorted(self.reader.weights - weights):
            made += self.reader.tensors.get(name, ())
        made += self.reader.read_widths.values()
        found: dict[Tie, None] = {}
        for axis in (*made, *(layer.inputs for layer in self.layers)):
            for atom in atoms(axis):
                if self._varies(atom.tie.root()):
                    found.setdefault(atom.tie.root())
        produced = _roots(made)
        for root in found.keys() - produced:
            root.frozen = "no layer and no learnt table makes it"
        read = _roots(axis for layer in self.layers for axis in (layer.inputs, layer.outputs))
        return [root for root in found if root in produced and root in read]

    def _parameter_products(self) -> list[Product]:
        return [
            Product(1, list(tensor_axes(self, name, parameter)))
            for name, parameter in self.parameters.items()
            if not any(name.startswith(f"{path}.") for path in self.left_out)
        ]

    @property
    def left_out_params(self) -> int:
        """How many parameters the original has in what is left out."""
        return sum(self.unused[path] for path in self.left_out)

    def form(self, axis: Axis, index: Mapping[Tie, int]) -> dict[tuple[int, ...], int]:
        """Size of an axis as a polynomial in the groups' units, linear but where it is folded."""
        form: dict[tuple[int, ...], int] = {}
        for segment in resolve(axis):
            if isinstance(segment[0], Folded):
                terms: dict[tuple[int, ...], int] = {(): segment[1]}
                for factor in segment[0].factors:
                    terms = _multiply(terms, self.form(factor, index))
                for term, coefficient in terms.items():
                    form[term] = form.get(term, 0) + coefficient
                continue
            tie = segment[0].tie.root() if segment[0] else None
            if tie in index:
                assert tie is not None
                key: tuple[int, ...] = (index[tie],)
                form[key] = form.get(key, 0) + segment_size(segment) // tie.quantum
            else:
                form[()] = form.get((), 0) + segment_size(segment)
        return form

    def cost(self, products: Iterable[Product], index: Mapping[Tie, int]) -> Cost:
        """The sum of some products as a polynomial in the units of the groups in ``index``."""
        total: dict[tuple[int, ...], int] = {}
        for product in products:
            terms: dict[tuple[int, ...], int] = {(): product.coefficient}
            for axis in product.axes:
                terms = _multiply(terms, self.form(axis, index))
            for key, coefficient in terms.items():
                total[key] = total.get(key, 0) + coefficient
        return Cost(total)

    def layer(self, layer: LayerReading, index: Mapping[Tie, int]) -> Layer:
        """A layer as the program sees it, by the groups in ``index``."""
        parameter = self.reader.tensors[layer.weight]
        weights = prod(map(axis_size, parameter))
        macs = sum(p.coefficient * prod(map(axis_size, p.axes)) for p in layer.macs)
        outputs = {} if layer.kind == "depthwise" else self._shares(layer.outputs, index)
        return Layer(
            layer.name,
            layer.kind,
            weights,
            macs,
            axis_size(layer.inputs),
            axis_size(layer.outputs),
            self._shares(layer.inputs, index),
            outputs,
        )

    def _shares(self, axis: Axis, index: Mapping[Tie, int]) -> dict[int, float]:
        """What each group holds of an axis; of each factor of a folded one, since all count."""
        size = axis_size(axis)
        shares: dict[int, float] = {}
        for segment in resolve(axis):
            if isinstance(segment[0], Folded):
                for factor in segment[0].factors:
                    for owner, share in self._shares(factor, index).items():
                        share *= segment_size(segment) / size
                        shares[owner] = shares.get(owner, 0.0) + share
                continue
            group = index.get(segment[0].tie.root()) if segment[0] else None
            if group is not None:
                shares[group] = shares.get(group, 0.0) + segment_size(segment) / size
        return shares

    def _groups(self, index: Mapping[Tie, int]) -> tuple[Group, ...]:
        """Every group by the layers that produce it, or those that read it if none does."""
        owners: list[tuple[str, list[int]]] = [("", []) for _ in index]
        for ends in ("outputs", "inputs"):
            produced = {group for group, (name, _) in enumerate(owners) if name}
            for layer in self.layers:
                for segment in leaves(getattr(layer, ends)):
                    group = index.get(segment[0].tie.root()) if segment[0] else None
                    if group is not None and group not in produced:
                        name, widths = owners[group]
                        widths.append(segment_size(segment))
                        owners[group] = (name or layer.name, widths)
        most = self._most_units()
        return tuple(
            _group(name, widths, tie, most.get(tie))
            for tie, (name, widths) in zip(index, owners, strict=True)
        )

    def _most_units(self) -> dict[Tie, int]:
        """Per tie of a stream's reader the units that do not pass what is written before it."""
        most: dict[Tie, int] = {}
        for path, width in self._most_read.items():
            axis = self.reader.read_widths[path]
            for root in _roots([axis]):
                units = width * root.quantum // axis_size(axis)
                most[root] = min(most.get(root, root.quantum), units)
        return most

    def bound_reads(self, sizes: "Sizes") -> bool:
        """Let no reader of a stream read more channels than are written before it.

        What lies beyond is zero, so its weights would be dead. Returns whether a bound is new; some
        widths cannot follow theirs, because they are frozen or have no step that is narrow enough.
        """
        new = False
        for stream in self.streams:
            if stream.end == "write" or not stream.sources:
                continue
            written = (self.reader.written_widths[source] for source in stream.sources)
            widest = max(map(sizes.size, written))
            width = sizes.size(self.reader.read_widths[stream.path])
            if widest < min(width, self._most_read.get(stream.path, width)):
                self._most_read[stream.path] = widest
                new = True
        return new

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
            if self.varies(layer.outputs) or axis_size(layer.outputs) == 1:
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
            if any(map(self.varies, axes)):
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


def _roots(axes: Iterable[Axis]) -> set[Tie]:
    return {atom.tie.root() for axis in axes for atom in atoms(axis)}


def _group(name: str, widths: Sequence[int], tie: Tie, most: int | None) -> Group:
    grain = gcd(*(width // tie.quantum for width in widths))
    if most is None and tie.bounded:
        most = tie.quantum
    return Group(name, widths[0], tie.quantum, grain, min(widths), most)


def _multiply(
    a: Mapping[tuple[int, ...], int], b: Mapping[tuple[int, ...], int]
) -> dict[tuple[int, ...], int]:
    if len(b) == 1 and () in b:
        return {key: value * b[()] for key, value in a.items()}
    product: dict[tuple[int, ...], int] = {}
    for first, m in a.items():
        for second, n in b.items():
            key = tuple(sorted(first + second))
            product[key] = product.get(key, 0) + m * n
    return product


def tensor_axes(network: Network, name: str, tensor: Tensor) -> tuple[Axis, ...]:
    """Axes of a parameter or buffer; constant where no call used it, or with another shape only."""
    known = network.reader.tensors.get(name)
    if known is None or tuple(map(axis_size, known)) != tensor.shape:
        return tuple(((None, n),) for n in tensor.shape)
    return known
