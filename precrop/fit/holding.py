"""What to do where a fitted network differs from its prediction: tie, or else freeze, what meets there.

The same code runs in many modules, so every step is taken wherever the differing call's code runs.
Each step changes something or the next one is taken; the last freezes everything, and a network in
which nothing changes is always as predicted.
"""

from collections.abc import Callable, Iterable, Iterator

from precrop.fit.fitting import Fitter, Mismatch, Site
from precrop.read.axes import Axis
from precrop.read.network import Network, Pass
from precrop.read.reader import CallReading

# The module that runs the call, and the one around it.
MAX_DEPTH = 2


def hold(network: Network, fitter: Fitter, mismatch: Mismatch) -> None:
    """Take the gentlest step that still changes something."""
    site = fitter.site(mismatch.forward, mismatch.index)
    where = site.kind.__name__ if site.kind else "the network"
    reason = f"{site.op} in {where} keeps its sizes"
    places = [
        (forward, index)
        for forward in network.passes
        for index in range(len(forward.readings))
        if fitter.site(forward, index) == site
    ]
    for act in (network.tie, lambda axes: network.freeze(axes, reason)):
        for gather in _reaches(network):
            if _act(act, (gather(forward, index) for forward, index in places)):
                return
    network.freeze((axis for layer in network.layers for axis in (layer.inputs, layer.outputs)), reason)


Gather = Callable[[Pass, int], list[Axis]]


def _act(act: Callable[[Iterable[Axis]], bool], rows: Iterable[list[Axis]]) -> bool:
    return any([act(row) for row in rows])


def _reaches(network: Network) -> Iterator[Gather]:
    """Ever wider sets of axes around a call: its own, its module's, the surrounding module's.

    What a module's direct children compute counts as its own: an attention block's projections.
    """

    def at_call(forward: Pass, index: int) -> list[Axis]:
        return [a for a in _axes(forward.readings[index]) if network.varies(a)]

    yield at_call
    for depth in range(MAX_DEPTH):

        def in_module(forward: Pass, index: int, depth: int = depth) -> list[Axis]:
            frames = _enclosing(forward, index, depth)
            readings = zip(forward.trace.calls, forward.readings, strict=True)
            inside = (
                reading
                for call, reading in readings
                if call.frame in frames or _parent(forward, call.frame) in frames
            )
            return [a for reading in inside for a in _axes(reading) if network.varies(a)]

        yield in_module


def _axes(reading: CallReading) -> list[Axis]:
    rows = [*reading.inputs, *reading.outputs]
    return [*reading.literals.values(), *(axis for row in rows for axis in row)]


def _parent(forward: Pass, frame: int) -> int | None:
    return forward.trace.frames[frame].parent if frame >= 0 else None


def _enclosing(forward: Pass, index: int, depth: int) -> set[int]:
    """The frame of a call and ``depth`` frames around it."""
    frame = forward.trace.calls[index].frame
    frames = {frame}
    for _ in range(depth):
        if frame >= 0:
            frame = forward.trace.frames[frame].parent
            frames.add(frame)
    return frames


__all__ = ["Site", "hold"]
