"""A network that has been read: its forward passes, and its sizes at any choice of widths."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import Any

from torch import Tensor, nn

from precrop.modules.apart import apart
from precrop.modules.copying import submodule
from precrop.modules.hooks import unwrapped
from precrop.modules.names import (
    fixed_copies,
    layer_of,
    names_count,
    owner_of,
    untrained,
)
from precrop.modules.streams import Stream, installed
from precrop.read.axes import (
    Axis,
    Folded,
    Segment,
    Tie,
    atoms,
    axis_size,
    freeze,
    resolve,
    roots_of,
    segment_size,
    unify,
    varies,
)
from precrop.read.facts import PRODUCTS
from precrop.read.inputs import Inputs, given
from precrop.read.known import (
    OUTPUT,
    TRAIN_MODE,
    CallReading,
    Known,
    LayerReading,
    Product,
    constants,
)
from precrop.read.modules import share_stated_widths
from precrop.read.ops import HANDLERS, fallback
from precrop.read.reader import CONVOLUTIONS, PassReader
from precrop.read.tables import Tables
from precrop.read.trace import Call
from precrop.read.tracer import Traced, TracedPass, Tracer, trace_passes
from precrop.read.unused import (
    Unused,
    frames_that_hold,
    siblings,
    unused_modules,
    widths_of,
)
from precrop.read.values import TensorValue

NOT_CALLED = "no pass calls it"
FIXED = "its width is fixed"
# A frozen table is listed only if it holds at least this share of the network's parameters.
SMALL = 0.01


@dataclass(frozen=True, eq=False)
class Pass(TracedPass):
    """One forward pass with what was read in each of its calls."""

    readings: Sequence[CallReading]

    @property
    def pairs(self) -> Iterator[tuple[Call, CallReading]]:
        """Every call with its reading, in order."""
        return zip(self.trace.calls, self.readings, strict=True)


@dataclass(frozen=True)
class Sizes:
    """Sizes of axes at one choice of widths: by tie, how many units are kept out of how many."""

    kept: Mapping[Tie, tuple[int, int]]

    def segments(self, axis: Axis) -> list[tuple[int, int]]:
        """Return the ``(old, new)`` sizes of an axis' segments."""
        return [(segment_size(segment), self._new(segment)) for segment in resolve(axis)]

    def size(self, axis: Axis) -> int:
        """Return the new size of an axis."""
        return sum(map(self._new, resolve(axis)))

    def _new(self, segment: Segment) -> int:
        atom, count = segment
        if isinstance(atom, Folded):
            return count * prod(map(self.size, atom.factors))
        kept, units = self.kept.get(atom.tie.root(), (1, 1)) if atom is not None else (1, 1)
        return segment_size(segment) * kept // units

    def product(self, product: Product) -> int:
        """Return the new value of a product of axes."""
        return product.coefficient * prod(map(self.size, product.axes))


@dataclass(frozen=True, eq=False)
class Network(Traced):
    """A network whose forward passes were read; `read_network` makes it, and it never changes.

    Attributes:
        unused: modules that no pass called.
        known: the axes of parameters and buffers, and the layers.
        passes: the forward passes and what was read in them.
        beside: one more pass that is only used to count costs, if there is one.
        fixed: widths that could vary but that the program cannot choose, and why.
    """

    unused: Unused
    known: Known
    passes: tuple[Pass, ...]
    beside: Pass | None = None
    fixed: Mapping[Tie, str] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The network itself; its tensors are never computed with."""
        return self.tracer.model

    @property
    def inputs(self) -> Inputs:
        """The network's inputs."""
        return self.tracer.inputs

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The network's parameters, by name."""
        return self.tracer.parameters

    @property
    def layers(self) -> list[LayerReading]:
        """Layers with a weight tensor, in the order of execution."""
        return list(self.known.layers.values())

    @cached_property
    def tables(self) -> dict[str, Axis]:
        """Widths of embeddings and other learnt tables, which layers read but none makes, by name.

        A width that several tables share is listed under the first one's name.
        """
        read = roots_of(layer.inputs for layer in self.layers)
        done = roots_of(layer.outputs for layer in self.layers)
        found: dict[str, Axis] = {}
        for name in self.parameters:
            learnt = name in self.known.weights and name not in self.known.layers
            for axis in reversed(self.known.tensors.get(name, ())) if learnt else ():
                roots = {root for root in roots_of([axis]) & read if root.varies} - done
                if roots:
                    found.setdefault(layer_of(name) or name, axis)
                    done |= roots
        return found

    @property
    def named_widths(self) -> list[tuple[str, Axis]]:
        """Layers, tables and embeddings by the names by which a user can keep their widths.

        An output layer that shares its weight with an embedding has the embedding's name.
        """
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        found = [*((layer.name, layer.outputs) for layer in self.layers), *self.tables.items()]
        for path, module in self.tracer.modules.items():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                weight = names.get(id(module._parameters.get("weight")), "")
                found += [(path, axis) for axis in self.known.tensors.get(weight, ())[-1:]]
        return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """Unused modules that the built network does not have."""
        return self.tracer.left_out

    @property
    def left_out_params(self) -> int:
        """The number of the original's parameters in modules that are left out."""
        return sum(self.unused.modules[path] for path in self.left_out)

    @property
    def droppable(self) -> bool:
        """Whether no input can run the modules that no pass called.

        It needs a pass in train mode, and meta tensors, which have no values that could decide it.
        """
        return not self.tracer.real and TRAIN_MODE not in self.notes

    def varies(self, axis: Axis) -> bool:
        """Whether the axis has a width that the program can choose."""
        roots = (atom.tie.root() for atom in atoms(axis))
        return any(root.varies and root not in self.fixed for root in roots)

    def reason(self, axis: Axis) -> str | None:
        """Return why the axis keeps its size, or a part of it; None if no reason is known."""
        return next(self._reasons(axis), None)

    def _reasons(self, axis: Axis) -> Iterator[str]:
        roots = (atom.tie.root() for atom in atoms(axis))
        return filter(None, (root.frozen or self.fixed.get(root) for root in roots))

    def frozen(self) -> dict[str, str]:
        """Return the layers, tables and unused modules that keep their widths, with the reasons.

        Left out are layers that make the network's output, or what no layer and no other product
        reads (a detector's boxes before they are sorted).
        """
        reasons: dict[str, str] = {}
        inner = set().union(*(_weights_before(run, _factors(run)) for run in self.passes))
        for layer in self.layers:
            whole = axis_size(layer.outputs)
            fixed = tuple(one for one in resolve(layer.outputs) if not self.varies((one,)))
            if not fixed or whole == 1 or layer.weight not in inner:
                continue
            unnamed = "its width cannot be divided" if atoms(fixed) else FIXED
            held, reason = axis_size(fixed), self.reason(fixed)
            if held == whole and reason != OUTPUT:
                reasons[layer.name] = reason or unnamed
            elif held < whole and reason not in (None, OUTPUT):
                reasons[layer.name] = f"{held} of {whole} channels: {reason}"
        reasons |= self._frozen_tables()
        left = {*self.unused.followers, *self.left_out}
        return reasons | {path: NOT_CALLED for path in self.unused.modules if path not in left}

    def _frozen_tables(self) -> dict[str, str]:
        """Return the larger weights of no layer that keep all of their sizes, with the reasons."""
        least = SMALL * sum(parameter.numel() for parameter in self.parameters.values())
        found = {}
        for name, parameter in self.parameters.items():
            axes = self.known.tensors.get(name, ())
            table = name in self.known.weights and name not in self.known.layers
            if not table or not axes or parameter.numel() < least or any(map(self.varies, axes)):
                continue
            reasons = (reason for axis in reversed(axes) for reason in self._reasons(axis))
            path = owner_of(name) if name.endswith("weight") else name
            found[path or name] = next((r for r in reasons if r != OUTPUT), FIXED)
        return found


def given_inputs(model: nn.Module, input_shape: Any) -> Inputs:
    """Return the inputs that a caller gave; for examples, read the network to find the batch axis.

    Raises:
        PrecropError: these are not inputs, or the network fails on them.
    """
    inputs = given(model, input_shape)
    return read_network(model, inputs).inputs if inputs.examples else inputs


@apart()
def read_network(
    model: nn.Module,
    inputs: Inputs,
    *,
    scale_groups: bool = False,
    streams: Sequence[Stream] = (),
    fold: bool = False,
    drop_unused: bool = False,
    hold_outputs: bool = True,
) -> Network:
    """Trace a network's forward passes and read every call in them.

    Args:
        model: the network.
        inputs: its inputs.
        scale_groups: let grouped convolutions keep the width of their groups, not their number.
        streams: where layers get widths of their own at residual streams, beside the places that
            the network has already.
        fold: read the steps of a recurrent layer once; see `Tracer`.
        drop_unused: leave out modules that no pass calls and no input can run.
        hold_outputs: freeze the sizes of the network's outputs.

    Raises:
        PrecropError: the network fails on its inputs.
    """
    bare = unwrapped(model)
    tables = Tables(bare)
    ends = {(stream.path, stream.end): stream for stream in (*streams, *installed(bare))}
    traced = trace_passes(Tracer(bare, inputs, tables, tuple(ends.values()), fold))
    follow = partial(_follow, scale_groups=scale_groups, hold_outputs=hold_outputs)
    network = follow(traced, unused=Unused())
    used = network.known.tensors.keys()
    modules = unused_modules(bare, used)
    if not modules:
        return network
    left_out = _not_missed(network, list(modules)) if drop_unused and network.droppable else ()
    kept = [path for path in modules if path not in left_out]
    unused = Unused(modules, siblings(bare, kept, used), _is_routed(network))
    tracer = replace(traced.tracer, left_out=left_out)
    return follow(replace(traced, tracer=tracer), unused=unused)


def _follow(traced: Traced, *, scale_groups: bool, hold_outputs: bool, unused: Unused) -> Network:
    """Read all passes of a network anew."""
    ranks = {name: parameter.dim() for name, parameter in traced.tracer.parameters.items()}
    called = {frame.path for run in traced.runs for frame in run.trace.frames}
    kept = _kept(traced.tracer.modules, called)
    known = Known(ranks, scale_groups, hold_outputs, kept=kept)
    share_stated_widths(known, traced.skeleton, called)
    passes = _costliest_first([followed(known, run) for run in traced.runs])
    known.count(passes[0].readings)
    network = Network(**vars(traced), unused=unused, known=known, passes=passes)
    _hold_unused_results(network)
    _hold_choices(network)
    _share_with_copies(network)
    _hold_untrained_ends(network)
    _adopt(network)
    return network


def _costliest_first(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """First the pass in eval mode whose costs count.

    Where weights decide how far a pass goes (early exits), stand-ins say nothing: it is the one
    with the most MACs.
    """
    if not passes[0].trace.guessed:
        return tuple(passes)

    def macs(one: Pass) -> int:
        products = (product for reading in one.readings for product in reading.macs)
        return sum(each.coefficient * prod(map(axis_size, each.axes)) for each in products)

    return tuple(sorted(passes, key=lambda one: (one.training, -macs(one))))


def _kept(modules: Mapping[str, nn.Module], called: Collection[str]) -> dict[str, Set[int]]:
    """Return, by path, numbers of heads and groups (by attribute name) in modules that ran."""
    return {
        path: frozenset(n for key, n in vars(module).items() if type(n) is int and names_count(key))
        for path, module in modules.items()
        if path in called and not type(module).__module__.startswith("torch.")
    }


def followed(known: Known, run: TracedPass) -> Pass:
    """Read a pass, adding to what is known of its network; return it with its readings."""
    readings = PassReader(known, run.trace, HANDLERS, fallback).read()
    return Pass(run.training, run.trace, readings)


def _hold_unused_results(network: Network) -> None:
    """Freeze the outputs of layers that nothing uses, such as those of a head that is off.

    A width that they share with layers in use (the last update of a stream) is left to vary.
    """
    used = set().union(*(_weights_before(run, run.trace.outputs) for run in network.passes))
    ends = ((one.inputs, one.outputs) for one in network.layers if one.weight in used)
    shared = roots_of(axis for both in ends for axis in both)
    for layer in network.layers:
        for segment in resolve(layer.outputs) if layer.weight not in used else ():
            if shared.isdisjoint(roots_of([(segment,)])):
                freeze((segment,), OUTPUT)


def _hold_choices(network: Network) -> None:
    """Freeze a width that no layer reads if a call chooses among its entries, as a router does."""
    read = roots_of(layer.inputs for layer in network.layers)
    for forward in network.passes:
        taken = {value.number for call in forward.trace.calls for value in call.inputs}
        for call, reading in forward.pairs:
            chosen = reading.places if call.inputs else None
            if chosen is None or call.outputs[-1].number not in taken:
                continue
            if read.isdisjoint(roots_of([chosen])):
                freeze(chosen, f"{call.full_name} chooses among its channels, which no layer reads")


def _share_with_copies(network: Network) -> None:
    """Give fixed copies of trained layers, such as a momentum encoder's, the layers' widths."""
    known = network.known.tensors
    for copy, original in fixed_copies(network.model).items():
        for axis, other in zip(known.get(copy, ()), known.get(original, ()), strict=False):
            unify(axis, other, f"{copy} is a copy of {original}")


def _hold_untrained_ends(network: Network) -> None:
    """Freeze widths that only untrained layers make, at the input, or read, at the output.

    Training could not make up for what is cropped there. Within the network it can, so untrained
    layers there are cropped, as in a backbone that is frozen as a whole.
    """
    fixed = untrained(network.model)
    # A layer counts as trained if any of its parameters is, such as a mask beside a fixed weight.
    trained = {owner_of(name) for name in network.parameters.keys() - fixed}
    held = [
        layer
        for layer in network.layers
        if {layer.weight, *layer.added} <= fixed and owner_of(layer.weight) not in trained
    ]
    if not held:
        return
    first = {layer.weight: layer for layer in held if not varies(layer.inputs)}
    last = {layer.weight: layer for layer in held if not varies(layer.outputs)}
    made = roots_of(layer.outputs for layer in network.layers if layer.weight not in first)
    read = roots_of(layer.inputs for layer in network.layers if layer.weight not in last)
    for layer in first.values():
        if made.isdisjoint(roots_of([layer.outputs])):
            freeze(layer.outputs, "its weights are not trained")
    for layer in last.values():
        if read.isdisjoint(roots_of([layer.inputs])):
            freeze(layer.inputs, f"the weights of {layer.name}, which reads it, are not trained")


def _adopt(network: Network) -> None:
    """Give unused modules their siblings' widths; freeze widths that the others might meet."""
    tensors, unused = network.known.tensors, network.unused
    for path, twin in unused.followers.items():
        for name in [name for name in tensors if name.startswith(f"{twin}.")]:
            tensors[path + name[len(twin) :]] = tensors[name]
    alone = [p for p in unused.modules if p not in (*unused.followers, *network.left_out)]
    unread = TRAIN_MODE in network.notes
    where = "in train mode, which was not read" if unread else "on other inputs"
    for path in alone if unused.routed else ():
        sizes = widths_of(submodule(network.model, path))
        for forward in network.passes:
            frames = set(frames_that_hold(forward.trace, path))
            for reading in (reading for call, reading in forward.pairs if call.frame in frames):
                for axis in reading.axes:
                    if axis_size(axis) in sizes and varies(axis):
                        freeze(axis, f"{path} may run {where}")


def _is_routed(network: Network) -> bool:
    """Whether another pass may run more: values decide what runs, or train mode was not read.

    Random numbers of Python or NumPy count, since a trace does not show what they decide.
    """
    drew = network.tracer.tables.drew
    return drew or TRAIN_MODE in network.notes or any(run.trace.decided for run in network.runs)


def _not_missed(network: Network, paths: Sequence[str]) -> tuple[str, ...]:
    """Return those of the modules without which every pass makes the same calls."""
    if _same_without(network, paths):
        return tuple(paths)
    return tuple(path for path in paths if len(paths) > 1 and _same_without(network, [path]))


def _same_without(network: Network, paths: Iterable[str]) -> bool:
    tracer = replace(network.tracer, left_out=tuple(paths))
    for run in network.runs:
        trace = tracer.run_again(tracer.replica(), run)
        same = [call.op for call in trace.calls] == [call.op for call in run.trace.calls]
        if trace.error is not None or not same:
            return False
    return True


def _weights_before(forward: Pass, outputs: Iterable[TensorValue]) -> set[str]:
    """Return the weights of layers whose output reaches one of ``outputs`` or another layer.

    The search goes back from the last call by memories, as a write to a view reaches the whole.
    """
    memories = forward.trace.values.memories
    needed = {memories[value.number] for value in outputs}
    weights: set[str] = set()
    for call, reading in reversed([*forward.pairs]):
        reaches = any(memories[value.number] in needed for value in call.outputs)
        if reaches and reading.weight is not None:
            weights.add(reading.weight)
        if reaches or reading.weight is not None:
            needed.update(memories[value.number] for value in call.inputs)
    return weights


def _factors(forward: Pass) -> Iterator[TensorValue]:
    """Yield the operands of all products of a pass: layers', attention's, dynamic kernels'."""
    for call in forward.trace.calls:
        if call.name in (*PRODUCTS, *CONVOLUTIONS):
            yield from call.inputs


def tensor_axes(network: Network, name: str, tensor: Tensor) -> tuple[Axis, ...]:
    """Return a parameter's or buffer's axes; constant ones if no call used it in this shape."""
    known = network.known.tensors.get(name)
    if known is None or tuple(map(axis_size, known)) != tensor.shape:
        return constants(tensor.shape)
    return known
