"""Attributes that a network's own code compares with sizes: ``assert x.shape[1] == self.channels``.

No operation takes such a number, so no trace shows it. When a fitted network fails between two
calls, its own code raised the error. The attribute at fault is one that makes the original fail
there, too, when it is changed, and the size that it must follow is one of the widths that it equals
in the original. Each of these is tried until the fitted network goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from torch import nn

from precrop.fit.attributes import Edit, integers
from precrop.fit.probing import PROBED_DEPTH, Prober
from precrop.modules.copying import submodule
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Pass, Sizes
from precrop.read.trace import Site


@dataclass(frozen=True)
class SizeCheck:
    """An attribute that code compares with a width of equal size.

    Attributes:
        kind: the module's class.
        name: the attribute.
        place: the index of the width among all widths equal to it, in the order of `_axes`.
    """

    kind: type[nn.Module]
    name: str
    place: int


@dataclass
class Checks:
    """Finds attributes that code compares with widths, and keeps them equal to these widths.

    ``found`` lists them by the site of the call that fitted networks did not reach.
    """

    prober: Prober
    found: dict[Site, list[SizeCheck]] = field(default_factory=dict)
    _tried: dict[Site, list[SizeCheck]] = field(default_factory=dict)
    _stopping: dict[tuple[Site, type[nn.Module], str], bool] = field(default_factory=dict)

    def learn(self, network: Network, forward: Pass, index: int, sizes: Sizes) -> bool:
        """Choose the next checks to try at a call that was not reached; False if none is left.

        Every check is tried by itself, then the first one of every attribute all together.
        """
        site = forward.trace.sites[index]
        tried = self._tried.setdefault(site, [])
        for check in self._candidates(network, forward, index, sizes):
            if check not in tried:
                tried.append(check)
                self.found[site] = [check]
                return True
        together = [*{(check.kind, check.name): check for check in reversed(tried)}.values()]
        if len(together) < 2 or self.found[site] == together:
            return False
        self.found[site] = together
        return True

    def _candidates(
        self, network: Network, forward: Pass, index: int, sizes: Sizes
    ) -> Iterator[SizeCheck]:
        trace = forward.trace
        for frame in trace.around(index)[:PROBED_DEPTH]:
            kind = trace.frames[frame].kind
            if kind.__module__.startswith("torch."):
                continue
            widths = _axes(network, forward, frame)
            for name, value in integers(submodule(network.model, trace.frames[frame].path)):
                equal = [axis for axis in widths if axis_size(axis) == value]
                became = [sizes.size(axis) for axis in equal]
                changed = dict.fromkeys(size for size in became if size != value)
                if changed and self._stops(forward, frame, index, name, value):
                    yield from (SizeCheck(kind, name, became.index(size)) for size in changed)

    def _stops(self, forward: Pass, frame: int, index: int, name: str, value: int) -> bool:
        """Whether the original stops there, too, with another value; tried once per class."""
        key = forward.trace.sites[index], forward.trace.frames[frame].kind, name
        if key not in self._stopping:
            self._stopping[key] = self.prober.stops(forward, frame, index, name, value + 1)
        return self._stopping[key]

    def edits(self, network: Network, sizes: Sizes) -> Iterator[Edit]:
        """Yield edits that set the attributes found to the new widths."""
        checks = [*dict.fromkeys(chain.from_iterable(self.found.values()))]
        done = set()
        frames = ((run, *one) for run in network.passes for one in enumerate(run.trace.frames))
        for forward, index, frame in frames if checks else ():
            asked = [check for check in checks if frame.kind is check.kind]
            if not asked or frame.path in done:
                continue
            done.add(frame.path)
            stored = dict(integers(submodule(network.model, frame.path)))
            widths = _axes(network, forward, index)
            for check in asked:
                value = stored.get(check.name)
                equal = [axis for axis in widths if axis_size(axis) == value]
                for axis in equal[check.place : check.place + 1]:
                    if sizes.size(axis) != value:
                        yield frame.path, check.name, sizes.size(axis)


def _axes(network: Network, forward: Pass, frame: int) -> list[Axis]:
    """Return the varying axes of a module's inputs (without parameters), then of its results."""
    known = forward.trace.values
    made = {n for n, name in known.names.items() if name in network.parameters}
    made |= known.unregistered
    given: list[Axis] = []
    inside: list[Axis] = []
    for index, (call, reading) in enumerate(forward.pairs):
        if frame not in forward.trace.around(index):
            continue
        for value, axes in zip(call.inputs, reading.inputs, strict=True):
            if value.number not in made:
                given += filter(network.varies, axes)
        for axes in reading.outputs:
            inside += filter(network.varies, axes)
        made.update(value.number for value in call.outputs)
    return [*given, *inside]
