"""Networks of the same layer densities, whatever is removed from them."""

import math
from collections.abc import Sequence

from precrop.report.comparisons import Comparison, paired
from precrop.report.frames import ResultFrame, RunGroup

SAME_DENSITIES = 0.1
"""Networks no further apart (`density_distance`) have the same densities, but for rounding."""
UNITS = ("weight", "kernel", "filter", "channel")
"""Granularities, from fine to coarse."""


def granularities(frame: ResultFrame) -> list[tuple[RunGroup, ...]]:
    """Families of groups with the same layer densities, each begun by a mask of single weights."""
    families = []
    for first in frame.where(lambda group: (group.kind, group.granularity) == ("masked", "weight")):
        near = [group for group in frame.within(first.setting) if _alike(first, group)]
        if near:
            families.append((first, *sorted(near, key=_coarseness)))
    return families


def against_first(groups: Sequence[RunGroup]) -> list[Comparison]:
    """Every group against the first one, where they have a seed in common."""
    return paired((group, groups[0]) for group in groups[1:])


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


def _coarseness(group: RunGroup) -> tuple[bool, int]:
    return (group.kind == "cropped", UNITS.index(group.granularity))
