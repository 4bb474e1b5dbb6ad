"""Networks with the same layer densities, pruned at different granularities."""

import math

from precrop.report.frames import ResultFrame, RunGroup

SAME_DENSITIES = 0.1
"""The largest `density_distance` that still counts as equal densities, as rounding adds some."""
UNITS = ("weight", "kernel", "filter", "channel")
"""Granularities, from fine to coarse."""


def granularities(frame: ResultFrame) -> list[tuple[RunGroup, ...]]:
    """Return families of groups with the same layer densities; each starts with a weight mask."""
    families = []
    for first in frame.groups:
        if (first.kind, first.granularity) == ("masked", "weight"):
            near = [group for group in frame.within(first.setting) if _alike(first, group)]
            near.sort(key=lambda group: (group.kind == "cropped", UNITS.index(group.granularity)))
            families += [(first, *near)] if near else []
    return families


def density_distance(one: RunGroup, other: RunGroup) -> float:
    """Return how far apart the layers' densities are: 0.1 is about 10%; larger layers count more.

    It is seldom 0 for whole channels, which only come near a given density.
    """
    layers = [name for name in one.densities if name in other.densities]
    sizes = [math.prod(one.rows[0].widths.get(name, (1, 1))) for name in layers]
    logs = [_log_ratio(one.densities[name], other.densities[name]) for name in layers]
    return sum(size * log for size, log in zip(sizes, logs, strict=True)) / max(1, sum(sizes))


def _log_ratio(one: float, other: float) -> float:
    """Return the absolute log ratio of two densities; infinite if only one of them is 0."""
    if one == other:
        return 0.0
    return abs(math.log(one / other)) if min(one, other) > 0 else math.inf


def _alike(one: RunGroup, other: RunGroup) -> bool:
    """Whether two groups have one method's layer densities, but another kind or granularity."""
    return (
        "dense" not in (one.kind, other.kind)
        and one.method == other.method
        and (one.kind, one.granularity) != (other.kind, other.granularity)
        and density_distance(one, other) <= SAME_DENSITIES
    )
