"""Converts a network's symbolic widths to the `Structure` that programs are made of.

Every width that may change becomes a group, every layer's inputs and outputs become shares of
groups, and every cost becomes a polynomial in the groups' units.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd, prod

from precrop.read.axes import (
    Axis,
    Folded,
    Tie,
    atoms,
    axis_size,
    leaves,
    resolve,
    roots_of,
    segment_size,
)
from precrop.read.known import LayerReading, Product
from precrop.read.network import Network, Sizes, tensor_axes
from precrop.solve.structure import Cost, Group, Layer, Peak, Structure

# Most widths in a product that the allocation can count; of a longer product, widths are fixed.
MAX_DEGREE = 2
# Counts of parameters and MACs may have more (a bilinear layer's weight, a folded axis).
MAX_PARAMETER_DEGREE = 4

CostModel = Callable[[Network, Mapping[Tie, int]], Cost | Peak]
"""Makes a further cost of a network, such as its latency, given every varying tie's index."""
NO_MODELS: Mapping[str, CostModel] = {}
UNBOUNDED: Mapping[str, int] = {}


@dataclass(frozen=True)
class Lowered:
    """A network as programs see it.

    Attributes:
        network: the network, in which widths that the program cannot choose are fixed.
        ties: the tie behind every group.
        structure: the groups, layers and costs.
    """

    network: Network
    ties: Sequence[Tie]
    structure: Structure

    def sizes(self, units: Sequence[int]) -> Sizes:
        """Return the network's sizes when each group keeps the given number of units."""
        pairs = zip(self.ties, units, strict=True)
        return Sizes({tie: (int(kept), tie.quantum) for tie, kept in pairs})


def lower(
    network: Network,
    models: Mapping[str, CostModel] = NO_MODELS,
    most_read: Mapping[str, int] = UNBOUNDED,
) -> Lowered:
    """Return the groups, layers and costs of a network, and the tie behind every group.

    Widths that no layer makes are fixed, and so is one of each product of more widths than a
    program can count.

    Args:
        network: the network as it was read, or constrained further.
        models: costs besides ``params`` and ``macs``, by name.
        most_read: the most channels that readers of residual streams may read, by path.
    """
    ties, fixed = _ties(network)
    products = [product for layer in network.layers for product in layer.macs]
    products += network.known.macs
    shapes = [
        Product(1, list(tensor_axes(network, name, parameter)))
        for name, parameter in network.parameters.items()
        if not any(name.startswith(f"{path}.") for path in network.left_out)
    ]
    while True:
        network = replace(network, fixed=fixed)
        index = {tie: i for i, tie in enumerate(ties)}
        costs: dict[str, Cost | Peak] = {
            "params": polynomial(shapes, index),
            "macs": polynomial(products, index),
        }
        costs |= {name: model(network, index) for name, model in models.items()}
        crowded = _crowded(network, costs, products, index)
        if not crowded:
            break
        held = _held(costs["params"], ties)
        most = max(crowded, key=lambda group: (crowded[group] / max(1, held[group]), group))
        fixed = {**fixed, ties.pop(most): "its cost is a product of three widths"}
    layers = tuple(lowered(network, layer, index) for layer in network.layers)
    structure = Structure(_groups(network, index, most_read), layers, costs)
    return Lowered(network, ties, structure)


def _crowded(
    network: Network,
    costs: Mapping[str, Cost | Peak],
    macs: Iterable[Product],
    index: Mapping[Tie, int],
) -> Counter[int]:
    """Count, by group, the products of too many widths; an axis of several groups is one width.

    `lower` fixes the group first that has the most of them relative to its parameters.
    """
    counted = [
        (part, MAX_PARAMETER_DEGREE if name in ("params", "macs") else MAX_DEGREE)
        for name, cost in costs.items()
        for part in cost.parts
    ]
    counted += [
        (polynomial([product], index), MAX_DEGREE)
        for product in macs
        if not product.merges and sum(map(network.varies, product.axes)) > MAX_DEGREE
    ]
    terms = (term for cost, most in counted for term in cost.terms if len(term) > most)
    return Counter(group for term in terms for group in {*term})


def _held(params: Cost | Peak, ties: Sequence[Tie]) -> Counter[int]:
    """Count the parameters along each group's width."""
    held = Counter[int]()
    for term, count in (pair for part in params.parts for pair in part.terms.items()):
        size = count * prod(ties[group].quantum for group in term)
        held.update(dict.fromkeys(term, size))
    return held


def _ties(network: Network) -> tuple[list[Tie], dict[Tie, str]]:
    """Return the varying ties in the order in which layers make them, and why others are fixed.

    A width that no layer makes may vary in a learnt table (an embedding, a token). Otherwise it is
    fixed, since a buffer's columns (coordinates) have a meaning each.
    """
    made = [layer.outputs for layer in network.layers]
    for name in sorted(network.known.weights - network.known.layers.keys()):
        made += network.known.tensors.get(name, ())
    made += network.known.read_widths.values()
    ends = (*made, *(layer.inputs for layer in network.layers))
    roots = (atom.tie.root() for axis in ends for atom in atoms(axis))
    found = dict.fromkeys(root for root in roots if root.varies)
    produced = roots_of(made)
    unmade = [root for root in found if root not in produced]
    read = roots_of(axis for layer in network.layers for axis in (layer.inputs, layer.outputs))
    ties = [root for root in found if root in produced and root in read]
    return ties, dict.fromkeys(unmade, "no layer and no learnt table makes it")


_Terms = dict[tuple[int, ...], int]
"""Coefficients by the groups that are multiplied, as in `Cost`."""


def axis_form(axis: Axis, index: Mapping[Tie, int]) -> _Terms:
    """Return an axis' size as a polynomial in the groups' units; it is linear unless folded."""
    form: _Terms = {}
    for segment in resolve(axis):
        atom, count = segment
        tie = atom.tie.root() if atom is not None else None
        if isinstance(atom, Folded):
            _add(form, _multiplied(count, atom.factors, index))
        elif tie is not None and tie in index:
            _add(form, {(index[tie],): segment_size(segment) // tie.quantum})
        else:
            _add(form, {(): segment_size(segment)})
    return form


def polynomial(products: Iterable[Product], index: Mapping[Tie, int]) -> Cost:
    """Return the sum of products as a polynomial in the units of the groups in ``index``."""
    total: _Terms = {}
    for product in products:
        _add(total, _multiplied(product.coefficient, product.axes, index))
    return Cost(total)


def _multiplied(coefficient: int, axes: Iterable[Axis], index: Mapping[Tie, int]) -> _Terms:
    """Return a coefficient times the sizes of some axes, as a polynomial."""
    terms: _Terms = {(): coefficient}
    for axis in axes:
        terms = _multiply(terms, axis_form(axis, index))
    return terms


def _multiply(a: _Terms, b: _Terms) -> _Terms:
    if len(b) == 1 and () in b:
        return {key: value * b[()] for key, value in a.items()}
    product: _Terms = {}
    for first, m in a.items():
        _add(product, {tuple(sorted(first + second)): m * n for second, n in b.items()})
    return product


def _add(total: _Terms, terms: _Terms) -> None:
    for key, coefficient in terms.items():
        total[key] = total.get(key, 0) + coefficient


def lowered(network: Network, layer: LayerReading, index: Mapping[Tie, int]) -> Layer:
    """Return a layer as the program sees it, in terms of the groups in ``index``."""
    parameter = network.known.tensors[layer.weight]
    weights = prod(map(axis_size, parameter))
    macs = sum(p.coefficient * prod(map(axis_size, p.axes)) for p in layer.macs)
    one_end = layer.kind == "depthwise" or (layer.kind == "grouped" and network.known.scale_groups)
    return Layer(
        layer.name,
        layer.kind,
        weights,
        macs,
        axis_size(layer.inputs),
        axis_size(layer.outputs),
        Cost(axis_form(layer.outputs, index)),
        _shares(layer.inputs, index),
        {} if one_end else _shares(layer.outputs, index),
        one_end,
    )


def _shares(axis: Axis, index: Mapping[Tie, int]) -> dict[int, float]:
    """Return each group's share of an axis; in a folded one, its share of its own factor."""
    size = axis_size(axis)
    shares: dict[int, float] = {}
    for segment in resolve(axis):
        atom, part = segment[0], segment_size(segment) / max(1, size)
        if isinstance(atom, Folded):
            found = [pair for factor in atom.factors for pair in _shares(factor, index).items()]
        else:
            group = index.get(atom.tie.root()) if atom is not None else None
            found = [] if group is None else [(group, 1.0)]
        for group, share in found:
            shares[group] = shares.get(group, 0.0) + share * part
    return shares


def _groups(
    network: Network, index: Mapping[Tie, int], most_read: Mapping[str, int]
) -> tuple[Group, ...]:
    """Describe every group; it is named after its table, or the first layer to make or read it."""
    owners: list[tuple[str, list[int]]] = [("", []) for _ in index]
    for ends in ("outputs", "inputs"):
        produced = {group for group, (name, _) in enumerate(owners) if name}
        for layer in network.layers:
            for segment in leaves(getattr(layer, ends)):
                group = index.get(segment[0].tie.root()) if segment[0] is not None else None
                if group is not None and group not in produced:
                    name, widths = owners[group]
                    widths.append(segment_size(segment))
                    owners[group] = (name or layer.name, widths)
    tables = {
        root: (name, axis_size(axis))
        for name, axis in network.tables.items()
        for root in roots_of([axis])
    }
    most, groups = _most_units(network, most_read), []
    for tie, (name, widths) in zip(index, owners, strict=True):
        grain = gcd(*(width // tie.quantum for width in widths))
        least = max(2 if tie.several else 1, ceil(tie.least * tie.quantum))
        bounds = most.get(tie, tie.quantum if tie.bounded else None), least
        name, width = tables.get(tie, (name, widths[0]))
        groups.append(Group(name, width, tie.quantum, grain, min(widths), *bounds))
    return tuple(groups)


def further_bounds(network: Network, sizes: Sizes, most_read: Mapping[str, int]) -> dict[str, int]:
    """Return bounds so that no reader of a stream reads more channels than are written before it.

    Further channels would be zero, so the weights that read them would be dead. Readers that cannot
    be that narrow (frozen, or of coarse steps) keep more. ``most_read`` are the bounds so far.
    """
    found = {}
    for stream in network.tracer.streams:
        if stream.end == "write" or not stream.sources:
            continue
        written = (network.known.written_widths[source] for source in stream.sources)
        widest = max(map(sizes.size, written))
        width = sizes.size(network.known.read_widths[stream.path])
        if widest < min(width, most_read.get(stream.path, width)):
            found[stream.path] = widest
    return found


def _most_units(network: Network, most_read: Mapping[str, int]) -> dict[Tie, int]:
    """Return, for the ties of readers, the most units within the bounds of ``most_read``."""
    most: dict[Tie, int] = {}
    for path, width in most_read.items():
        axis = network.known.read_widths[path]
        for root in roots_of([axis]):
            units = width * root.quantum // axis_size(axis)
            most[root] = min(most.get(root, root.quantum), units)
    return most
