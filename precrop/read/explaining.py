"""Why a network can't get cheaper, in a few words: what keeps its width, and what no pass calls."""

from precrop.read.network import NOT_CALLED, Network
from precrop.structure import Structure

_SHOWN = 3


def explained(network: Network, structure: Structure, cost: str) -> str:
    """What of a cost cannot shrink and why: the largest first, a few, then how many more.

    Args:
        network: as it stands, frozen widths and all.
        structure: of it.
        cost: the name of the cost whose budget cannot be met.
    """
    owned = _owned(network, structure, cost)
    total = structure.costs[cost](structure.units)
    reasons = {name: why for name, why in network.frozen().items() if why != NOT_CALLED}
    held = {name: owned.get(name, 0) / max(total, 1) for name in reasons}
    order = sorted(held, key=lambda name: -held[name])
    parts = []
    if held:
        named = [f"{name}, {_share(held[name])}{reasons[name]}" for name in order[:_SHOWN]]
        more = len(order) - len(named)
        parts.append("frozen: " + "; ".join([*named, *([f"and {more} more"] if more else [])]))
    unused = {path: n for path, n in network.unused.items() if path not in network.left_out}
    if unused and cost == "params":
        parts.append(_unused(unused, droppable=network.droppable))
    return "; ".join(parts)


def _unused(unused: dict[str, int], *, droppable: bool) -> str:
    order = sorted(unused, key=lambda path: -unused[path])
    more = len(order) - _SHOWN
    where = ", ".join(order[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    hint = ": drop_unused=True leaves them out" if droppable else ", which other inputs may run"
    return f"unused: {sum(unused.values()):,} parameters in {where}, as {NOT_CALLED}{hint}"


def _share(share: float) -> str:
    """A share of the cost; nothing where the layer's part of it is not known."""
    return f"{share:.0%} of it: " if share > 0 else ""


def _owned(network: Network, structure: Structure, cost: str) -> dict[str, int]:
    """What layers and tables have of a cost in the original; empty where that is not counted."""
    if cost == "macs":
        return {layer.name: layer.macs for layer in structure.layers}
    owned: dict[str, int] = {}
    if cost == "params":
        for name, parameter in network.model.named_parameters():
            for path in {name, name.rpartition(".")[0]}:
                owned[path] = owned.get(path, 0) + parameter.numel()
    return owned
