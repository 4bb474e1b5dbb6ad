"""Data classes: what is known of a network's widths, and what was read in one of its calls."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from precrop.modules.names import layer_of
from precrop.read.axes import Atom, Axis, axis_of, axis_size, constant

Axes = tuple[Axis, ...]

OUTPUT = "makes the network's output"
TRAIN_MODE = "train mode"
"""The key of a network's notes under which the failure of the pass in train mode is reported."""
KERNEL_RANK = 4


@dataclass
class Product:
    """A coefficient times the sizes of some axes, such as a convolution's MACs.

    ``merges`` says that both operands are weights, so that three independent widths may meet.
    """

    coefficient: int
    axes: list[Axis]
    merges: bool = False


@dataclass
class LayerReading:
    """A layer: its weight, its input and output axes, and its MACs in eval mode.

    ``added`` are parameters whose form or product is added to the weight before it is used (LoRA).
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
    """What was read in one call: its operands' axes and the integer arguments that state sizes.

    Attributes:
        inputs: axes of its operands.
        outputs: axes of its outputs.
        weight: the parameter of the layer that it computes.
        literals: the axis whose size an integer argument states, by the argument's name and its
            index in a list (or None); a module may hold such a number in an attribute.
        macs: its multiply-accumulates, over all times that the network makes the call.
        made_of: the parameter of which the output is a masked, scaled or quantised form.
        mixes: the parameter whose first axis it sums over.
        takes: the parameter of several experts' weights of which it takes entries.
        stretch: the parameter of which it takes some rows or columns.
        places: the axis that the integers of its last output index.
    """

    inputs: Sequence[Axes]
    outputs: Sequence[Axes] = ()
    weight: str | None = None
    literals: dict[tuple[str, int | None], Axis] = field(default_factory=dict)
    macs: list[Product] = field(default_factory=list)
    made_of: str | None = None
    mixes: str | None = None
    takes: str | None = None
    stretch: str | None = None
    places: Axis | None = None

    @property
    def axes(self) -> Iterator[Axis]:
        """All axes of its operands and outputs."""
        for axes in (*self.inputs, *self.outputs):
            yield from axes


@dataclass
class Known:
    """What is known of a network; each of its passes adds to it.

    Attributes:
        ranks: the number of axes of each parameter.
        scale_groups: whether grouped convolutions keep the width of their groups, not their number.
        hold_outputs: whether the network's outputs keep their sizes.
        tensors: axes of the parameters and buffers that some call used.
        layers: the layers by the name of their weight, in the order of execution.
        macs: multiply-accumulates of products that belong to no layer, such as attention's.
        read_widths: the widths that modules read from residual streams, by path.
        written_widths: the widths that modules write to residual streams, by path.
        matrices: tensors that are multiplied as matrices and are part of no convolution's kernel.
        kept: numbers of heads and groups in attributes of modules, by path, except PyTorch's own.
    """

    ranks: Mapping[str, int]
    scale_groups: bool = False
    hold_outputs: bool = True
    tensors: dict[str, Axes] = field(default_factory=dict)
    layers: dict[str, LayerReading] = field(default_factory=dict)
    macs: list[Product] = field(default_factory=list)
    read_widths: dict[str, Axis] = field(default_factory=dict)
    written_widths: dict[str, Axis] = field(default_factory=dict)
    matrices: set[str] = field(default_factory=set)
    kept: Mapping[str, Set[int]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    @cached_property
    def weights(self) -> Set[str]:
        """Names of the parameters with more than one axis."""
        return {name for name, rank in self.ranks.items() if rank > 1}

    def axes(self, name: str, shape: tuple[int, ...]) -> Axes:
        """Return the axes of a parameter or buffer, which all passes share."""
        known = self.tensors.get(name)
        if known is None or tuple(map(axis_size, known)) != shape:
            fresh = fresh_axes if name in self.matrices else _parameter_axes
            known = self.tensors[name] = fresh(shape, name)
        return known

    def layer(self, weight: str, kind: str, inputs: Axis, outputs: Axis) -> LayerReading:
        """Return the layer of a weight; it is named after its module if that name is not taken."""
        if weight not in self.layers:
            name = layer_of(weight)
            name = weight if name in self._names else name
            self._names.add(name)
            self.layers[weight] = LayerReading(name, weight, kind, inputs, outputs)
        return self.layers[weight]

    def count(self, readings: Sequence[CallReading]) -> None:
        """Add up the multiply-accumulates of a pass; equal calls of a loop share one reading."""
        times = Counter(map(id, readings))
        for reading in {id(reading): reading for reading in readings}.values():
            total = self.macs if reading.weight is None else self.layers[reading.weight].macs
            for product in reading.macs:
                total.append(replace(product, coefficient=product.coefficient * times[id(reading)]))


def constants(shape: Sequence[int]) -> Axes:
    """Return the axes of a tensor that no width changes."""
    return tuple(map(constant, shape))


def fresh_axes(shape: tuple[int, ...], name: str) -> Axes:
    """Return axes of which nothing is known yet: a new atom for every size above 1."""
    return tuple(constant(n) if n <= 1 else axis_of(Atom(n, name)) for n in shape)


def _parameter_axes(shape: tuple[int, ...], name: str) -> Axes:
    """Return a parameter's axes; if it looks like kernels, the kernel's extent is constant.

    A weight that is reshaped first (standardised) meets its convolution too late to tell. An axis
    between the first two and the extent is a width if it is larger, as in several experts' kernels.
    """
    axes = fresh_axes(shape, name)
    if len(shape) < KERNEL_RANK or shape[-1] != shape[-2]:
        return axes
    inner = (
        constant(size) if size <= shape[-1] else axis
        for axis, size in zip(axes[2:-2], shape[2:-2], strict=True)
    )
    return (*axes[:2], *inner, *constants(shape[-2:]))
