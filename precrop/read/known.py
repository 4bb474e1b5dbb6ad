"""What is known of a network's widths, and what was read in one of its calls."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from precrop.modules.names import layer_of
from precrop.read.axes import Atom, Axis, axis_of, axis_size, constant

Axes = tuple[Axis, ...]

OUTPUT = "makes the network's output"
TRAIN_MODE = "train mode"
"""The key among what is frozen that says why the pass in train mode was not read."""
KERNEL_RANK = 4


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

    Attributes:
        inputs: axes of its operands.
        outputs: axes of what it makes.
        weight: the parameter of the layer that it computes.
        literals: by an argument's name and its index in a list (or None) the axis whose size it
            states; these are the numbers that a module may hold in an attribute of its own.
        macs: its multiply-accumulates, every time that the network makes it.
        made_of: the parameter whose form, masked or scaled or quantised, the output is.
        mixes: the parameter whose first axis it sums over.
        takes: the parameter of several experts' weights that it takes entries of.
        stretch: the parameter of whose axis it takes stretches.
        places: the axis whose entries the integers of its last output tell.
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
        """All axes of its operands and of what it makes."""
        for axes in (*self.inputs, *self.outputs):
            yield from axes


@dataclass
class Known:
    """What is known of a network; each of its passes adds to it.

    Attributes:
        ranks: how many axes each of its parameters has.
        scale_groups: whether grouped convolutions keep the width of their groups, not their number.
        hold_outputs: whether the network's outputs keep their sizes.
        tensors: axes of the parameters and buffers that were met.
        layers: by the name of their weight, in the order of execution.
        macs: multiply-accumulates that belong to no layer, as of attention.
        read_widths: what modules read of residual streams, by path.
        written_widths: what modules write to residual streams, by path.
        matrices: tensors that are multiplied as matrices, and are part of no kernel.
        kept: numbers of heads and groups that modules keep, by path; PyTorch's own are left out.
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
        """Parameters with more than one axis."""
        return {name for name, rank in self.ranks.items() if rank > 1}

    def axes(self, name: str, shape: tuple[int, ...]) -> Axes:
        """The axes of a tensor of the network, which are the same in all passes."""
        known = self.tensors.get(name)
        if known is None or tuple(map(axis_size, known)) != shape:
            fresh = fresh_axes if name in self.matrices else _parameter_axes
            known = self.tensors[name] = fresh(shape, name)
        return known

    def layer(self, weight: str, kind: str, inputs: Axis, outputs: Axis) -> LayerReading:
        """The layer of a weight; its module's name is its own unless another layer has that."""
        if weight not in self.layers:
            name = layer_of(weight)
            name = weight if name in self._names else name
            self._names.add(name)
            self.layers[weight] = LayerReading(name, weight, kind, inputs, outputs)
        return self.layers[weight]

    def count(self, readings: Sequence[CallReading]) -> None:
        """Count the multiply-accumulates of a pass; equal calls of a loop have one reading."""
        times = Counter(map(id, readings))
        for reading in {id(reading): reading for reading in readings}.values():
            total = self.macs if reading.weight is None else self.layers[reading.weight].macs
            for product in reading.macs:
                total.append(replace(product, coefficient=product.coefficient * times[id(reading)]))


def constants(shape: Sequence[int]) -> Axes:
    """Axes of a tensor that no width reaches."""
    return tuple(map(constant, shape))


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
    return (*axes[:2], *inner, *constants(shape[-2:]))
