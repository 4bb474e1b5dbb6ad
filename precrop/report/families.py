"""Networks of the same layer densities, whatever is removed from them."""

import math

from precrop.report.frames import ResultFrame, RunGroup

SAME_DENSITIES = 0.1
"""Networks no further apart (`density_distance`) have the same densities, but for rounding."""
UNITS = ("weight", "kernel", "filter", "channel")
"""Granularities, from fine to coarse."""


def granularities(frame: ResultFrame) -> list[tuple[RunGroup, ...]]:
    """Families of groups with the same layer densities, each begun by a mask of single weights."""
    families = []
    for first in frame.groups:
        if (first.kind, first.granularity) == ("masked", "weight"):
            near = [group for group in frame.within(first.setting) if _alike(first, group)]
            near.sort(key=lambda group: (group.kind == "cropped", UNITS.index(group.granularity)))
            families += [(first, *near)] if near else []
    return families


def density_distance(one: RunGroup, other: RunGroup) -> float:
    """How far the layers' densities are apart: 0.1 is about 10%, larger layers counting more.

    Whole channels come near a density but seldom meet it.
    """
    layers = [name for name in one.densities if name in other.densities]
    sizes = [math.prod(one.rows[0].widths.get(name, (1, 1))) for name in layers]
    logs = [_log_ratio(one.densities[name], other.densities[name]) for name in layers]
    return sum(size * log for size, log in zip(sizes, logs, strict=True)) / max(1, sum(sizes))


def _log_ratio(one: float, other: float) -> float:
    """By how much two densities differ, in logarithms; one of zero is like no other."""
    if one == other:
        return 0.0
    return abs(math.log(one / other)) if min(one, other) > 0 else math.inf


def _alike(one: RunGroup, other: RunGroup) -> bool:
    """Two ways to remove the same shares of every layer, which one method chose."""
    return (
        "dense" not in (one.kind, other.kind)
        and one.method == other.method
        and (one.kind, one.granularity) != (other.kind, other.granularity)
        and density_distance(one, other) <= SAME_DENSITIES
    )
