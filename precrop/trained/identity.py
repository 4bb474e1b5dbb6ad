"""Which channels keep their identity from one end of a network to the other.

They do if the network computes the same after the channels are permuted in all tensors that carry
them. This is tried on a copy with weights in general position (trained or initial ones may be zero
and hide a difference), with random inputs, in double precision. Channels that are shuffled, ranked
by their position, or cut at a position that a plan moves do not pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from precrop.modules.copying import copied
from precrop.modules.hooks import keep_own_hooks
from precrop.modules.names import named_tensors
from precrop.modules.random import OwnNumbers
from precrop.read.axes import Atom, atoms
from precrop.read.within import tensors_within
from precrop.trained.layout import ChannelLayout, Orders

PRECISIONS = ((torch.float64, 1e-7), (torch.float32, 1e-5))
"""Types to compute in, tried until the network takes one, and the largest relative difference."""

MOST_RUNS = 120
"""Forward passes after which what is not yet proved counts as impossible to prove."""

SEED = 20
LEAST_SPREAD = 1e-9
"""An output that varies less than this, relative to its size, proves nothing."""


@dataclass(frozen=True)
class ChannelRow:
    """The channels of a width, in blocks that no channel leaves (the groups of a convolution)."""

    atom: Atom
    blocks: int

    def permuted(self, generator: Generator) -> Tensor:
        """Return the channels in a random order within each block."""
        width = self.atom.size // self.blocks
        keys = torch.rand(self.blocks, width, generator=generator)
        return (keys.argsort(1) + width * torch.arange(self.blocks)[:, None]).flatten()


@dataclass
class Proof:
    """Tests permutations on one network, in eval mode, and in train mode if only it uses a row."""

    layout: ChannelLayout
    runs: int = 0
    _base: dict[str, Tensor] = field(default_factory=dict)
    _reference: dict[bool, list[Tensor]] = field(default_factory=dict)
    _moving: set[Atom] = field(default_factory=set)
    _watched: set[str] = field(default_factory=set)
    _ran: set[str] = field(default_factory=set)
    _dtype: torch.dtype = torch.float64
    _tolerance: float = 0.0

    def proved(self, rows: Sequence[ChannelRow]) -> list[ChannelRow]:
        """Return the rows whose channels keep their identity."""
        if not rows:
            return []
        self._moving = {row.atom for row in rows}
        modes, unseen = [False], self._unseen(rows, training=False)
        if unseen:
            modes, unseen = [False, True], self._unseen(rows, training=True)
        rows = [row for row in rows if row not in unseen]
        for self._dtype, self._tolerance in PRECISIONS:
            self._base = self._general_weights()
            try:
                self._reference = {mode: self._outputs({}, mode) for mode in modes}
            except Exception:  # whatever a network raises that cannot compute in this type
                continue
            if not all(map(_tells, self._reference.values())):
                return []
            idle = self._watched - self._ran
            rows = [row for row in rows if not self._carried(row, idle)]
            # Rows whose width no other operation restricts are likely to pass all at once.
            order = sorted(rows, key=lambda row: row.blocks > 1 or not row.atom.is_free())
            found = self._search(order)
            return found if self._holds(found) else []
        return []

    def _search(self, rows: Sequence[ChannelRow]) -> list[ChannelRow]:
        if not rows or self.runs >= MOST_RUNS:
            return []
        if self._holds(rows):
            return list(rows)
        middle = len(rows) // 2
        return [*self._search(rows[:middle]), *self._search(rows[middle:])] if middle else []

    def _holds(self, rows: Sequence[ChannelRow]) -> bool:
        """Whether the network computes the same with these rows permuted."""
        generator = Generator().manual_seed(SEED + self.runs)
        orders = {row.atom: row.permuted(generator) for row in rows}
        try:
            return all(
                _equal(known, self._outputs(orders, mode), self._tolerance)
                for mode, known in self._reference.items()
            )
        except Exception:  # whatever a network raises that depends on the order
            return False

    def _unseen(self, rows: Sequence[ChannelRow], *, training: bool) -> list[ChannelRow]:
        """Return rows in tensors that eval mode does not use, nor, if ``training``, train mode."""
        network = self.layout.network
        passes = [network.passes[0], *(p for p in network.passes if p.training and training)]
        used = {name for forward in passes[:2] for name in forward.trace.used.values()}
        followers = tuple(f"{path}." for path in network.unused.followers)  # as one that runs
        unused = [n for n in self.layout.axes if n not in used and not n.startswith(followers)]
        return [row for row in rows if self._carried(row, unused)]

    def _carried(self, row: ChannelRow, names: Iterable[str]) -> bool:
        """Whether one of these tensors carries the channels of the row."""
        axes = (axis for name in names for axis in self.layout.axes[name])
        return any(atom == row.atom for axis in axes for atom, _ in axis)

    def _outputs(self, orders: Orders, training: bool) -> list[Tensor]:
        self.runs += 1
        network = self.layout.network
        made = copied(
            network.model,
            lambda name, _: self.layout.arranged(name, self._base[name], orders).clone(),
        )
        keep_own_hooks(made, network.model)
        made.train(training)
        for module in made.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0  # it would drop other channels
        device = next((str(t.device) for t in self._base.values()), "cpu")
        args, kwargs = network.inputs.make(2 if training else 1, made, device)
        numbers = Generator().manual_seed(SEED)

        def varied(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            noise = torch.randn(leaf.shape, generator=numbers, dtype=torch.float64)
            return (leaf + noise.to(leaf.device)).to(self._dtype)

        args, kwargs = tree_map(varied, (args, kwargs))
        ends = self._watch(made)
        with torch.no_grad(), OwnNumbers(SEED):
            outputs = made(*args, **kwargs)
        if ends and network.tracer.real:
            return ends  # what values decide, such as the order of boxes, depends on rounding
        return [t.double() for t in (*tensors_within(outputs), *ends)]

    def _watch(self, made: nn.Module) -> list[Tensor]:
        """Return a list for the outputs of layers without moving channels; note what layers run."""
        ends: list[Tensor] = []
        modules = dict(made.named_modules())
        for layer in self.layout.network.layers:
            module = modules.get(layer.name)
            if module is None or isinstance(module, torch.jit.ScriptModule):
                continue
            self._watched.add(layer.weight)
            fixed = self._moving.isdisjoint(atoms(layer.outputs))

            def note(
                _: nn.Module, __: Any, out: Any, weight: str = layer.weight, fixed: bool = fixed
            ) -> None:
                found = tensors_within(out)
                if any(t.numel() for t in found):
                    self._ran.add(weight)
                if fixed:
                    ends.extend(t.double().clone() for t in found)

            module.register_forward_hook(note)
        return ends

    def _general_weights(self) -> dict[str, Tensor]:
        """Return the network's tensors in general position: near their values, but no two equal."""
        generator = Generator().manual_seed(SEED)
        model = self.layout.network.model
        made = {}
        for name, tensor in named_tensors(model).items():
            statistics = name.endswith(("running_mean", "running_var"))
            # Apple's GPUs have no double precision.
            value = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()
            if value.is_floating_point():
                value = value.to(self._dtype)
                if statistics or isinstance(tensor, nn.Parameter):
                    value = _in_general_position(value, generator)
            made[name] = value.abs() if name.endswith("running_var") else value
        return made


def _in_general_position(value: Tensor, generator: Generator) -> Tensor:
    if not value.numel():
        return value
    size = float(value.abs().max().clamp(0.2, 1.0))
    factors = 0.5 + torch.rand(value.shape, generator=generator, dtype=torch.float64)
    noise = 0.05 * size * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return value * factors.to(value) + noise.to(value)


def _tells(outputs: Sequence[Tensor]) -> bool:
    """Whether an output is finite and varies, so that equal outputs prove something."""
    return any(
        bool(t.isfinite().all()) and float(t.max() - t.min()) > LEAST_SPREAD * float(t.abs().max())
        for t in outputs
        if t.numel() > 1
    )


def _equal(known: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    """Whether outputs differ by no more than a share of how much they vary."""
    if [t.shape for t in known] != [t.shape for t in found]:
        return False
    for a, b in zip(known, found, strict=True):
        if not a.numel():
            continue
        spread = float((a - a.mean()).abs().max()) or float(a.abs().max()) or 1.0
        if not float((a - b).abs().max()) <= tolerance * spread:
            return False
    return True
