"""Symbolic sizes: a tensor's axis as a row of segments, each a multiple of an atom.

Before training, channels are interchangeable, so an axis is described by sizes alone. An *atom* is
a width that is chosen as one number. Two atoms become one where an operation demands equal sizes,
an atom is cut into parts where its axis meets a concatenation, and atoms are *tied* where their
sizes must stay proportional. All atoms of a tie are scaled by one ratio: the tie keeps ``j`` of its
``quantum`` units, and the quantum divides the size of every atom in it.

An axis is a tuple of segments: ``(atom, count)`` is ``count`` channels per channel of the atom (a
flattened 7x7 map counts 49), ``(None, size)`` a size that no width changes. Where several varying
axes are viewed as one (the kernels of an expert, a Gram matrix), the atom is `Folded`.
"""

import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, prod
from typing import Any

# Most repetitions of a row of segments in a merged axis; more would only cost time.
MAX_REPEATS = 256
# The fewest channels that a head may have; fewer are pairs or colours.
FEW = 4

Segment = tuple["Atom | None", int]
Axis = tuple[Segment, ...]


class _Changes(threading.local):
    count = 0


_CHANGES = _Changes()


def changes() -> int:
    """Return how many changes this thread has made to atoms and ties; a new atom counts as one."""
    return _CHANGES.count


@dataclass(eq=False, slots=True)
class Tie:
    """Atoms that are scaled by one ratio; ties form a union-find forest.

    Attributes:
        quantum: the number of units; it divides the sizes of all atoms.
        frozen: why all atoms keep their full size; None if they may vary.
        shared: whether the tie stands for more than one atom's own size.
        bounded: whether no atom may grow beyond its full size.
        several: whether the tie must keep at least two units.
        least: the least share of its size that every atom keeps.
        parent: the tie that this one was joined to; None for a root.
    """

    quantum: int
    frozen: str | None = None
    shared: bool = False
    bounded: bool = False
    several: bool = False
    least: Fraction = Fraction(0)
    parent: "Tie | None" = None

    def root(self) -> "Tie":
        """Return the tie that represents this one (find with path halving)."""
        node = self
        while node.parent is not None:
            if node.parent.parent is not None:
                node.parent = node.parent.parent
            node = node.parent
        return node

    def __reduce__(self) -> Any:
        """Copy the root in this tie's place."""
        root = self.root()
        return (Tie, self._restrictions) if root is self else (Tie.root, (root,))

    @property
    def _restrictions(self) -> tuple[int, str | None, bool, bool, bool, Fraction]:
        return self.quantum, self.frozen, self.shared, self.bounded, self.several, self.least

    @property
    def varies(self) -> bool:
        """Whether its atoms may have other sizes; only valid on a root."""
        return self.frozen is None and self.quantum > 1

    def join(self, other: "Tie") -> "Tie":
        """Unite two ties, combine their restrictions and return the common root."""
        first, second = self.root(), other.root()
        if first is not second:
            _CHANGES.count += 1
            second.parent = first
            first.restrict(*second._restrictions)
        return first

    def restrict(
        self,
        divisible: int = 0,
        frozen: str | None = None,
        shared: bool = False,
        bounded: bool = False,
        several: bool = False,
        least: Fraction = Fraction(0),
    ) -> None:
        """Restrict the sizes that its atoms may have; only valid on a root.

        The new quantum also divides ``divisible``. The first reason for freezing is kept. The other
        arguments tighten the attributes of the same names.
        """
        before = self._restrictions
        self.quantum = gcd(self.quantum, divisible)
        self.frozen = self.frozen or frozen
        self.shared, self.bounded = self.shared or shared, self.bounded or bounded
        self.several, self.least = self.several or several, max(self.least, least)
        if before != self._restrictions:
            _CHANGES.count += 1


class Atom:
    """A width that is one number; ``parts`` are the segments that replace it once it is cut."""

    __slots__ = ("name", "parts", "size", "tie")

    def __init__(self, size: int, name: str, tie: Tie | None = None) -> None:
        self.size = size
        self.name = name
        self.parts: Axis | None = None
        self.tie = tie or Tie(size)
        _CHANGES.count += 1

    def __getstate__(self) -> Any:
        """Resolve the parts first, so that copies do not carry replaced atoms."""
        self.parts = self.parts and resolve(self.parts)
        return super().__getstate__()

    def become(self, parts: Axis) -> None:
        """Replace this atom by a row of segments."""
        _CHANGES.count += 1
        self.parts = parts

    def is_free(self) -> bool:
        """Whether nothing but this atom's own size restricts its tie."""
        tie = self.tie.root()
        bound = tie.shared or tie.bounded or tie.several or tie.frozen is not None
        return not bound and not tie.least and tie.quantum == self.size


class Folded(Atom):
    """Several axes viewed as one, at least two of which vary; its size is their product."""

    __slots__ = ("factors",)

    def __init__(self, factors: Iterable[Axis], name: str) -> None:
        self.factors = tuple(factors)
        super().__init__(prod(map(axis_size, self.factors)), name, Tie(1))

    def is_free(self) -> bool:
        """Return False: the widths of its factors restrict it."""
        return False


def constant(size: int) -> Axis:
    """Return an axis that no width changes."""
    return ((None, size),)


def axis_of(atom: Atom) -> Axis:
    """Return an axis that is one atom."""
    return ((atom, 1),)


def segment_size(segment: Segment) -> int:
    """Return a segment's number of channels in the original network."""
    atom, count = segment
    return count if atom is None else atom.size * count


def axis_size(axis: Axis) -> int:
    """Return an axis' size in the original network."""
    return sum(map(segment_size, axis))


def resolve(axis: Axis) -> Axis:
    """Return the axis with replaced atoms resolved to their parts and adjacent constants joined."""
    if len(axis) == 1 and (axis[0][0] is None or axis[0][0].parts is None):
        return axis
    row: list[Segment] = []
    for atom, count in axis:
        if atom is None or atom.parts is None:
            row.append((atom, count))
            continue
        atom.parts = resolve(atom.parts)
        row.extend((part, size * count) for part, size in atom.parts)
    joined: list[Segment] = []
    for atom, count in row:
        if atom is None and joined and joined[-1][0] is None:
            joined[-1] = (None, joined[-1][1] + count)
        elif atom is not None or count:
            joined.append((atom, count))
    return tuple(joined) or constant(0)


def leaves(axis: Axis) -> list[Segment]:
    """Return the segments of an axis; a folded one is replaced by those of its factors."""
    found: list[Segment] = []
    for segment in resolve(axis):
        if isinstance(segment[0], Folded):
            for factor in segment[0].factors:
                found += leaves(factor)
        else:
            found.append(segment)
    return found


def is_constant(axis: Axis) -> bool:
    """Whether no width changes this axis, as far as is known now."""
    return all(atom is None for atom, _ in leaves(axis))


def is_folded(axis: Axis) -> bool:
    """Whether any segment of this axis is folded."""
    return any(isinstance(atom, Folded) for atom, _ in resolve(axis))


def unfolded(axis: Axis) -> list[Axis]:
    """Return the factors of an axis that is one folded segment; of any other, the axis itself."""
    row = resolve(axis)
    atom, count = row[0]
    if len(row) > 1 or not isinstance(atom, Folded):
        return [row]
    factors = [factor for axis in atom.factors for factor in unfolded(axis)]
    return factors if count == 1 else [*factors, constant(count)]


def atoms(axis: Axis) -> list[Atom]:
    """Return the atoms of an axis in order, repeated where they occur again."""
    return [atom for atom, _ in leaves(axis) if atom is not None]


def varies(axis: Axis) -> bool:
    """Whether any atom of the axis may have another size."""
    return any(atom.tie.root().varies for atom in atoms(axis))


def roots_of(axes: Iterable[Axis]) -> set[Tie]:
    """Return the roots of the ties of all atoms in some axes."""
    return {atom.tie.root() for axis in axes for atom in atoms(axis)}


def freeze(axis: Axis, reason: str) -> None:
    """Keep every atom of the axis at its full size."""
    for atom in atoms(axis):
        atom.tie.root().restrict(frozen=reason)


def bound(axis: Axis) -> None:
    """Let no atom of the axis grow beyond its full size."""
    for atom in atoms(axis):
        atom.tie.root().restrict(bounded=True)


def at_least(axis: Axis, size: int, reason: str) -> None:
    """Keep at least ``size`` entries of an axis; each atom keeps the same share of its size."""
    if size > 1 and (is_folded(axis) or size >= axis_size(axis)):
        freeze(axis, reason)
    for atom in atoms(axis) if size > 1 else ():
        atom.tie.root().restrict(least=Fraction(size, axis_size(axis)))


def tie(axes: Iterable[Axis]) -> Tie | None:
    """Scale all atoms of the axes by one ratio, ignoring constants; return their common root."""
    common: Tie | None = None
    for axis in axes:
        for atom in atoms(axis):
            if common is None:
                common = atom.tie.root()
            elif common is not atom.tie.root():
                common = common.join(atom.tie)
                common.restrict(shared=True)
    return common


def require_divisor(axis: Axis, divisor: int, reason: str) -> None:
    """Tie the atoms of an axis so that its size stays divisible by ``divisor``."""
    if divisor == 1 or is_constant(axis):
        return
    if is_folded(axis) or any(atom is None for atom, _ in resolve(axis)):
        freeze(axis, reason)
        return
    common = tie([axis])
    if common is not None:
        common.restrict(axis_size(axis) // divisor)


def proportional(axis: Axis, size: int, name: str) -> Axis:
    """Return an axis of ``size`` channels that scales as ``axis`` does; its atoms become tied."""
    row, common = resolve(axis), None
    atom = row[0][0]
    if any(part is None for part, _ in row):
        freeze(axis, f"{name} divides an axis that is partly fixed")
    elif is_folded(row):
        freeze(axis, f"{name} divides several axes in one")
    else:
        common = tie([row])
    if common is None or atom is None:
        return constant(size)
    if size % atom.size == 0:
        return ((atom, size // atom.size),)
    common.restrict(size, shared=True)
    return axis_of(Atom(size, name, common))


def _divide(atom: Atom, position: int, *, tied: bool) -> list[Atom]:
    """Cut an atom in two; the parts are independent if it is free and they need not be tied."""
    sizes = (position, atom.size - position)
    common = None if atom.is_free() and not tied else atom.tie.root()
    if common is not None:
        common.restrict(gcd(*sizes), shared=True)
    parts = [Atom(size, atom.name, common) for size in sizes]
    atom.become(tuple((part, 1) for part in parts))
    return parts


def _cut_segment(segment: Segment, position: int, *, tied: bool) -> tuple[Axis, Axis]:
    atom, count = segment
    size = segment_size(segment)
    if atom is None:
        return constant(position), constant(size - position)
    if position % atom.size == 0:
        repeats = position // atom.size
        return ((atom, repeats),), ((atom, count - repeats),)
    if position % count == 0 and not isinstance(atom, Folded):
        left, right = _divide(atom, position // count, tied=tied)
        return ((left, count),), ((right, count),)
    return (
        proportional((segment,), position, atom.name),
        proportional((segment,), size - position, atom.name),
    )


def cut(axis: Axis, position: int, *, tied: bool = False) -> tuple[Axis, Axis]:
    """Return the parts of an axis before and from ``position``, cutting an atom if needed."""
    left: list[Segment] = []
    right = list(resolve(axis))
    while right and position >= segment_size(right[0]):
        position -= segment_size(right[0])
        left.append(right.pop(0))
    if position > 0 and right:
        before, after = _cut_segment(right.pop(0), position, tied=tied)
        left.extend(before)
        right[:0] = after
    return resolve(tuple(left)), resolve(tuple(right))


def _substitute(atom: Atom, parts: Axis) -> None:
    """Replace ``atom`` by ``parts``, to which its restrictions pass."""
    if not atom.is_free():
        common = tie([axis_of(atom), parts])
        if common is not None and any(part is None for part, _ in parts):
            common.restrict(frozen=f"{atom.name} is partly fixed")
    atom.become(parts)


def _unify_segments(first: Segment, second: Segment, reason: str) -> Axis:
    (a, m), (b, n) = first, second
    if a is b:
        return (first,)
    if a is None or b is None:
        freeze((first, second), reason)
        return (first if a is None else second,)
    if m == n and a.size == b.size:
        a.tie = a.tie.join(b.tie)
        b.become(axis_of(a))
        return (first,)
    if n == 1:
        _substitute(b, (first,))
        return (first,)
    if m == 1:
        _substitute(a, (second,))
        return (second,)
    tie([(first,), (second,)])
    return (first,)


def _unify_folded(a: Axis, b: Axis, reason: str) -> Axis:
    """Unify two axes factor by factor if one is a single folded atom; freeze both otherwise."""
    for axis, other in ((a, b), (b, a)):
        atom, count = axis[0]
        if len(axis) == 1 == count and isinstance(atom, Folded):
            parts = divide(other, tuple(map(axis_size, atom.factors)), reason)
            for factor, part in zip(atom.factors, parts, strict=True):
                unify(factor, part, reason)
            return axis
    freeze((*a, *b), reason)
    return a


def unify(a: Axis, b: Axis, reason: str = "a fixed size") -> Axis:
    """Make two axes of equal size one, cut at each other's boundaries; return the common axis.

    Where one of them is fixed, the other is frozen for ``reason``.
    """
    a, b = resolve(a), resolve(b)
    if a == b:
        return a
    for whole, row in ((a, b), (b, a)):
        atom, count = whole[0]
        if atom is None or count != 1 or len(whole) > 1 or not (len(row) > 1 or is_folded(row)):
            continue
        if atom in atoms(row):  # a folded axis can only equal its own factor if the others are 1
            freeze(row, reason)
            return row
        if atom.is_free():
            # A norm's parameter that meets a long concatenation becomes the whole row at once.
            atom.become(row)
            return row
    if is_folded(a) or is_folded(b):
        return _unify_folded(a, b, reason)
    return _unify_rows(a, b, reason)


def _unify_rows(a: Axis, b: Axis, reason: str) -> Axis:
    first, second = list(reversed(a)), list(reversed(b))
    row: list[Segment] = []
    while first and second:
        s, t = _next(first), _next(second)
        if segment_size(s) > segment_size(t):
            s = _shorten(s, segment_size(t), first)
        elif segment_size(t) > segment_size(s):
            t = _shorten(t, segment_size(s), second)
        row.extend(_unify_segments(s, t, reason))
    return resolve(tuple(row))


def _next(stack: list[Segment]) -> Segment:
    """Pop the next segment of a reversed row, resolved, as its atom may have been cut meanwhile."""
    parts = resolve((stack.pop(),))
    stack.extend(reversed(parts))
    return stack.pop()


def _shorten(segment: Segment, size: int, stack: list[Segment]) -> Segment:
    """Return the first ``size`` channels of a segment; push the rest back on the stack."""
    head, rest = _cut_segment(segment, size, tied=False)
    stack.extend(reversed(rest))
    return head[0]


def _carrier(axis: Axis, factors: tuple[int, ...], kept: Set[int]) -> int:
    """Return the index of the factor of a divided axis that carries the width, in the finest steps.

    If the code keeps that factor as a number (of heads, say), the last one carries it instead.
    """
    quanta = [gcd(*(atom.tie.root().quantum for atom in atoms(axis)), factor) for factor in factors]
    best = max(quanta)
    carrier = max(i for i, quantum in enumerate(quanta) if quantum == best)
    if factors[carrier] in kept and factors[-1] not in kept and quanta[-1] >= FEW:
        return len(factors) - 1
    return carrier


def divide(
    axis: Axis, factors: tuple[int, ...], name: str, kept: Set[int] = frozenset()
) -> list[Axis]:
    """View an axis as several (``C`` as ``2 x C/2``), one of which carries the width.

    A factor in ``kept`` (a number of heads) stays fixed if the last can carry the width instead.
    No tie is needed where every segment repeats the trailing factors (a flattened map) or the row
    repeats its segments over a leading one; otherwise the segments are tied.
    """
    row = resolve(axis)
    if is_constant(row) or prod(factors) == max(factors):
        return [row if f == axis_size(row) else constant(f) for f in factors]
    if len(row) == 1 and isinstance(row[0][0], Folded) and row[0][1] == 1:
        return _opened(row[0][0], factors, name)
    for start in range(1, len(factors)):
        inner = prod(factors[start:])
        if all(count % inner == 0 for _, count in row):
            outer = tuple((atom, count // inner) for atom, count in row)
            repeats = [constant(f) for f in factors[start:]]
            return [*divide(outer, factors[:start], name, kept), *repeats]
    length = len(row) // factors[0]
    if len(row) % factors[0] == 0 and row == row[:length] * factors[0]:
        return [constant(factors[0]), *divide(row[:length], factors[1:], name, kept)]
    if is_folded(row):
        freeze(row, f"{name} divides several axes in one")
        return [constant(f) for f in factors]
    carrier = _carrier(row, factors, kept)
    share = proportional(row, factors[carrier], name)
    return [share if i == carrier else constant(f) for i, f in enumerate(factors)]


def _opened(folded: Folded, factors: tuple[int, ...], name: str) -> list[Axis]:
    """Divide a folded axis into runs of its own factors; freeze it if they do not fit."""
    rest = list(folded.factors)
    stretches = []
    for factor in factors:
        stretch: list[Axis] = []
        while rest and prod(map(axis_size, stretch)) < factor:
            stretch.append(rest.pop(0))
        stretches.append(stretch)
    if [prod(map(axis_size, stretch)) for stretch in stretches] != list(factors):
        freeze(axis_of(folded), f"{name} divides several axes in one")
        return [constant(factor) for factor in factors]
    return [merge(stretch, name) for stretch in stretches]


def merge(axes: list[Axis], reason: str) -> Axis:
    """View several axes as one; the result is `Folded` where more than one of them varies."""
    varying = [i for i, axis in enumerate(axes) if not is_constant(axis)]
    if not varying:
        return constant(prod(map(axis_size, axes)))
    if len(varying) > 1:
        opened = [part for axis in axes for part in unfolded(axis) if axis_size(part) != 1]
        return axis_of(Folded(opened, reason))
    index = varying[0]
    outer, inner = (prod(map(axis_size, part)) for part in (axes[:index], axes[index + 1 :]))
    if outer > MAX_REPEATS:
        freeze(axes[index], reason)
        return constant(prod(map(axis_size, axes)))
    return tuple((atom, count * inner) for atom, count in resolve(axes[index])) * outer
