"""Follows the calls of a trace and finds which axis of which tensor carries which width."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from precrop.errors import MALFORMED, PrecropError
from precrop.own import calling_own, is_ours
from precrop.read.axes import (
    Axis,
    at_least,
    atoms,
    axis_size,
    changes,
    constant,
    cut,
    freeze,
    is_folded,
    resolve,
    roots_of,
    unify,
)
from precrop.read.facts import NOTHING, PRODUCTS, Fact, made
from precrop.read.known import (
    OUTPUT,
    Axes,
    CallReading,
    Known,
    LayerReading,
    Product,
    constants,
    fresh_axes,
)
from precrop.read.trace import Call, Trace
from precrop.read.values import TensorValue, run_of

Handler = Callable[["Reader", Call], Sequence[Axes]]
"""Relates the axes of a call's operands to each other and returns the axes of its outputs."""
KERNELS = ("conv", "depthwise", "grouped", "transposed")
CONVOLUTIONS = ("convolution", "_convolution", "deform_conv2d")
EXPERTS_RANK = 3
"""Least number of axes of a parameter that holds several experts' weights: experts, two ends."""
# A tensor of the network with more uses than this shows that a step repeats; two are common.
_SEVERAL = 2


@dataclass(eq=False)
class Reader:
    """One call as a handler sees it: it tells what is known and notes what the handler finds.

    Attributes:
        known: what is known of the network.
        trace: the trace of the pass.
        call: the call to read.
        facts: what is known of the pass' tensors, by their number.
        reading: the result of reading the call, to which the handler adds.
    """

    known: Known
    trace: Trace
    call: Call
    facts: Sequence[Fact]
    reading: CallReading

    def fact(self, tensor: TensorValue) -> Fact:
        """Return what is known of an operand."""
        return self.facts[tensor.number]

    def axes(self, tensor: TensorValue) -> Axes:
        """Return the axes of an operand."""
        return self.fact(tensor).axes

    def unify(self, a: Axis, b: Axis) -> Axis:
        """Make two axes of equal size one; return the common axis."""
        return unify(a, b, self.reason)

    def freeze(self, *axes: Axis) -> None:
        """Freeze the sizes of axes."""
        for axis in axes:
            freeze(axis, self.reason)

    @cached_property
    def reason(self) -> str:
        """The reason for freezing that the report shows: the operation and its module."""
        reason = f"{self.call.full_name} in {self.trace.path(self.call) or 'the network'}"
        unregistered = self.trace.values.unregistered
        if any(value.number in unregistered for value in self.call.inputs):
            reason += " with a parameter that is not registered"
        return reason

    @cached_property
    def kept(self) -> Set[int]:
        """Numbers of heads and groups in the attributes of the module that makes the call."""
        return self.known.kept.get(self.trace.path(self.call), frozenset())

    def literal(self, name: str, index: int | None, axis: Axis) -> None:
        """Note that an integer argument of the call states the size of an axis."""
        self.reading.literals[(name, index)] = axis

    def layer(
        self, weight: TensorValue, kind: str, inputs: Axis, outputs: Axis, product: Product
    ) -> None:
        """Note a layer and its MACs; only the MACs if ``weight`` stems from no layer's weight.

        A kernel that is mixed from experts' kernels belongs to the experts' layer, whose MACs
        include the mixing.
        """
        coefficient = product.coefficient * self.call.times
        self.reading.macs.append(replace(product, coefficient=coefficient))
        fact = self.fact(weight)
        name = fact.origin or fact.mixture or fact.part or fact.stretch
        if name is None or name not in self.known.weights or self._computes(name):
            return
        if name == fact.part and kind in KERNELS:
            if kind != "conv":  # in these, one expert's axes are not simply (outputs, inputs)
                return
            kind = "experts"
        if fact.origin is None and name == fact.stretch:
            if not (ends := self._ends(name, kind, weight)):
                return
            inputs, outputs = ends
        self.reading.weight = name
        layer = self.known.layer(name, kind, inputs, outputs)
        self._add(layer, fact.scaled_by - {name})
        if fact.mixture == name:  # else the mixture is added to the layer's weight
            layer.kind, layer.inputs, layer.outputs = "mixed", inputs, outputs

    def _ends(self, name: str, kind: str, stretch: TensorValue) -> tuple[Axis, Axis] | None:
        """Return the whole weight's inputs and outputs where a call uses some rows or columns."""
        axes = self.known.tensors[name]
        if len(axes) != stretch.dim() or kind not in ("conv", "linear", "matrix", "transposed"):
            return None
        first, second = axes[:2]
        return (first, second) if kind in ("matrix", "transposed") else (second, first)

    def _computes(self, weight: str) -> bool:
        """Whether the call computes another form of a weight rather than applying its layer.

        Its operands are the weight alone, or the weight and buffers, and the sizes agree.
        """
        known, call = self.known, self.call
        origins = {self.fact(value).origin for value in call.inputs if value.dim() > 1}
        if origins == {weight}:
            return True
        size = prod(map(axis_size, known.tensors[weight]))
        alone = all(one is not None and one not in known.ranks for one in origins - {weight})
        return weight in origins and alone and prod(call.shapes[0]) == size

    def _add(self, layer: LayerReading, names: Set[str]) -> None:
        """Note what is added to a weight, such as LoRA's product, and freeze that product's rank.

        With fewer rows and columns the product is a slice of the update, with a lower rank not.
        """
        layer.added |= names
        own = {atom for axis in self.known.tensors[layer.weight] for atom in atoms(axis)}
        for name in names:
            for axis in self.known.tensors.get(name, ()):
                if own.isdisjoint(atoms(axis)):
                    freeze(axis, f"the rank of what is added to {layer.weight}")

    def owner(self, tensor: TensorValue) -> str | None:
        """Return the parameter that a matrix is a form of, one entry of, or some rows of."""
        fact = self.fact(tensor)
        return fact.origin or fact.part or fact.stretch

    def product_kind(self, tensor: TensorValue, inner: Axis) -> str:
        """Return the kind of a layer of a matrix product by the weight's axis that it sums over."""
        axes = self.known.tensors.get(self.owner(tensor) or "", ())
        place = next((i for i, axis in enumerate(axes) if resolve(axis) == resolve(inner)), 1)
        if self.fact(tensor).stretch and not roots_of([inner]) <= roots_of(axes[1:2]):
            place = 0
        return {0: "matrix", 1: "linear"}.get(place, "experts")

    def mixes(self, operand: TensorValue, axis: Axis) -> None:
        """Note a sum over an axis: over a weight's first axis, it makes a mixture of experts."""
        self.reading.mixes = self._led_by(operand, axis) or self.reading.mixes

    def takes(self, operand: TensorValue, axis: Axis) -> None:
        """Note that entries of an axis are taken: of a weight's first axis, these are experts."""
        name = self._led_by(operand, axis)
        if name is not None and len(self.known.tensors[name]) >= EXPERTS_RANK:
            self.reading.takes = name

    def _led_by(self, operand: TensorValue, axis: Axis) -> str | None:
        """Return the weight that an operand is a form of, if ``axis`` is the weight's first."""
        name = self.fact(operand).origin
        if name is None or name not in self.known.weights or name not in self.known.tensors:
            return None
        first = resolve(self.known.tensors[name][0])
        return name if resolve(axis) == first != constant(1) else None

    def finds(self, axis: Axis, least: int = 1) -> None:
        """Note that the last output's integers index an axis, which must keep ``least`` entries."""
        at_least(axis, least, self.reason)
        self.reading.places = axis

    def are_found(self, places: TensorValue, axis: Axis) -> bool:
        """Whether integers are valid indices of an axis at any width; make sure that they are.

        They must index an axis of at most its size; that one is unified with the axis' beginning.
        """
        found = self.fact(places).places
        if found is None or axis_size(found) > axis_size(axis):
            return False
        if axis_size(found) > 1:
            self.unify(cut(axis, axis_size(found))[0], found)
        return True

    def stretches(self, operand: TensorValue) -> None:
        """Note that an operand is sliced: of a weight, the output is some rows or columns."""
        name = self.fact(operand).origin or self.fact(operand).stretch
        if name in self.known.weights and self.reading.takes is None:
            self.reading.stretch = name

    def ranks(self, tensor: TensorValue, axis: Axis) -> bool:
        """Whether an axis is a flattened weight, such as one whose entries are ranked for a mask.

        How many of its entries are taken (the largest tenth) decides no width, so it may vary.
        """
        return is_folded(axis) and not self.fact(tensor).from_data


class _Step(NamedTuple):
    """What was read in a call; it holds for equal calls until more becomes known (``state``)."""

    state: tuple[int, int]
    reading: CallReading
    facts: list[Fact]


class PassReader:
    """Follows the calls of one pass and adds to what is known of the network."""

    def __init__(
        self, known: Known, trace: Trace, handlers: Mapping[str, Handler], fallback: Handler
    ) -> None:
        self.known, self.trace = known, trace
        self.handlers, self.fallback = handlers, fallback
        self._facts = [NOTHING] * len(trace.values.memories)
        self._inputs = {value.number for value in trace.inputs}
        self._runs: dict[int, tuple[Axis, Axis]] = {}
        self._steps: dict[Any, _Step] = {}
        self._repeats = _repeats(trace)
        known.matrices |= _matrices(trace)

    def read(self) -> list[CallReading]:
        """Read every call. Outputs of the network are frozen unless ``hold_outputs`` is off."""
        readings = [self._follow(call) for call in self.trace.calls]
        for value in self.trace.outputs if self.known.hold_outputs else ():
            for axis in self._fact(value).axes:
                freeze(axis, OUTPUT)
        return readings

    def _follow(self, call: Call) -> CallReading:
        """Read a call, or take the reading of an equal one where a loop repeats its step."""
        operands = [*map(self._fact, call.inputs)]
        key = step_key(call, operands) if self._repeats else None
        before = self._state()
        step = self._steps.get(key) if key is not None else None
        if step is None or step.state != before:
            reading = self._read(call, operands)
            old = [self._facts[value.number] for value in call.outputs]
            own = bool(call.outputs) and call.outputs[0].number in self.trace.values.names
            facts = made(call, reading, operands, old, self.known, own=own)
            step = _Step(self._state(), reading, facts)
            if key is not None and step.state == before:
                self._steps[key] = step
        for value, fact in zip(call.outputs, step.facts, strict=True):
            self._facts[value.number] = fact
        return step.reading

    def _state(self) -> tuple[int, int]:
        """Return two counts, of which one grows when anything about widths or layers changes."""
        return changes(), len(self.known.layers)

    def _read(self, call: Call, operands: Sequence[Fact]) -> CallReading:
        """Read a call by its handler; freeze its operands if the outputs' sizes are wrong."""
        reading = CallReading([fact.axes for fact in operands])
        reader = Reader(self.known, self.trace, call, self._facts, reading)
        handler = call.find(self.handlers) or self.fallback
        why = "" if is_ours(handler) else ", whose handler gives other sizes than its outputs have"
        try:
            with calling_own("fails", handler):
                found = handler(reader, call)
            outputs = [*found]
            outputs += map(constants, call.shapes[len(outputs) :])
            fits = [tuple(map(axis_size, axes)) for axes in outputs] == [*call.shapes]
        except PrecropError as error:
            fits, why = False, f", whose handler {error}"
        except MALFORMED:
            fits = False
        if any(value.number in self._runs for value in call.inputs):
            self._state_runs(reader, call)
        if not fits:
            for axis in (axis for fact in operands for axis in fact.axes):
                freeze(axis, reader.reason + why)
            outputs = [*map(constants, call.shapes)]
        reading.outputs = outputs
        return reading

    def _state_runs(self, reader: Reader, call: Call) -> None:
        """Note the sizes that tensors of successive integers among the arguments state."""
        for name in (argument.name for argument in call.op._schema.arguments):
            value = call.arg(name)
            if isinstance(value, TensorValue) and value.number in self._runs:
                before, run = self._runs[value.number]
                reader.literal(name, 0, before)
                reader.literal(name, 1, (*before, *run))

    def _fact(self, value: TensorValue) -> Fact:
        """Return what is known of a tensor; add the network's own and outside ones when met."""
        fact = self._facts[value.number]
        if fact is NOTHING:
            name = self.trace.values.names.get(value.number)
            axes = constants(value.shape) if name is None else self._own(name, value)
            own, data = name is not None, value.number in self._inputs
            numbers = None if data else self.trace.values.data.get(value.number)
            run = None if numbers is None else run_of(numbers)
            fact = Fact(axes, value.dtype, name, of_weights=own, from_data=data)
            if run is not None:
                before, inside = fresh_axes((run[0], value.numel()), "a list")
                self._runs[value.number] = before, inside
                fact = fact._replace(axes=(inside,), places=(*before, *inside))
            self._facts[value.number] = fact
        return fact

    def _own(self, name: str, value: TensorValue) -> Axes:
        """Return the axes of a network's tensor, unified with those of a result assigned to it."""
        axes, result = self.known.axes(name, value.shape), self.trace.assigned.get(value.number)
        assigned = NOTHING if result is None else self._facts[result]
        if assigned is NOTHING or tuple(map(axis_size, assigned.axes)) != value.shape:
            return axes
        reason = f"a result is assigned to {name}"
        return tuple(unify(a, b, reason) for a, b in zip(axes, assigned.axes, strict=True))


def _repeats(trace: Trace) -> bool:
    """Whether calls use a network's tensor so often that looking for equal calls saves time."""
    uses = Counter(value.number for call in trace.calls for value in call.inputs)
    return any(uses[number] > _SEVERAL for number in trace.values.names)


def _matrices(trace: Trace) -> set[str]:
    """Return the network's tensors from which factors of matrix products are made, but no kernels.

    Their last axes are widths even if the shape looks like a kernel's (a block-diagonal map). A
    kernel that is itself a product, such as a mixture of several, stays a kernel.
    """
    names = trace.values.names
    parts = {number: {name} for number, name in names.items()}
    found: set[str] = set()
    for call in trace.calls:
        made_of = [parts.get(value.number) for value in call.inputs]
        if call.name in PRODUCTS:
            found.update(*filter(None, made_of))
        if made_of and all(made_of):
            whole = set[str]().union(*filter(None, made_of))
            parts |= {value.number: whole for value in call.outputs}
    kernels = {call.inputs[1].number for call in trace.calls if call.name in CONVOLUTIONS}
    for call in reversed(trace.calls):
        if any(value.number in kernels for value in call.outputs):
            kernels.update(value.number for value in call.inputs)
    return found - {name for number, name in names.items() if number in kernels}


def step_key(call: Call, operands: list[Fact]) -> Any:
    """Return a key that is equal for calls of the same kind on operands with the same facts.

    It covers where tensors are among the arguments. It is None if an argument is not hashable.
    """
    try:
        named = _plain(call.kwargs.items()) if call.kwargs else ()
        key = id(call.op), _plain(call.args), named, tuple(operands), call.shapes, call.times
        hash(key)
    except TypeError:
        return None
    return key


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return arguments as a key: tensors as None, values with types, as 1 == 1.0 == True."""
    return tuple(
        None
        if isinstance(value, TensorValue)
        else _plain(value)
        if isinstance(value, (list, tuple))
        else (type(value), value)
        for value in values
    )
