"""Places in the code that a trace went through."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from precrop.read.trace import Trace


@dataclass(frozen=True)
class Site:
    """A place in the code: the n-th call of an operation in forward of a class.

    PyTorch's own layers are everywhere, so a call in one of them is placed by the class that has
    the layer, and the layer's path in it.
    """

    kind: type[nn.Module] | None
    layer: str
    op: str
    occurrence: int


def sites(trace: Trace) -> Iterator[Site]:
    """The site of every call, in order."""
    counts: dict[tuple[int, str], int] = {}
    for call in trace.calls:
        key = (call.frame, call.name)
        occurrence = counts[key] = counts.get(key, -1) + 1
        yield Site(*_owner(trace, call.frame), call.name, occurrence)


def _owner(trace: Trace, frame: int) -> tuple[type[nn.Module] | None, str]:
    """The class around a call that is not one of PyTorch's, and the path from it."""
    if frame < 0:
        return None, ""
    owner = trace.frames[frame]
    path = owner.path
    while owner.kind.__module__.startswith("torch.nn.") and owner.parent >= 0:
        owner = trace.frames[owner.parent]
    return owner.kind, path[len(owner.path) :].lstrip(".")


def frames_around(trace: Trace, index: int) -> list[int]:
    """Module frames around a call, from the innermost."""
    frames = []
    frame = trace.calls[index].frame
    while frame >= 0:
        frames.append(frame)
        frame = trace.frames[frame].parent
    return frames
