"""Places in the code that a trace went through."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from precrop.read.trace import Trace


@dataclass(frozen=True)
class Site:
    """A place in the code: the n-th call of an operation in forward of a class."""

    kind: type[nn.Module] | None
    op: str
    occurrence: int


def sites(trace: Trace) -> Iterator[Site]:
    """The site of every call, in order."""
    counts: dict[tuple[int, str], int] = {}
    for call in trace.calls:
        key = (call.frame, call.name)
        occurrence = counts[key] = counts.get(key, -1) + 1
        kind = trace.frames[call.frame].kind if call.frame >= 0 else None
        yield Site(kind, call.name, occurrence)


def frames_around(trace: Trace, index: int) -> list[int]:
    """Module frames around a call, from the innermost."""
    frames = []
    frame = trace.calls[index].frame
    while frame >= 0:
        frames.append(frame)
        frame = trace.frames[frame].parent
    return frames
