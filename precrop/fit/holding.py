"""Where a fitted network differs from its prediction: tie, or else freeze, what meets there.

The same code runs in many modules, so a decision holds wherever the differing call's code runs. A
decision that did not help is taken back before the next, harder one is tried; the last one freezes
every width, and a network in which nothing changes is always as predicted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd

import torch

from precrop.fit.drivers import Driver
from precrop.fit.fitting import Fitter, Mismatch
from precrop.fit.sites import Site
from precrop.read.axes import Axis, atoms, axis_of, axis_size, freeze, resolve, tie, unify, varies
from precrop.read.network import Network, Pass
from precrop.read.reader import CallReading

# The module that runs the call, and the one around it.
MAX_DEPTH = 2

Reach = Callable[[Fitter, Pass, Sequence[int]], Iterator[list[Axis]]]
"""From the calls of one site to the axes that are held together."""


@dataclass
class Holds:
    """For every site that differed, how hard its widths are held: an index into `DECISIONS`."""

    network: Network
    fitter: Fitter
    levels: dict[Site, int] = field(default_factory=dict)
    drivers: dict[Site, list[Driver]] = field(default_factory=dict)

    def hold(self, mismatch: Mismatch) -> None:
        """Hold the site of a mismatch one step harder than before, if that changes anything."""
        site = self.fitter.site(mismatch.forward, mismatch.index)
        if self._drive(site, mismatch.drivers):
            return
        for level in range(self._next(site, mismatch), len(DECISIONS)):
            self.levels[site] = level
            self.network.read()
            if self._apply_all()[site]:
                return
        self.everything(_reason(site))

    def everything(self, reason: str) -> None:
        """Hold every width: a network in which nothing changes is always as predicted."""
        every = (axis for layer in self.network.layers for axis in (layer.inputs, layer.outputs))
        _freeze(every, reason)

    def hold_too(self, mismatches: Sequence[Mismatch]) -> None:
        """Hold further sites one step harder, whether or not that changes anything by now."""
        if not mismatches:
            return
        for mismatch in mismatches:
            site = self.fitter.site(mismatch.forward, mismatch.index)
            known = self.drivers.setdefault(site, [])
            new = [driver for driver in mismatch.drivers if driver not in known]
            if new and site not in self.levels:
                known += new
            else:
                self.levels[site] = min(self._next(site, mismatch), len(DECISIONS) - 1)
        self.network.read()
        self._apply_all()

    def _next(self, site: Site, mismatch: Mismatch) -> int:
        """The next decision. Where code has a number of its own, tying can't help.

        Code that raises has compared two widths, as a rule.
        """
        first = 0 if mismatch.stopped else len(COMPARED)
        least = FIRST_FREEZING if mismatch.constant else first
        return max(self.levels.get(site, -1) + 1, least)

    def _drive(self, site: Site, found: tuple[Driver, ...]) -> bool:
        """Tie what the arguments of a site follow, if that is new and all that is held of it."""
        known = self.drivers.setdefault(site, [])
        new = [driver for driver in found if driver not in known]
        if site in self.levels or not new:
            return False
        known += new
        self.network.read()
        changed = self._apply_all()
        if not changed[site]:
            known[-len(new) :] = []
        return changed[site]

    def _apply_all(self) -> dict[Site, bool]:
        """Hold every site as far as it is held; which of them changed anything."""
        held = {site: self._tie_drivers(site) for site in self.drivers}
        return held | {site: self._apply(site) for site in self.levels}

    def _tie_drivers(self, site: Site) -> bool:
        changed = False
        if site in self.levels:
            return changed
        for forward in self.network.passes:
            places = self.fitter.places(forward)
            for driver in self.drivers[site]:
                before = places.get(driver.site, [])
                for index in places.get(site, []):
                    behind = bisect_left(before, index)
                    followed = driver.axis(forward, before[behind - 1]) if behind else None
                    literals = forward.readings[index + driver.behind].literals
                    axis = literals.get(driver.literal)
                    if axis and followed and driver.fits(axis, followed):
                        hold = _unite if driver.exact else _tie
                        changed |= hold([axis, followed])
        return changed

    def _apply(self, site: Site) -> bool:
        freezes, reach = DECISIONS[self.levels[site]]
        changed = False
        for forward in self.network.passes:
            for found in reach(self.fitter, forward, self.fitter.places(forward).get(site, [])):
                changed |= _freeze(found, _reason(site)) if freezes else _tie(found)
        return changed


def _freeze(axes: Iterable[Axis], reason: str) -> bool:
    """Freeze axes; False if all of them were fixed already."""
    found = [*filter(varies, axes)]
    for axis in found:
        freeze(axis, reason)
    return bool(found)


def _tie(axes: Iterable[Axis]) -> bool:
    """Let the varying widths of the axes keep one ratio; False if they do or cannot."""
    found = {
        atom.tie.root(): atom for axis in axes for atom in atoms(axis) if atom.tie.root().varies
    }
    if len(found) < 2 or gcd(*(root.quantum for root in found)) == 1:
        return False
    tie([axis_of(atom) for atom in found.values()])
    return True


def _unite(axes: Sequence[Axis]) -> bool:
    """Let two varying axes of one size be one; False if they are, or one of them is fixed."""
    first, second = map(resolve, axes)
    if first == second or not (varies(first) and varies(second)):
        return False
    unify(first, second)
    return True


def _reason(site: Site) -> str:
    where = site.kind.__name__ if site.kind else "the network"
    if site.kind is not None and issubclass(site.kind, torch.jit.ScriptModule):
        where = "scripted code"  # in which attributes are constants
    where += f".{site.layer}" if site.layer else ""
    return f"{site.op} in {where} keeps its sizes"


def _same_driver(fitter: Fitter, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    """What the attributes that drive an argument of a call drive in the same module."""
    for index in indices:
        yield fitter.driven_alike(forward, index)


def _at_call(_: Fitter, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    for index in indices:
        yield list(_axes(forward.readings[index]))


def _stated(_: Fitter, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    """What the arguments of a call state: the channels that a shortcut is padded by."""
    for index in indices:
        yield list(forward.readings[index].literals.values())


def _in_modules(depth: int) -> Reach:
    """Axes in the module that runs a call and in ``depth`` modules around it.

    What a module's direct children compute counts as its own: an attention block's projections.
    """

    def reach(_: Fitter, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
        inside: dict[int | None, list[int]] = {}
        for index, call in enumerate(forward.trace.calls):
            for frame in {call.frame, _parent(forward, call.frame)}:
                inside.setdefault(frame, []).append(index)
        for frames in dict.fromkeys(_enclosing(forward, index, depth) for index in indices):
            found = sorted({index for frame in frames for index in inside.get(frame, [])})
            yield [axis for index in found for axis in _axes(forward.readings[index])]

    return reach


def _equal_in_module(fitter: Fitter, forward: Pass, indices: Sequence[int]) -> Iterator[list[Axis]]:
    """Axes in the module that runs a call, by their sizes."""
    for axes in _in_modules(0)(fitter, forward, indices):
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
    for axes in (*reading.inputs, *reading.outputs):
        yield from axes


def _parent(forward: Pass, frame: int) -> int | None:
    return forward.trace.frames[frame].parent if frame >= 0 else None


def _enclosing(forward: Pass, index: int, depth: int) -> frozenset[int]:
    """The frame of a call and ``depth`` frames around it."""
    frame = forward.trace.calls[index].frame
    frames = {frame}
    for _ in range(depth):
        if frame >= 0:
            frame = forward.trace.frames[frame].parent
            frames.add(frame)
    return frozenset(frames)
