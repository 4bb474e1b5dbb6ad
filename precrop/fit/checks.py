"""Sizes that a network's own code checks: ``assert x.shape[1] == self.channels``.

No operation takes such a number, so no trace shows it. A fitted network that stops between two
calls was stopped by its own code; an attribute with which the original stops there, too, once it is
changed, is what that code compares with a size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from precrop.fit.attributes import Edit, integers
from precrop.fit.probing import PROBED_DEPTH, Prober
from precrop.modules.copying import submodule
from precrop.read.axes import Axis, axis_size
from precrop.read.network import Network, Pass, Sizes


@dataclass
class Checks:
    """Finds attributes that code compares with widths, and keeps them equal."""

    prober: Prober
    found: list[tuple[type[nn.Module], str]] = field(default_factory=list)
    _asked: set[tuple[type[nn.Module], str]] = field(default_factory=set)

    def learn(self, network: Network, forward: Pass, index: int) -> bool:
        """Find what stopped a fitted network before a call; False if nothing did."""
        for frame in forward.trace.around(index)[:PROBED_DEPTH]:
            kind = forward.trace.frames[frame].kind
            if kind.__module__.startswith("torch."):
                continue
            module = submodule(network.model, forward.trace.frames[frame].path)
            given, inside = _axes(network, forward, frame)
            widths = set(map(axis_size, (*given, *inside)))
            for name, value in integers(module):
                if value not in widths or (kind, name) in self._asked:
                    continue
                self._asked.add((kind, name))
                if self.prober.stops(forward, frame, index, name, value + 1):
                    self.found.append((kind, name))
                    return True
        return False

    def edits(self, network: Network, sizes: Sizes) -> Iterator[Edit]:
        """What the attributes must be, where one width alone can be meant."""
        done = set()
        frames = ((run, *one) for run in network.passes for one in enumerate(run.trace.frames))
        for forward, index, frame in frames if self.found else ():
            names = [name for kind, name in self.found if frame.kind is kind]
            if not names or frame.path in done:
                continue
            done.add(frame.path)
            stored = dict(integers(submodule(network.model, frame.path)))
            given, inside = _axes(network, forward, index)
            for name in names:
                value = stored.get(name)
                axes = [axis for axis in given if axis_size(axis) == value]
                axes = axes or [axis for axis in inside if axis_size(axis) == value]
                became = set(map(sizes.size, axes))
                if len(became) == 1 and became != {value}:
                    yield frame.path, name, became.pop()


def _axes(network: Network, forward: Pass, frame: int) -> tuple[list[Axis], list[Axis]]:
    """Axes that vary: of what a module is given, parameters aside, and of what it makes."""
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
    return given, inside
