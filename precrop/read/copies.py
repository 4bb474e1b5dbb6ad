"""A copy of what was read in a network, with widths of its own: quicker than to follow it again."""

import copy
from collections.abc import Iterable
from dataclasses import replace

from precrop.read.axes import Atom, Axis, Folded, Tie, resolve
from precrop.read.network import Network, Pass
from precrop.read.reader import Axes, CallReading, Product, Reader
from precrop.read.tracer import TracedPass


def with_own_widths(network: Network) -> Network:
    """The same network; what is tied or frozen in it changes nothing in the original."""
    copies = _Copies()
    return replace(
        network,
        reader=copies.reader(network.reader),
        passes=tuple(map(copies.forward, network.passes)),
        beside=network.beside and copies.forward(network.beside),
    )


def with_pass(network: Network, run: TracedPass) -> Network:
    """The same network with one more pass, of another skeleton, that only costs are counted of."""
    made = with_own_widths(network)
    readings = made.reader.read(run.trace, macs=False)
    return replace(made, beside=Pass(run.training, run.trace, readings))


class _Copies:
    """Copies of ties and atoms, one of each, and of what refers to them."""

    def __init__(self) -> None:
        self._ties: dict[Tie, Tie] = {}
        self._atoms: dict[Atom, Atom] = {}
        self._axes: dict[Axis, Axis] = {}
        self._rows: dict[int, Axes] = {}  # by id, which is unique while the original lives
        self._calls: dict[int, CallReading] = {}

    def tie(self, tie: Tie) -> Tie:
        root = tie.root()
        if root not in self._ties:
            made = self._ties[root] = Tie(root.quantum)
            made.frozen, made.shared, made.bounded = root.frozen, root.shared, root.bounded
        return self._ties[root]

    def atom(self, atom: Atom) -> Atom:
        if atom not in self._atoms:
            if isinstance(atom, Folded):
                made: Atom = Folded(map(self.axis, atom.factors), atom.name)
            else:
                made = Atom(atom.size, atom.name, self.tie(atom.tie))
            self._atoms[atom] = made
        return self._atoms[atom]

    def axis(self, axis: Axis) -> Axis:
        made = self._axes.get(axis)
        if made is None:
            made = tuple((atom and self.atom(atom), count) for atom, count in resolve(axis))
            self._axes[axis] = made
        return made

    def axes(self, axes: Axes) -> Axes:
        made = self._rows.get(id(axes))
        if made is None:
            made = self._rows[id(axes)] = tuple(map(self.axis, axes))
        return made

    def products(self, products: Iterable[Product]) -> list[Product]:
        return [Product(p.coefficient, [*map(self.axis, p.axes)], p.merges) for p in products]

    def call(self, reading: CallReading) -> CallReading:
        """Of a call; equal calls of a loop have one reading."""
        made = self._calls.get(id(reading))
        if made is None:
            made = self._calls[id(reading)] = CallReading(
                [*map(self.axes, reading.inputs)],
                [*map(self.axes, reading.outputs)],
                reading.weight,
                {literal: self.axis(axis) for literal, axis in reading.literals.items()},
                self.products(reading.macs),
                reading.made_of,
            )
        return made

    def forward(self, forward: Pass) -> Pass:
        return Pass(forward.training, forward.trace, [*map(self.call, forward.readings)])

    def reader(self, reader: Reader) -> Reader:
        made = copy.copy(reader)
        parts = vars(reader).items()
        vars(made).update((n, copy.copy(p)) for n, p in parts if isinstance(p, (dict, list, set)))
        made.tensors = {name: self.axes(axes) for name, axes in reader.tensors.items()}
        made.read_widths = {path: self.axis(axis) for path, axis in reader.read_widths.items()}
        made.written_widths = {p: self.axis(axis) for p, axis in reader.written_widths.items()}
        made.macs = self.products(reader.macs)
        made.layers = {
            weight: replace(
                layer,
                inputs=self.axis(layer.inputs),
                outputs=self.axis(layer.outputs),
                macs=self.products(layer.macs),
            )
            for weight, layer in reader.layers.items()
        }
        return made
