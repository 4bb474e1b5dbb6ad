"""Where every channel of a network lies: in which tensors, on which axes, in which order."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from precrop.modules.names import named_tensors
from precrop.read.axes import Atom, Axis, axis_size, resolve, segment_size
from precrop.read.network import Network, tensor_axes

Orders = Mapping[Atom, Tensor]
"""The channels in their new order, for widths whose channels move."""


class ChannelLayout:
    """The axes of a network's tensors, as rows of channels that have an identity.

    The input axis of a grouped convolution's weight means other channels in every group: it follows
    the order of the layer's input.

    Attributes:
        network: as it was read.
        axes: of every parameter and buffer that a pass used, by name.
        grouped: by the weight of a grouped convolution, its number of groups and its input axis.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        model = network.model
        self.axes: dict[str, tuple[Axis, ...]] = {
            name: tuple(map(resolve, tensor_axes(network, name, tensor)))
            for name, tensor in named_tensors(model).items()
            if name in network.known.tensors
        }
        self.grouped = {
            layer.weight: (axis_size(layer.inputs) // axis_size(within), resolve(layer.inputs))
            for layer in network.layers
            if layer.kind == "grouped" and layer.weight in self.axes
            for within in self.axes[layer.weight][1:2]
        }

    def follows(self, name: str, dim: int) -> bool:
        """Whether an axis has no channels of its own, but each group's part of the inputs."""
        return dim == 1 and name in self.grouped

    def arranged(self, name: str, tensor: Tensor, orders: Orders) -> Tensor:
        """Return a tensor with its channels in the given order, on all of its axes."""
        axes = self.axes.get(name, ())
        for dim, axis in enumerate(axes):
            if not self.follows(name, dim) and not orders.keys().isdisjoint(_atoms(axis)):
                tensor = tensor.index_select(dim, entries(axis, orders).to(tensor.device))
        if name in self.grouped:
            groups, inputs = self.grouped[name]
            if not orders.keys().isdisjoint(_atoms(inputs)):
                rows, read = entries(axes[0], orders), entries(inputs, orders)
                tensor = _within_groups(tensor, rows, read, groups)
        return tensor


def _atoms(axis: Axis) -> list[Atom]:
    return [atom for atom, _ in axis if atom is not None]


def spans(axis: Axis) -> Iterator[tuple[Atom | None, int, int, int]]:
    """Yield for each segment its atom, the entries per channel, and where it starts and ends."""
    start = 0
    for segment in axis:
        end = start + segment_size(segment)
        yield *segment, start, end
        start = end


def entries(axis: Axis, orders: Orders) -> Tensor:
    """Return the entries of an axis in the new order of their channels; others stay in place."""
    return torch.cat(
        [
            start + (orders[atom][:, None] * count + torch.arange(count)).flatten()
            if atom is not None and atom in orders
            else torch.arange(start, end)
            for atom, count, start, end in spans(axis)
        ]
    )


def _within_groups(kernel: Tensor, rows: Tensor, read: Tensor, groups: int) -> Tensor:
    """Order each group's columns of a grouped kernel, whose rows have moved, as in ``read``."""
    width = kernel.shape[1]
    columns = torch.stack([read[read // width == group] % width for group in range(groups)])
    index = columns[rows * groups // len(rows)].to(kernel.device)
    return kernel.gather(1, index.view(*index.shape, *[1] * (kernel.dim() - 2)).expand_as(kernel))
