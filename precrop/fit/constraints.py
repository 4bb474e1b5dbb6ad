"""Ties and freezes widths until the fitted network equals the predicted one.

A decision applies wherever the differing call's code runs, since many modules run the same code. A
decision that did not help is undone before the next, harder one is tried. In the end every width
may be frozen, and a network in which nothing changes is always as predicted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import torch

from precrop.fit.arguments import differing
from precrop.fit.drivers import Driver
from precrop.fit.fitting import Mismatch
from precrop.fit.lessons import Lessons
from precrop.read.axes import (
    Axis,
    atoms,
    axis_of,
    axis_size,
    changes,
    freeze,
    require_divisor,
    resolve,
    roots_of,
    tie,
    unify,
    varies,
)
from precrop.read.copies import with_own_widths
from precrop.read.known import CallReading
from precrop.read.network import Network, Pass
from precrop.read.trace import Site

# Levels of modules to hold widths in: the one that makes the call, and the one around it.
MAX_DEPTH = 2

Reach = Callable[[Lessons, Pass, Sequence[int]], Iterator[list[Axis]]]
"""Takes the calls of one site; yields the lists of axes that are tied or frozen together."""


@dataclass(frozen=True)
class Constraints:
    """Restrictions of a network's widths beyond those that its passes demand.

    Attributes:
        kept: layers, tables and embeddings whose width is kept, by name, and why.
        drivers: for every site, the widths that its arguments are tied to.
        several: sites around which every width keeps at least two units.
        multiples: sites whose arguments stay divisible by the factor in their rule.
        levels: for every site, how hard its widths are held: an index into `DECISIONS`.
        most_read: the most channels that readers of residual streams may read, by path.
        frozen: why every width keeps its size, if all do.
    """

    kept: Mapping[str, str] = field(default_factory=dict)
    drivers: Mapping[Site, tuple[Driver, ...]] = field(default_factory=dict)
    several: frozenset[Site] = frozenset()
    multiples: frozenset[Site] = frozenset()
    levels: Mapping[Site, int] = field(default_factory=dict)
    most_read: Mapping[str, int] = field(default_factory=dict)
    frozen: str | None = None

    def driven(self, site: Site, drivers: Iterable[Driver]) -> "Constraints":
        """Return these constraints with further drivers for a site."""
        known = self.drivers.get(site, ())
        return replace(self, drivers={**self.drivers, site: (*known, *drivers)})

    def held(self, site: Site, level: int) -> "Constraints":
        """Return these constraints with a site held by the decision at ``level``."""
        return replace(self, levels={**self.levels, site: level})

    def bounded(self, most_read: Mapping[str, int]) -> "Constraints":
        """Return these constraints with further bounds on what readers of streams read."""
        return replace(self, most_read={**self.most_read, **most_read})

    def released(self) -> "Constraints":
        """Return constraints with only ``kept`` and ``most_read`` of these."""
        return Constraints(self.kept, most_read=self.most_read)

    def new_drivers(self, mismatch: Mismatch) -> tuple[Driver, ...]:
        """Return drivers of the site that are not tied yet; none once a decision holds it."""
        known = self.drivers.get(mismatch.site, ())
        new = tuple(driver for driver in mismatch.drivers if driver not in known)
        return () if mismatch.site in self.levels else new

    def next_level(self, mismatch: Mismatch) -> int:
        """Return the next decision for the site; only freezing helps if code has its own constant.

        If the code itself raised, not asking for a shape, it probably compared two widths: tie
        equal ones first.
        """
        first = 0 if mismatch.stopped and not mismatch.asked else len(COMPARED)
        least = FIRST_FREEZING if mismatch.constant else first
        return max(self.levels.get(mismatch.site, -1) + 1, least)


def constrained(constraints: Constraints, lessons: Lessons) -> Network:
    """Return the network with constraints applied; a copy if there are any."""
    if constraints == Constraints(most_read=constraints.most_read):
        return lessons.network
    network = with_own_widths(lessons.network)
    _apply(network, constraints, lessons)
    return network


def tightened(
    constraints: Constraints, mismatch: Mismatch, further: Sequence[Mismatch], lessons: Lessons
) -> Constraints:
    """Hold the sites of a mismatch, and of further ones, one step harder.

    For the first one, steps that change nothing are skipped; for the others they are not.
    """
    constraints = _tightened(constraints, mismatch, lessons)
    for other in further:
        new = constraints.new_drivers(other)
        level = min(constraints.next_level(other), len(DECISIONS) - 1)
        held = constraints.held(other.site, level)
        constraints = constraints.driven(other.site, new) if new else held
    return constraints


def _tightened(constraints: Constraints, mismatch: Mismatch, lessons: Lessons) -> Constraints:
    site, new = mismatch.site, constraints.new_drivers(mismatch)
    if mismatch.single and site not in constraints.several:
        several = replace(constraints, several=constraints.several | {site})
        if site in _changed(several, lessons):
            return several
    if site not in constraints.multiples:
        multiples = replace(constraints, multiples=constraints.multiples | {site})
        if site in _changed(multiples, lessons):
            return multiples
    if new:
        driven = constraints.driven(site, new)
        if site in _changed(driven, lessons):
            return driven
    for level in range(constraints.next_level(mismatch), len(DECISIONS)):
        constraints = constraints.held(site, level)
        if site in _changed(constraints, lessons):
            break
    return constraints


def _changed(constraints: Constraints, lessons: Lessons) -> set[Site]:
    """Return the sites at which constraints change anything."""
    return _apply(with_own_widths(lessons.network), constraints, lessons)


def _apply(network: Network, constraints: Constraints, lessons: Lessons) -> set[Site]:
    """Tie and freeze widths of a network in place; return the sites where anything changed."""
    if constraints.kept:
        for name, axis in network.named_widths:
            if name in constraints.kept:
                freeze(axis, constraints.kept[name])
    levels = constraints.levels
    driven = {site: one for site, one in constraints.drivers.items() if site not in levels}
    changed = {site for site, drivers in driven.items() if _tie_drivers(network, site, drivers)}
    changed |= {site for site in constraints.several if _keep_several(network, site, lessons)}
    changed |= {site for site in constraints.multiples if _keep_multiples(network, site, lessons)}
    changed |= {site for site, level in levels.items() if _hold(network, site, level, lessons)}
    if constraints.frozen is not None:
        every = (axis for layer in network.layers for axis in (layer.inputs, layer.outputs))
        _freeze(every, constraints.frozen)
    return changed


def _tie_drivers(network: Network, site: Site, drivers: Iterable[Driver]) -> bool:
    changed = False
    for forward in network.passes:
        places = forward.trace.places
        for driver in drivers:
            before = places.get(driver.site, [])
            for index in places.get(site, []):
                behind = bisect_left(before, index)
                followed = driver.axis(forward, before[behind - 1]) if behind else None
                axis = forward.readings[index + driver.behind].literals.get(driver.literal)
                if axis and followed and driver.fits(axis, followed):
                    changed |= _follow(axis, followed, driver.exact, _reason(site))
    return changed


def _keep_several(network: Network, site: Site, lessons: Lessons) -> bool:
    """Keep at least two units of every width around a site; False if that changes nothing."""
    changed = False
    for forward in network.passes:
        for found in _in_modules(1)(lessons, forward, forward.trace.places.get(site, [])):
            for root in [root for root in roots_of(found) if root.varies and not root.several]:
                root.restrict(several=True)
                changed = True
    return changed


def _keep_multiples(network: Network, site: Site, lessons: Lessons) -> bool:
    """Keep an argument ``2 * self.half`` divisible by 2; False if that changes nothing."""
    before = changes()
    for forward in network.passes:
        for index in forward.trace.places.get(site, []):
            for argument in differing(forward, index):
                for multiple in lessons.multiples(argument):
                    require_divisor(argument.axis, multiple, _reason(site))
    return changes() != before


def _hold(network: Network, site: Site, level: int, lessons: Lessons) -> bool:
    freezes, reach = DECISIONS[level]
    changed = False
    for forward in network.passes:
        for found in reach(lessons, forward, forward.trace.places.get(site, [])):
            changed |= _freeze(found, _reason(site)) if freezes else _tie(found)
    return changed


def _freeze(axes: Iterable[Axis], reason: str) -> bool:
    """Freeze axes; return False if none of them varied."""
    found = [*filter(varies, axes)]
    for axis in found:
        freeze(axis, reason)
    return bool(found)


def _tie(axes: Iterable[Axis]) -> bool:
    """Tie the varying widths of some axes; return False if they are tied already or cannot be."""
    found = {
        atom.tie.root(): atom for axis in axes for atom in atoms(axis) if atom.tie.root().varies
    }
    if len(found) < 2 or gcd(*(root.quantum for root in found)) == 1:
        return False
    tie([axis_of(atom) for atom in found.values()])
    return True


def _follow(axis: Axis, followed: Axis, exact: bool, reason: str) -> bool:
    """Unify an axis with another (``exact``) or tie it to that; return False if nothing changes.

    If one of the two is frozen, freeze the other.
    """
    pair = axis, followed
    if all(map(atoms, pair)) and not all(map(varies, pair)):
        return _freeze(pair, reason)
    if not exact:
        return _tie(pair)
    if resolve(axis) == resolve(followed) or not all(map(varies, pair)):
        return False
    unify(*pair)
    return True


def _reason(site: Site) -> str:
    where = site.kind.__name__ if site.kind else "the network"
    if site.kind is not None and issubclass(site.kind, torch.jit.ScriptModule):
        where = "scripted code"  # attributes are compiled into it as constants
    return f"{site.op} in {'.'.join(filter(None, (where, site.layer)))} keeps its sizes"


def _same_driver(lessons: Lessons, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    """Yield the axes of all arguments driven by the same attributes as a call's arguments."""
    for index in indices:
        yield lessons.driven_alike(forward, index)


def _at_call(_: Lessons, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    for index in indices:
        yield list(_axes(forward.readings[index]))


def _stated(_: Lessons, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    """Yield the axes whose sizes a call's arguments state, such as a padded shortcut's channels."""
    for index in indices:
        yield list(forward.readings[index].literals.values())


def _in_modules(depth: int) -> Reach:
    """Reach all axes in the module that makes a call and in ``depth`` modules around it.

    Calls in a module's direct children (an attention block's projections) count as its own.
    """

    def reach(_: Lessons, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
        inside: dict[int, list[int]] = {}
        for index in range(len(forward.trace.calls)):
            for frame in _enclosing(forward, index, 1):
                inside.setdefault(frame, []).append(index)
        for frames in dict.fromkeys(_enclosing(forward, index, depth) for index in indices):
            found = sorted({index for frame in frames for index in inside.get(frame, [])})
            yield [axis for index in found for axis in _axes(forward.readings[index])]

    return reach


def _equal_in_module(
    lessons: Lessons, forward: Pass, indices: Sequence[int]
) -> Iterator[list[Axis]]:
    """Yield the axes in the module that makes a call, grouped by size."""
    for axes in _in_modules(0)(lessons, forward, indices):
        alike: dict[int, list[Axis]] = {}
        for axis in axes:
            alike.setdefault(axis_size(axis), []).append(axis)
        yield from alike.values()


COMPARED = ((False, _equal_in_module),)
REACHES = (_at_call, *map(_in_modules, range(MAX_DEPTH)))
DECISIONS = (
    *COMPARED,
    *((False, reach) for reach in (_same_driver, *REACHES)),
    *((True, reach) for reach in (_stated, *REACHES)),
)
FIRST_FREEZING = next(level for level, (freezes, _) in enumerate(DECISIONS) if freezes)


def _axes(reading: CallReading) -> Iterator[Axis]:
    yield from reading.literals.values()
    yield from reading.axes


def _enclosing(forward: Pass, index: int, depth: int) -> frozenset[int]:
    """Return the frame of a call and ``depth`` frames around it."""
    return frozenset([*forward.trace.around(index), -1][: depth + 1])
