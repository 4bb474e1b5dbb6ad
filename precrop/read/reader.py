"""From traces to symbolic sizes: which axis of which tensor carries which width."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from precrop.modules.names import is_weight, layer_of
from precrop.read.axes import (
    Atom,
    Axis,
    atoms,
    axis_of,
    axis_size,
    changes,
    constant,
    freeze,
    is_folded,
    resolve,
    unify,
)
from precrop.read.trace import Call, Trace
from precrop.read.values import TensorValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Axes = tuple[Axis, ...]
Handler = Callable[["Reader", Call], "Sequence[Axes]"]


@dataclass
class Product:
    """A count that is a coefficient times the sizes of some axes, such as a convolution's MACs.

    It ``merges`` where both operands are weights, whose three ends have widths of their own.
    """

    coefficient: int
    axes: list[Axis]
    merges: bool = False


@dataclass
class LayerReading:
    """A layer as it was met: its weight's ends and what it computes in eval mode.

    ``added`` are parameters of which something is added to the weight before it is used.
    """

    name: str
    weight: str
    kind: str
    inputs: Axis
    outputs: Axis
    macs: list[Product] = field(default_factory=list)
    added: set[str] = field(default_factory=set)


@dataclass
class CallReading:
    """What is known of one call: its operands' axes and the integer arguments that follow widths.

    ``literals`` maps an argument's name and its index in a list (or None) to the axis whose size
    it states; these are the numbers that a module may hold in an attribute of its own. ``weight``
    names the parameter of the layer that the call computes; ``macs`` are its multiply-accumulates;
    ``made_of`` names the parameter whose form, masked or scaled or quantised, the output is.
    """

    inputs: "Sequence[Axes]"
    outputs: "Sequence[Axes]"
    weight: str | None = None
    literals: dict[tuple[str, int | None], Axis] = field(default_factory=dict)
    macs: list[Product] = field(default_factory=list)
    made_of: str | None = None


class Fact(NamedTuple):
    """What is known of a tensor.

    Attributes:
        axes: its sizes.
        dtype: its type.
        origin: the parameter whose own, reshaped, masked, scaled or quantised form it is.
        mixture: the parameter whose leading entries were summed to make it.
        part: the parameter of several experts' weights that it is one entry of.
        of_weights: whether it is made of parameters and buffers alone.
        from_data: whether it is made of the network's inputs.
        terms: parameters of which one is a factor of every term of the sum that makes it.
    """

    axes: Axes
    dtype: torch.dtype
    origin: str | None = None
    mixture: str | None = None
    part: str | None = None
    of_weights: bool = False
    from_data: bool = False
    terms: frozenset[str] = frozenset()

    @property
    def is_made_of(self) -> bool:
        """Whether a parameter is known that it is made of, in any of these ways."""
        return self.origin is not None or self.mixture is not None or self.part is not None

    @property
    def scaled_by(self) -> frozenset[str]:
        """The terms, or the one parameter whose form it is."""
        return self.terms or frozenset(() if self.origin is None else (self.origin,))


class _Known(NamedTuple):
    """A call that was read and changed nothing: an equal one is read the same until others do."""

    state: tuple[int, int]
    reading: CallReading
    facts: list[Fact]
    counted: list[tuple[Product, int]]


class Reader:
    """Interprets traces of one network; all traces share the axes of its parameters and buffers.

    ``misread`` names operations whose handler gave sizes that the trace contradicts, and why;
    ``read_widths`` and ``written_widths`` are those of modules at residual streams, by path.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        handlers: Mapping[str, Handler],
        fallback: Handler,
        *,
        scale_groups: bool = False,
    ) -> None:
        self.handlers = handlers
        self.fallback = fallback
        self.scale_groups = scale_groups
        self.tensors: dict[str, Axes] = {}
        self.layers: dict[str, LayerReading] = {}
        self.misread: dict[str, str] = {}
        self.macs: list[Product] = []
        self.read_widths: dict[str, Axis] = {}
        self.written_widths: dict[str, Axis] = {}
        self.trace = Trace()
        self.readings: list[CallReading] = []
        self._facts: list[Fact | None] = []
        self._known: dict[Any, _Known] = {}
        self._repeats = False
        self._counted: list[tuple[Product, int]] = []
        self._mixed: str | None = None
        self._taken: str | None = None
        self._layer_names: set[str] = set()
        self._inputs: set[int] = set()
        self._count_macs = False
        self._times = 1
        self._reason: tuple[Call, str] | None = None
        self.parameters = parameters.keys()
        self.weights = {name for name, parameter in parameters.items() if parameter.dim() > 1}

    def read(self, trace: Trace, *, macs: bool) -> list[CallReading]:
        """Follow a trace. Inputs and outputs of the network keep their sizes."""
        self.trace, self.readings, self._count_macs = trace, [], macs
        self._facts, self._known = [None] * len(trace.values.memories), {}
        self._inputs = {value.number for value in trace.inputs}
        self._repeats = _repeats(trace)
        for call in trace.calls:
            self._follow(call)
        for value in trace.outputs:
            for axis in self.axes(value):
                freeze(axis, OUTPUT)
        return self.readings

    def _follow(self, call: Call) -> None:
        """Read a call. Where a loop repeats its step, an equal one was read before."""
        operands = [self.fact(value) for value in call.inputs]
        key = step_key(call, operands) if self._repeats else None
        before = self._state()
        known = self._known.get(key) if key is not None else None
        if known is None or known.state != before:
            known = self._read(call, operands)
            if key is not None and known.state == before:
                self._known[key] = known
        else:
            self.readings.append(known.reading)
            for product, coefficient in known.counted:
                product.coefficient += coefficient
        for value, fact in zip(call.outputs, known.facts, strict=True):
            self._facts[value.number] = fact

    def _read(self, call: Call, operands: list[Fact]) -> _Known:
        reading = CallReading([fact.axes for fact in operands], [])
        self.readings.append(reading)
        self._times, self._counted = call.times, []
        self._mixed = self._taken = None
        reading.outputs = self._interpret(call, self.handlers.get(call.name, self.fallback))
        made = self._made(call, operands)
        return _Known(self._state(), reading, made, self._counted)

    def _state(self) -> tuple[int, int]:
        """Another one when more is known of widths, or of layers."""
        return changes(), len(self.layers)

    def is_of_weights(self, tensor: TensorValue) -> bool:
        """Whether a tensor is made of parameters and buffers alone."""
        return self.fact(tensor).of_weights

    def _interpret(self, call: Call, handler: Handler) -> "Sequence[Axes]":
        """A handler's reading; where it does not fit what happened, everything there is frozen."""
        try:
            outputs = list(handler(self, call))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            return self._misread(call, repr(error))
        outputs += [tuple(map(constant, shape)) for shape in call.shapes[len(outputs) :]]
        for axes, shape in zip(outputs, call.shapes, strict=True):
            if tuple(map(axis_size, axes)) != shape:
                return self._misread(call, f"other sizes than {shape}")
        return outputs

    def _misread(self, call: Call, why: str) -> "Sequence[Axes]":
        self.misread[str(call.op)] = why
        for value in call.inputs:
            for axis in self.axes(value):
                freeze(axis, self.reason(call))
        return [tuple(map(constant, shape)) for shape in call.shapes]

    def _made(self, call: Call, operands: list[Fact]) -> list[Fact]:
        """What is known of a call's outputs.

        A weight that is reshaped, masked, scaled or quantised is still that layer's weight. So is a
        mixture of kernels, and a weight to which what is made of other ones is added.
        """
        from_data = any(fact.from_data for fact in operands)
        of_weights = bool(operands) and all(fact.of_weights for fact in operands)
        facts = []
        for axes, value in zip(self.readings[-1].outputs, call.outputs, strict=True):
            # What is known of a tensor stays known when it is changed in place.
            old = self._facts[value.number] or _NOTHING
            facts.append(
                Fact(
                    axes,
                    value.dtype,
                    old.origin,
                    old.mixture,
                    self._taken or old.part,
                    old.of_weights or of_weights,
                    old.from_data or from_data,
                    old.terms,
                )
            )
        if facts:
            facts[0] = self._made_of(call, operands, from_data, facts[0])
        return facts

    def _made_of(self, call: Call, operands: list[Fact], from_data: bool, made: Fact) -> Fact:
        """A call's first output, with the parameters that it is made of."""
        reading, output, names = self.readings[-1], call.outputs[0], self.trace.values.names
        if made.of_weights:
            made = made._replace(terms=self._terms_of(call, operands) or made.terms)
        adds = call.name in _ADDING and bool(made.terms)
        if reading.weight is not None and not adds:
            return made  # what a layer computes
        if self._mixed is None and not any(fact.is_made_of for fact in operands):
            reading.made_of = None if output.number in names else made.origin
            return made
        pairs = zip(call.inputs, operands, strict=True)
        whole = [fact for value, fact in pairs if value.numel() == output.numel()]
        whole = whole[:1] if adds and call.name in _PRODUCTS else whole
        masked = adds or (call.name in _MASKING and not from_data)
        origin = self._common([fact.origin for fact in whole], masked, from_data)
        mixture = self._common([fact.mixture for fact in whole], masked, from_data)
        part = self._common([fact.part for fact in whole], masked, from_data)
        reading.made_of = origin if output.number in names else made.origin or origin
        return made._replace(
            origin=made.origin or origin,
            mixture=self._mixed or made.mixture or mixture,
            part=made.part or part,
        )

    def _common(self, found: list[str | None], masked: bool, from_data: bool) -> str | None:
        """The parameter that operands are made of, if it is one."""
        known = list(dict.fromkeys(name for name in found if name is not None))
        if known and (masked or None not in found) and not (from_data and len(known) > 1):
            return min(known, key=self._rank)
        return None

    def _terms_of(self, call: Call, operands: list[Fact]) -> frozenset[str]:
        """Of sums of products of weights: the parameters that scale it if all of them are scaled.

        What is computed of weights in other ways (a decoder's queries) is no sum of them.
        """
        found = [fact.scaled_by for fact in operands]
        if call.name in _PRODUCTS and all(found):
            left, right = found[-2:]  # one factor will do, rather the one that is no layer itself
            layer_or_buffer = left <= self.layers.keys() or not left & self.weights
            found[-2:] = [right if layer_or_buffer else left]
        elif call.name in _LINEAR or call.name in _MASKING:  # masks and scales are no terms
            found = sorted(filter(None, found), key=lambda terms: min(map(self._rank, terms)))[:1]
        if found and all(found) and call.name in (*_PRODUCTS, *_ADDING, *_LINEAR, *_MASKING):
            return frozenset[str]().union(*found)
        return frozenset()

    def terms(self, tensor: TensorValue) -> frozenset[str]:
        """Parameters of which one is a factor of every term of a sum that makes a tensor."""
        return self.fact(tensor).scaled_by

    def _rank(self, name: str) -> tuple[bool, bool]:
        """Of several tensors that make a weight, the one that it is named after has the least."""
        return name not in self.weights, not is_weight(name)

    def ranks(self, tensor: TensorValue, axis: Axis) -> bool:
        """Whether an axis is all entries of a weight in a row, such as scores that are ranked.

        How many of them are looked up decides no width: what stays of that is compared or summed.
        """
        return is_folded(axis) and not self.fact(tensor).from_data

    def mixture(self, tensor: TensorValue) -> str | None:
        """Name of the parameter whose leading entries were summed to make a tensor, if one was."""
        return self.fact(tensor).mixture

    def mixes(self, call: Call, operand: TensorValue, axis: Axis) -> None:
        """Note a sum over an axis of an operand; over a parameter's first one it is a mixture."""
        name = self.origin(operand)
        if name in self.weights and self.leads(operand, axis):
            self._mixed = name

    def part(self, tensor: TensorValue) -> str | None:
        """Name of the parameter of several experts' weights that a tensor is one entry of."""
        return self.fact(tensor).part

    def takes(self, call: Call, operand: TensorValue, axis: Axis) -> None:
        """Note entries of an axis of an operand; those of a parameter's first one are experts'."""
        name = self.origin(operand)
        if name not in self.weights or not self.leads(operand, axis):
            return
        if len(self.tensors[name]) >= EXPERTS_RANK:
            self._taken = name

    def owner(self, tensor: TensorValue) -> str | None:
        """Name of the parameter that a matrix is, or is one of several in."""
        return self.origin(tensor) or self.part(tensor)

    def product_kind(self, tensor: TensorValue, inner: Axis) -> str:
        """The kind of a layer that sums over an axis of a parameter: by which one that is."""
        axes = self.tensors.get(self.owner(tensor) or "", ())
        place = next((i for i, axis in enumerate(axes) if resolve(axis) == resolve(inner)), 1)
        return {0: "matrix", 1: "linear"}.get(place, "experts")

    def leads(self, operand: TensorValue, axis: Axis) -> bool:
        """Whether an axis is the first one of the parameter that an operand is made of."""
        tensor = self.tensors.get(self.origin(operand) or "")
        return tensor is not None and resolve(axis) == resolve(tensor[0])

    def origin(self, tensor: TensorValue) -> str | None:
        """Name of the parameter that a tensor is made of, if it is one's reshaped form."""
        return self.fact(tensor).origin

    def axes(self, tensor: TensorValue) -> Axes:
        """The axes of a tensor that was met before, is a parameter, or comes from outside."""
        return self.fact(tensor).axes

    def fact(self, value: TensorValue) -> Fact:
        """What is known of a tensor."""
        known = self._facts[value.number]
        if known is not None:
            return known
        name, from_data = self.trace.values.names.get(value.number), value.number in self._inputs
        axes = tuple(map(constant, value.shape)) if name is None else self._own(name, value)
        fact = Fact(axes, value.dtype, name, of_weights=name is not None, from_data=from_data)
        self._facts[value.number] = fact
        return fact

    def named(self, name: str, shape: tuple[int, ...]) -> Axes:
        """The axes of a tensor of the network, which are the same in all passes."""
        known = self.tensors.get(name)
        if known is None or tuple(map(axis_size, known)) != shape:
            known = self.tensors[name] = _parameter_axes(shape, name)
        return known

    def _own(self, name: str, value: TensorValue) -> Axes:
        """The axes of a tensor of the network, which may have got a result's data."""
        axes, result = self.named(name, value.shape), self.trace.assigned.get(value.number)
        assigned = None if result is None else self._facts[result]
        if assigned is None or tuple(map(axis_size, assigned.axes)) != value.shape:
            return axes
        reason = f"a result is assigned to {name}"
        return tuple(unify(a, b, reason) for a, b in zip(axes, assigned.axes, strict=True))

    def literal(self, name: str, index: int | None, axis: Axis) -> None:
        """Note that an integer argument of the current call states the size of an axis."""
        self.readings[-1].literals[(name, index)] = axis

    def reason(self, call: Call) -> str:
        """Where and by what something is held fixed, for the report."""
        if self._reason is None or self._reason[0] is not call:
            self._reason = call, self._reason_of(call)
        return self._reason[1]

    def _reason_of(self, call: Call) -> str:
        path = self.trace.frames[call.frame].path if call.frame >= 0 else ""
        reason = f"{call.name} in {path or 'the network'}"
        unregistered = self.trace.values.unregistered
        if any(value.number in unregistered for value in call.inputs):
            reason += " with a parameter that is not registered"
        return reason

    def count(self, product: Product) -> None:
        """Count multiply-accumulates that belong to no layer (attention)."""
        self._count(product, self.macs)

    def layer(
        self, weight: TensorValue, kind: str, inputs: Axis, outputs: Axis, product: Product
    ) -> None:
        """Note a layer; one that is called again only adds to its MACs.

        Kernels that are mixtures of experts' kernels are the experts' layer: what mixed them counts
        to its MACs.
        """
        name = self.origin(weight) or self.mixture(weight) or self.part(weight)
        if name not in self.weights or self._computes(name):
            self.count(product)
            return
        if name == self.part(weight) and kind in KERNELS:
            if kind != "conv":  # its groups, or its ends, are not the axes that they are elsewhere
                self.count(product)
                return
            kind = "experts"
        self.readings[-1].weight = name
        layer = self.layers.get(name)
        if layer is None:
            path = self._layer_name(name)
            layer = self.layers[name] = LayerReading(path, name, kind, inputs, outputs)
        self._add(layer, self.terms(weight) - {name})
        if self.mixture(weight) == name:  # else what is mixed is added to it
            layer.kind, layer.inputs, layer.outputs = "mixed", inputs, outputs
        self._count(product, layer.macs)

    def _add(self, layer: LayerReading, names: Set[str]) -> None:
        """Note what is added to a weight; of a product, the axis that it sums over is no width.

        The product of fewer of its rows and columns is a slice of it, that of a lower rank is not.
        """
        layer.added |= names
        own = {atom for axis in self.tensors[layer.weight] for atom in atoms(axis)}
        for name in names:
            for axis in self.tensors.get(name, ()):
                if own.isdisjoint(atoms(axis)):
                    freeze(axis, f"the rank of what is added to {layer.weight}")

    def _count(self, product: Product, total: list[Product]) -> None:
        """Count a product of the current call, for every time that the network makes it."""
        coefficient = product.coefficient * self._times
        self.readings[-1].macs.append(replace(product, coefficient=coefficient))
        if self._count_macs:
            total.append(replace(product, coefficient=coefficient))
            self._counted.append((total[-1], coefficient))

    def _computes(self, weight: str) -> bool:
        """Whether the current call computes another form of a weight.

        Its operands are that alone, or buffers besides, and it has as many entries.
        """
        call = self.trace.calls[len(self.readings) - 1]
        origins = {self.origin(value) for value in call.inputs if value.dim() > 1}
        if origins == {weight}:
            return True
        size = prod(map(axis_size, self.tensors[weight]))
        alone = all(one is not None and one not in self.parameters for one in origins - {weight})
        return weight in origins and alone and prod(call.shapes[0]) == size

    def _layer_name(self, weight: str) -> str:
        """The module of a weight; the weight's own name where there are several."""
        name = layer_of(weight)
        name = weight if name in self._layer_names else name
        self._layer_names.add(name)
        return name


_NOTHING = Fact((), torch.float32)
# More uses of one parameter than this are a repeated step; layers are applied twice here and there.
_SEVERAL = 2


def _repeats(trace: Trace) -> bool:
    """Whether a trace has steps that repeat, so that it is worth while to look for equal calls."""
    uses = [0] * len(trace.values.memories)
    for call in trace.calls:
        for value in call.inputs:
            uses[value.number] += 1
    return max((uses[number] for number in trace.values.names), default=0) > _SEVERAL


def step_key(call: Call, operands: list[Fact]) -> Any:
    """Equal where calls do the same to operands of which the same is known; None if that is open.

    The places of the operands among the arguments are part of it.
    """
    try:
        named = _plain(call.kwargs.items()) if call.kwargs else ()
        key = id(call.op), _plain(call.args), named, tuple(operands), call.shapes, call.times
        hash(key)
    except TypeError:
        return None
    return key


def _plain(values: "Iterable[Any]") -> tuple[Any, ...]:
    """Arguments with nothing in place of tensors. 1, 1.0 and True are equal, but do not do so."""
    return tuple(
        None
        if isinstance(value, TensorValue)
        else _plain(value)
        if isinstance(value, (list, tuple))
        else (type(value), value)
        for value in values
    )


# What a mask of no origin does to a weight; a table that is added to zeros is no weight.
_MASKING = ("mul", "div", "where", "masked_fill")
_ADDING = ("add", "sub", "rsub", "lerp", "addmm", "baddbmm")
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
_LINEAR = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand",
    "clone", "contiguous", "squeeze", "unsqueeze", "detach", "alias", "_to_copy", "neg",
    "mean", "sum",
)  # fmt: skip

INPUT = "reads the network's input"
OUTPUT = "makes the network's output"
KERNELS = ("conv", "depthwise", "grouped", "transposed")
KERNEL_RANK = 4
EXPERTS_RANK = 3
"""Axes that a parameter of several experts' weights has at least: of experts, and two ends."""


def fresh_axes(shape: tuple[int, ...], name: str) -> Axes:
    """Axes that nothing is known of yet, one width each."""
    return tuple(constant(n) if n <= 1 else axis_of(Atom(n, name)) for n in shape)


def _parameter_axes(shape: tuple[int, ...], name: str) -> Axes:
    """A parameter's axes. Where it looks like kernels, their extent is no width.

    It must be known before a weight that is reshaped first (standardised) meets its convolution.
    Kernels of several experts have a larger axis before their extent, which is a width.
    """
    axes = fresh_axes(shape, name)
    if len(shape) < KERNEL_RANK or shape[-1] != shape[-2]:
        return axes
    inner = (
        constant(size) if size <= shape[-1] else axis
        for axis, size in zip(axes[2:-2], shape[2:-2], strict=True)
    )
    return (*axes[:2], *inner, *map(constant, shape[-2:]))
