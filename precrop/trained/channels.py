"""Which channels of a trained network a plan's network keeps: those with the largest norms.

Channels are chosen once per width, for all tensors that carry them. A width whose channels are not
proved to keep their identity through the network keeps its leading ones.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from precrop.errors import PrecropError
from precrop.modules.names import parameters_of
from precrop.modules.reparametrised import lengths
from precrop.plans.kinds import Axis as PlannedAxis
from precrop.plans.kinds import input_axes
from precrop.read.axes import Atom, Axis, axis_size
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.trained.identity import ChannelRow, Proof
from precrop.trained.layout import ChannelLayout, Orders, spans

if TYPE_CHECKING:
    from precrop.plans.plan import Plan

Norm = Literal["l1", "l2", "bn"]
NORMS: tuple[Norm, ...] = ("l1", "l2", "bn")
MOST_NAMED = 5
NOT_PROVED = "its channels do not keep their identity"
OTHER_SIZES = "its channels lie otherwise than the plan has them"


class SlicedChannelsWarning(UserWarning):
    """Some widths of a trained network keep their leading channels, not the largest ones."""


@dataclass(frozen=True)
class KeptChannels:
    """The channels that a cropped network keeps."""

    layout: ChannelLayout
    orders: Orders  # per width that is chosen from, its channels in the new order, kept ones first
    counts: Mapping[Atom, int]  # how many of them are kept
    chosen: tuple[str, ...]  # groups whose largest channels are kept
    sliced: Mapping[str, str]  # groups that keep their leading channels, and why

    def arranged(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the network with the kept channels before the others."""
        return self.layout.arranged(name, tensor, self.orders)

    def warn(self) -> None:
        """Warn of the groups that keep their leading channels, if there are any."""
        if not self.sliced:
            return
        named = [f"{name} ({reason})" for name, reason in self.sliced.items()][:MOST_NAMED]
        more = len(self.sliced) - len(named)
        text = f"{', '.join(named)}{f' and {more} more' if more else ''}"
        groups = len(self.sliced) + len(self.chosen)
        warnings.warn(
            f"{len(self.sliced)} of {groups} widths keep their leading channels: {text}",
            SlicedChannelsWarning,
            stacklevel=6,  # past `build`, its wrapping and `Plan.build`: the caller
        )


def choose(plan: "Plan", model: nn.Module, norm: Norm) -> KeptChannels:
    """Choose the channels of every width that a plan makes narrower.

    Args:
        plan: made for this network.
        model: the trained network.
        norm: ``l1`` or ``l2`` norm of the filters that produce a channel, summed over all layers of
            the group; ``bn``: sum of the magnitudes of its batch norms' scales (``l2`` if no batch
            norm has the channels).

    Raises:
        PrecropError: the network is on the meta device, without weights to look at.
    """
    tensors = parameters_of(model)
    if any(tensor.is_meta for tensor in tensors.values()):
        raise PrecropError(f"init={norm!r} looks at weights: a network on the meta device has none")
    network = read_network(
        model,
        Inputs(plan.input_shape),
        scale_groups=plan.options.get("groups") == "scale",
        streams=plan.streams,
        drop_unused=bool(plan.left_out),
    )
    lowered = lower(network)
    groups = zip(lowered.ties, lowered.structure.groups, strict=True)
    names = {tie: group.name for tie, group in groups}
    layout = ChannelLayout(network)
    sizes = _new_sizes(plan, layout)
    narrower = {atom: new for atom, new in sizes.items() if new is not None and new < atom.size}
    rows = {atom: [*_rows(atom, new, layout)] for atom, new in narrower.items()}
    proof = Proof(layout)
    proved: list[ChannelRow] = []
    for attempt in range(2):  # then in blocks, where channels may not move freely
        known = {row.atom for row in proved}
        tried = [
            options[attempt]
            for atom, options in rows.items()
            if atom not in known and len(options) > attempt
        ]
        proved += proof.proved(tried)
    scores = _scores(layout, norm, {row.atom for row in proved})
    counts = {row.atom: narrower[row.atom] for row in proved}
    orders = {
        row.atom: kept_first(scores[row.atom], counts[row.atom], row.blocks) for row in proved
    }
    called = {atom: names.get(atom.tie.root(), atom.name) for atom in sizes}
    whole = {atom.tie.root(): called[atom] for atom in orders}
    sliced: dict[str, str] = {}
    for atom, new in sizes.items():
        if new is None or (atom in narrower and atom not in orders):
            whole.pop(atom.tie.root(), None)
            sliced.setdefault(called[atom], OTHER_SIZES if new is None else NOT_PROVED)
    return KeptChannels(layout, orders, counts, tuple(whole.values()), sliced)


def kept_first(scores: Tensor, kept: int, blocks: int) -> Tensor:
    """Return all channels: the best of each block first, in their own order, then the others."""
    width = len(scores) // blocks
    ranked = scores.view(blocks, width).argsort(dim=1, descending=True, stable=True)
    ranked = ranked + width * torch.arange(blocks)[:, None]
    best, others = ranked[:, : kept // blocks], ranked[:, kept // blocks :]
    return torch.cat([best.sort(1).values.flatten(), others.sort(1).values.flatten()])


def _rows(atom: Atom, kept: int, layout: ChannelLayout) -> Iterator[ChannelRow]:
    """Yield the ways in which an atom's channels may be reordered, the freest first."""
    blocks = atom.size // atom.tie.root().quantum
    if blocks > 1 and kept % blocks == 0:
        if not _meets_groups(atom, layout):
            yield ChannelRow(atom, 1)
        yield ChannelRow(atom, blocks)
    elif blocks == 1:
        yield ChannelRow(atom, 1)


def _meets_groups(atom: Atom, layout: ChannelLayout) -> bool:
    """Whether a grouped convolution reads or produces an atom's channels."""
    return any(
        atom in (part for part, _ in axis)
        for name, (_, inputs) in layout.grouped.items()
        for axis in (inputs, layout.axes[name][0])
    )


def _new_sizes(plan: "Plan", layout: ChannelLayout) -> dict[Atom, int | None]:
    """Return each atom's size in the plan; None if the plan has other segments than the reading."""
    found: dict[Atom, int | None] = {}
    for name, axes in layout.axes.items():
        planned = plan.tensors.get(name)
        for dim, axis in enumerate(axes):
            if layout.follows(name, dim):
                continue
            sizes: PlannedAxis = planned[dim] if planned else axis_size(axis)
            for atom, new in _atom_sizes(axis, sizes):
                if found.setdefault(atom, new) != new:
                    found[atom] = None
    return found


def _atom_sizes(axis: Axis, planned: PlannedAxis) -> Iterator[tuple[Atom, int | None]]:
    ends: dict[tuple[int, int], int] = {}
    if not isinstance(planned, int):
        stops = accumulate(old for old, _ in planned)
        ends = {(stop - old, stop): new for stop, (old, new) in zip(stops, planned, strict=True)}
    for atom, count, start, end in spans(axis):
        if atom is not None:
            left = end - start if isinstance(planned, int) else ends.get((start, end))
            yield atom, None if left is None or left % count else left // count


def _scores(layout: ChannelLayout, norm: Norm, atoms: set[Atom]) -> dict[Atom, Tensor]:
    """Return the norm of every channel of the atoms, summed over all tensors that produce it."""
    by_filters = _summed(atoms, _filters(layout, 1 if norm == "l1" else 2))
    if norm != "bn":
        return by_filters
    by_scales = _summed(atoms, _scales(layout))
    return {
        atom: by_scales[atom] if bool(by_scales[atom].any()) else by_filters[atom] for atom in atoms
    }


def _summed(atoms: set[Atom], norms: Iterable[tuple[Axis, Tensor, int]]) -> dict[Atom, Tensor]:
    """Return each atom's sums of norms per channel; ``norms``: axis, norms of entries, power."""
    scores = {atom: torch.zeros(atom.size, dtype=torch.float64) for atom in atoms}
    for axis, values, power in norms:
        for atom, count, start, end in spans(axis):
            if atom is not None and atom in atoms:
                entries = values[start:end].view(atom.size, count)
                scores[atom] = scores[atom] + torch.linalg.vector_norm(entries, power, dim=1)
    return scores


def _filters(layout: ChannelLayout, power: int) -> Iterator[tuple[Axis, Tensor, int]]:
    """Yield the norms of the filters of every layer, along its output axes."""
    weights = _weights(layout.network.model)
    for layer in layout.network.layers:
        axes = layout.axes.get(layer.weight)
        weight = weights.get(layer.weight)
        if axes is None or weight is None:
            continue
        inputs = input_axes(layer.kind)
        for dim, axis in enumerate(axes):
            if dim not in inputs and any(atom is not None for atom, _ in axis):
                others = [other for other in range(weight.dim()) if other != dim]
                yield axis, torch.linalg.vector_norm(weight, power, dim=others), power


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters in float64 on the CPU; weight norm's directions become the full weights."""
    found = {name: tensor.detach() for name, tensor in parameters_of(model).items()}
    for length, direction, dim in lengths(model):
        found[direction] = torch._weight_norm(found[direction], found[length], dim)
    return {name: t.cpu().double() for name, t in found.items() if t.is_floating_point()}


def _scales(layout: ChannelLayout) -> Iterator[tuple[Axis, Tensor, int]]:
    """Yield the magnitudes of every batch norm's scales."""
    for path, module in layout.network.model.named_modules():
        name = f"{path}.weight" if path else "weight"
        own = {**module._parameters, **module._buffers}
        scale = own.get("weight")
        if own.get("running_var") is not None and scale is not None and name in layout.axes:
            yield layout.axes[name][0], scale.detach().cpu().double().abs(), 1
