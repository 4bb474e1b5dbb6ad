"""From traces to symbolic sizes: which axis of which tensor carries which width."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from precrop.names import is_weight, layer_of
from precrop.read.axes import (
    Atom,
    Axis,
    atoms,
    axis_of,
    axis_size,
    constant,
    freeze,
    is_folded,
    resolve,
    unify,
)
from precrop.read.trace import Call, Trace, input_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Reader:
    """Interprets traces of one network; all traces share the axes of its parameters and buffers.

    ``misread`` names operations whose handler gave sizes that the trace contradicts, and why;
    ``read_widths`` and ``written_widths`` are those of modules at residual streams, by path.
    """

    def __init__(
        self,
        model: nn.Module,
        handlers: Mapping[str, Handler],
        fallback: Handler,
        *,
        scale_groups: bool = False,
    ) -> None:
        self.handlers = handlers
        self.fallback = fallback
        self.scale_groups = scale_groups
        self.names: dict[int, str] = {}
        self.tensors: dict[str, Axes] = {}
        self.layers: dict[str, LayerReading] = {}
        self.misread: dict[str, str] = {}
        self.macs: list[Product] = []
        self.read_widths: dict[str, Axis] = {}
        self.written_widths: dict[str, Axis] = {}
        self.trace = Trace()
        self.readings: list[CallReading] = []
        self._axes: dict[int, Axes] = {}
        self._origins: dict[int, str] = {}
        self._mixtures: dict[int, str] = {}
        self._parts: dict[int, str] = {}
        self._terms: dict[int, frozenset[str]] = {}
        self._of_weights: set[int] = set()
        self._layer_names: set[str] = set()
        self._data: set[int] = set()
        self._keep: list[object] = []
        self._count_macs = False
        self._times = 1
        self._reason: tuple[Call, str] | None = None
        parameters = dict(model.named_parameters())
        for name, tensor in (*parameters.items(), *model.named_buffers()):
            self.names.setdefault(id(tensor), name)
        self.weights = {name for name, tensor in parameters.items() if tensor.dim() > 1}

    def read(self, trace: Trace, *, macs: bool) -> list[CallReading]:
        """Follow a trace. Inputs and outputs of the network keep their sizes."""
        self.trace, self.readings, self._count_macs = trace, [], macs
        self._axes, self._terms = {}, {}
        self._origins, self._mixtures, self._parts = {}, {}, {}
        self._of_weights = set()
        self._data = set(map(id, trace.inputs))
        self._keep.append(trace)  # ids stay unique while the tensors live
        for call in trace.calls:
            self._follow(call)
        for tensor in trace.outputs:
            for axis in self.axes(tensor):
                freeze(axis, OUTPUT)
        return self.readings

    def _follow(self, call: Call) -> None:
        operands = input_tensors(call)
        reading = CallReading([self.axes(tensor) for tensor in operands], [])
        self.readings.append(reading)
        self._times = call.times
        handler = self.handlers.get(call.name, self.fallback)
        reading.outputs = self._interpret(call, handler)
        for tensor, axes in zip(call.outputs, reading.outputs, strict=True):
            self._axes[id(tensor)] = axes
        if operands and all(map(self.is_of_weights, operands)):
            self._of_weights.update(map(id, call.outputs))
        self._pass_origin(call)

    def is_of_weights(self, tensor: Tensor) -> bool:
        """Whether a tensor is made of parameters and buffers alone."""
        return id(tensor) in self._of_weights or id(tensor) in self.names

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
        for tensor in input_tensors(call):
            for axis in self.axes(tensor):
                freeze(axis, self.reason(call))
        return [tuple(map(constant, shape)) for shape in call.shapes]

    def _pass_origin(self, call: Call) -> None:
        """A weight that is reshaped, masked, scaled or quantised is still that layer's weight.

        So is a mixture of kernels, and a weight to which what is made of other ones is added.
        """
        tensors = input_tensors(call)
        from_data = not self._data.isdisjoint(map(id, tensors))
        if from_data:
            self._data.update(map(id, call.outputs))
        if not call.outputs:
            return
        output = call.outputs[0]
        if self.is_of_weights(output):
            self._pass_terms(call, tensors)
        adds = call.name in _ADDING and id(output) in self._terms
        if self.readings[-1].weight is not None and not adds:
            return  # what a layer computes
        whole = [t for t in tensors if t.numel() == output.numel()]
        whole = whole[:1] if adds and call.name in _PRODUCTS else whole
        for name_of, names in (
            (self.origin, self._origins),
            (self.mixture, self._mixtures),
            (self.part, self._parts),
        ):
            found = list(map(name_of, whole))
            known = list(dict.fromkeys(name for name in found if name is not None))
            masked = adds or (call.name in _MASKING and not from_data)
            if known and (masked or None not in found) and not (from_data and len(known) > 1):
                names.setdefault(id(output), min(known, key=self._rank))
        self.readings[-1].made_of = self._origins.get(id(output))

    def _pass_terms(self, call: Call, tensors: list[Tensor]) -> None:
        """Of sums of products of weights: the parameters that scale it if all of them are scaled.

        What is computed of weights in other ways (a decoder's queries) is no sum of them.
        """
        found = list(map(self.terms, tensors))
        if call.name in _PRODUCTS and all(found):
            left, right = found[-2:]  # one factor will do, rather the one that is no layer itself
            found[-2:] = [right if left <= self.layers.keys() else left]
        elif call.name in _LINEAR or call.name in _MASKING:  # masks and scales are no terms
            found = sorted(filter(None, found), key=lambda terms: min(map(self._rank, terms)))[:1]
        if found and all(found) and call.name in (*_PRODUCTS, *_ADDING, *_LINEAR, *_MASKING):
            self._terms[id(call.outputs[0])] = frozenset[str]().union(*found)

    def terms(self, tensor: Tensor) -> frozenset[str]:
        """Parameters of which one is a factor of every term of a sum that makes a tensor."""
        name = self.origin(tensor)
        return self._terms.get(id(tensor)) or frozenset({name} if name is not None else ())

    def _rank(self, name: str) -> tuple[bool, bool]:
        """Of several tensors that make a weight, the one that it is named after has the least."""
        return name not in self.weights, not is_weight(name)

    def ranks(self, tensor: Tensor, axis: Axis) -> bool:
        """Whether an axis is all entries of a weight in a row, such as scores that are ranked.

        How many of them are looked up decides no width: what stays of that is compared or summed.
        """
        return is_folded(axis) and id(tensor) not in self._data

    def mixture(self, tensor: Tensor) -> str | None:
        """Name of the parameter whose leading entries were summed to make a tensor, if one was."""
        return self._mixtures.get(id(tensor))

    def mixes(self, call: Call, operand: Tensor, axis: Axis) -> None:
        """Note a sum over an axis of an operand; over a parameter's first one it is a mixture."""
        name = self.origin(operand)
        if name in self.weights and self.leads(operand, axis):
            self._mixtures[id(call.outputs[0])] = name

    def part(self, tensor: Tensor) -> str | None:
        """Name of the parameter of several experts' weights that a tensor is one entry of."""
        return self._parts.get(id(tensor))

    def takes(self, call: Call, operand: Tensor, axis: Axis) -> None:
        """Note entries of an axis of an operand; those of a parameter's first one are experts'."""
        name = self.origin(operand)
        if name not in self.weights or not self.leads(operand, axis):
            return
        if len(self.tensors[name]) >= EXPERTS_RANK:
            self._parts |= dict.fromkeys(map(id, call.outputs), name)

    def owner(self, tensor: Tensor) -> str | None:
        """Name of the parameter that a matrix is, or is one of several in."""
        return self.origin(tensor) or self.part(tensor)

    def product_kind(self, tensor: Tensor, inner: Axis) -> str:
        """The kind of a layer that sums over an axis of a parameter: by which one that is."""
        axes = self.tensors.get(self.owner(tensor) or "", ())
        place = next((i for i, axis in enumerate(axes) if resolve(axis) == resolve(inner)), 1)
        return {0: "matrix", 1: "linear"}.get(place, "experts")

    def leads(self, operand: Tensor, axis: Axis) -> bool:
        """Whether an axis is the first one of the parameter that an operand is made of."""
        tensor = self.tensors.get(self.origin(operand) or "")
        return tensor is not None and resolve(axis) == resolve(tensor[0])

    def origin(self, tensor: Tensor) -> str | None:
        """Name of the parameter that a tensor is made of, if it is one's reshaped form."""
        return self.names.get(id(tensor)) or self._origins.get(id(tensor))

    def axes(self, tensor: Tensor) -> Axes:
        """The axes of a tensor that was met before, is a parameter, or comes from outside."""
        known = self._axes.get(id(tensor))
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        if name is None:
            axes = tuple(map(constant, tensor.shape))
        else:
            if name not in self.tensors:
                self.tensors[name] = _parameter_axes(tuple(tensor.shape), name)
            axes = self.tensors[name]
            assigned = self._axes.get(id(self.trace.assigned.get(id(tensor))))
            if assigned is not None:
                reason = f"a result is assigned to {name}"
                axes = tuple(unify(a, b, reason) for a, b in zip(axes, assigned, strict=True))
        self._axes[id(tensor)] = axes
        return axes

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
        if any(self._is_unregistered(tensor) for tensor in input_tensors(call)):
            reason += " with a parameter that is not registered"
        return reason

    def _is_unregistered(self, tensor: Tensor) -> bool:
        plain = type(tensor) is Tensor  # asking a class takes much longer
        return not plain and id(tensor) not in self.names and isinstance(tensor, nn.Parameter)

    def count(self, product: Product) -> None:
        """Count multiply-accumulates that belong to no layer (attention)."""
        product = self._repeated(product)
        self.readings[-1].macs.append(product)
        if self._count_macs:
            self.macs.append(product)

    def layer(
        self, weight: Tensor, kind: str, inputs: Axis, outputs: Axis, product: Product
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
        product = self._repeated(product)
        self.readings[-1].macs.append(product)
        if self._count_macs:
            layer.macs.append(product)

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

    def _repeated(self, product: Product) -> Product:
        """A product of the current call, for every time that the network makes it."""
        return replace(product, coefficient=product.coefficient * self._times)

    def _computes(self, weight: str) -> bool:
        """Whether the current call has a weight alone for operands: it computes another form."""
        operands = input_tensors(self.trace.calls[len(self.readings) - 1])
        return {self.origin(tensor) for tensor in operands if tensor.dim() > 1} == {weight}

    def _layer_name(self, weight: str) -> str:
        """The module of a weight; the weight's own name where there are several."""
        name = layer_of(weight)
        name = weight if name in self._layer_names else name
        self._layer_names.add(name)
        return name


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
