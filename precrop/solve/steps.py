"""What numbers of channels a group may have when a divisor is asked of every layer's output."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from precrop.solve.structure import Group


class Portions(NamedTuple):
    """Units of a group that a divisor allows: from ``least`` on in steps of ``step``."""

    step: int
    least: int


def portions(group: Group, divisor: int, min_width: int = 1) -> Portions:
    """The units with which every layer output of a group is a multiple of ``divisor``.

    Args:
        group: an independent width.
        divisor: of every layer output's channels.
        min_width: least channels of the narrowest layer output.
    """
    step = divisor // math.gcd(group.grain, divisor)
    wide = max(1, -(-min_width * group.units // group.narrowest))
    return Portions(step, -(-wide // step) * step)


def has_choice(group: Group, divisor: int, min_width: int = 1) -> bool:
    """Whether multiples of ``divisor`` let the group be narrower than in the original."""
    least = portions(group, divisor, min_width).least
    return least < group.units and (group.most is None or least <= group.most)


def halves(divisor: int) -> Iterator[int]:
    """The divisor, its half, and so on down to 1; each divides the one before."""
    while divisor > 1:
        yield divisor
        divisor = divisor // 2 if divisor % 2 == 0 else 1
    yield 1


def leaving_a_choice(group: Group, divisor: int, min_width: int = 1) -> int:
    """The largest of a divisor's `halves` that leaves the group a choice; itself if none does."""
    choices = (half for half in halves(divisor) if has_choice(group, half, min_width))
    return next(choices, divisor)
