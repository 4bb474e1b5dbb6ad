"""Explains why a network can't get cheaper: layers that keep widths, and unused modules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from precrop.modules.names import layer_of
from precrop.read.axes import Axis, resolve
from precrop.read.lower import Lowered
from precrop.read.network import FIXED, NOT_CALLED, Network, Sizes, tensor_axes

_SHOWN = 3
# Layers that are not in `frozen` (a classifier's outputs) are named from this share of the least.
_LARGE = 0.05
_INPUT = "reads the network's input"
_READ = "what it reads keeps its size"


@dataclass(frozen=True)
class _Part:
    """A layer or a table: its axes, outputs first, and its cost at the least units."""

    axes: tuple[Axis, ...]
    least: int
    read: str = FIXED
    """Why the width that it reads is fixed, if nothing else says so."""


def explained(lowered: Lowered, cost: str, units: Sequence[int], rule: str) -> str:
    """Say what makes up the least possible cost and why: the largest few parts, then a count.

    Args:
        lowered: the network as it stands, with its frozen widths.
        cost: the name of the cost whose budget cannot be met.
        units: the fewest units that every group can keep.
        rule: the options that allow no fewer units, in words.
    """
    network, sizes = lowered.network, lowered.sizes(units)
    total = max(lowered.structure.costs[cost](units), 1)
    parts = _parts(network, sizes, cost)
    shares = {name: part.least / total for name, part in parts.items()}
    frozen = {name: why for name, why in network.frozen().items() if why != NOT_CALLED}
    bound = []
    for name in parts.keys() - frozen.keys():
        why = _why(network, parts[name], sizes) if shares[name] >= _LARGE else ""
        if why is None:
            bound.append(name)
        elif why:
            frozen[name] = why
    clauses = [
        _listed("frozen", frozen, shares),
        _listed("no narrower", dict.fromkeys(bound, f"the least with {rule}"), shares),
    ]
    elsewhere = sum(map(sizes.product, network.known.macs)) / total if cost == "macs" else 0
    if elsewhere >= _LARGE:
        clauses.append(f"in no layer, such as attention: {elsewhere:.0%} of it")
    unused = {path: n for path, n in network.unused.modules.items() if path not in network.left_out}
    if unused and cost == "params":
        clauses.append(_unused(unused, droppable=network.droppable))
    return "; ".join(filter(None, clauses))


def _parts(network: Network, sizes: Sizes, cost: str) -> dict[str, _Part]:
    """Return layers and tables with their costs, by name; empty for other costs than these two."""
    if cost not in ("params", "macs"):
        return {}
    entered = _entered(network)
    parts = {
        layer.name: _Part(
            (layer.outputs, layer.inputs),
            sum(map(sizes.product, layer.macs)),
            _INPUT if layer.weight in entered else _READ,
        )
        for layer in network.layers
    }
    if cost == "macs":
        return parts
    numbers = dict.fromkeys(parts, 0)
    for name, parameter in network.parameters.items():
        if any(name.startswith(f"{path}.") for path in network.unused.modules):
            continue  # `_unused` reports them
        axes = tensor_axes(network, name, parameter)
        module = name.rpartition(".")[0]
        layer = layer_of(name)
        owner = next((path for path in (layer, name, module) if path in parts), layer)
        parts.setdefault(owner, _Part(axes, 0))
        numbers[owner] = numbers.get(owner, 0) + prod(map(sizes.size, axes))
    return {name: _Part(part.axes, numbers[name], part.read) for name, part in parts.items()}


def _why(network: Network, part: _Part, sizes: Sizes) -> str | None:
    """Return why a part keeps a width; None if the options do it, "" if it keeps none."""
    for place, axis in enumerate(part.axes):
        pairs = zip(resolve(axis), sizes.segments(axis), strict=True)
        kept = [(old, segment) for segment, (old, new) in pairs if new == old > 1]
        if 2 * sum(old for old, _ in kept) <= sizes.size(axis):
            continue
        _, segment = max(kept, key=lambda pair: pair[0])
        if network.varies((segment,)):
            return None
        return network.reason((segment,)) or (part.read if place > 0 else FIXED)
    return ""


def _entered(network: Network) -> set[str]:
    """Return the weights of the layers that read the network's input, directly or transformed."""
    weights = set()
    for forward in network.passes:
        data = {value.number for value in forward.trace.inputs}
        for call, reading in forward.pairs:
            if data.isdisjoint(value.number for value in call.inputs):
                continue
            if reading.weight is None:
                data.update(value.number for value in call.outputs)
            else:
                weights.add(reading.weight)
    return weights


def _listed(title: str, reasons: Mapping[str, str], shares: Mapping[str, float]) -> str:
    """List names by their reason, those with the largest share of the cost first."""
    alike: dict[str, list[str]] = {}
    for name in sorted(reasons, key=lambda name: (-shares.get(name, 0), name)):
        alike.setdefault(reasons[name], []).append(name)
    listed = []
    for why, names in [*alike.items()][:_SHOWN]:
        share = sum(shares.get(name, 0) for name in names)
        listed.append(f"{_some(names)}, {f'{share:.0%} of it: ' if share > 0 else ''}{why}")
    more = sum(map(len, [*alike.values()][_SHOWN:]))
    listed += [f"and {more} more"] if more else []
    return f"{title}: {'; '.join(listed)}" if listed else ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = (name or "the network itself" for name in names[:_SHOWN])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _unused(unused: Mapping[str, int], *, droppable: bool) -> str:
    order = sorted(unused, key=lambda path: -unused[path])
    hint = ": drop_unused=True leaves them out" if droppable else ", which other inputs may run"
    return f"unused: {sum(unused.values()):,} parameters in {_some(order)}, as {NOT_CALLED}{hint}"
