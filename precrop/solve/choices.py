"""The numbers of channels that a divisor and a least width let every group have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precrop.solve.structure import Floats, Group, Integers


@dataclass(frozen=True)
class Choices:
    """The units that every group may keep: multiples of its step within bounds, or the original.

    All arrays have shape (groups,). A group without a multiple below its original width gets no
    narrower, and without one above it no wider.

    Attributes:
        units: of the original network.
        step: smallest number of units that the divisor divides in every layer of the group.
        least: fewest units allowed beside the original ones, a multiple of ``step``.
        upper: most units allowed.
        extra: what is allowed beside multiples: the original units, or 0 for nothing.
        divisors: what divides the layer outputs of every group.
        divisor: the first that was asked for.
        min_width: least channels of the narrowest layer output of a group.
    """

    units: Integers
    step: Integers
    least: Integers
    upper: Integers
    extra: Integers
    divisors: Integers
    divisor: int
    min_width: int

    @classmethod
    def of(
        cls,
        groups: Iterable[Group],
        divisors: Sequence[int] = (1,),
        min_width: int = 1,
        cap: float = 1.0,
    ) -> "Choices":
        """What all groups may keep.

        Args:
            groups: the independent widths.
            divisors: of every layer output's channels: a group has multiples of the first that
                leaves it something narrower than the original, of the very first if none does.
            min_width: least channels of the narrowest layer output of a group.
            cap: largest ratio to the original width; 1 for cropping.
        """
        rows = [_bounds(group, divisors, min_width, cap) for group in groups]
        units, step, least, upper, chosen = np.array(rows, np.int64).reshape(-1, 5).T
        return cls(units, step, least, upper, units, chosen, divisors[0], min_width)

    @property
    def lower(self) -> Integers:
        """Fewest units allowed."""
        return np.minimum(self.least, self.units)

    @property
    def rule(self) -> str:
        """The divisor and least width in words, for messages."""
        return f"divisor={self.divisor} and min_width={self.min_width}"

    @property
    def log_bounds(self) -> tuple[Floats, Floats]:
        """Least and largest log ratio of every group."""
        return np.log(self.lower / self.units), np.log(self.upper / self.units)

    def allowed(self, group: int) -> list[int]:
        """All that one group may keep, in order."""
        step, least, upper, extra = (
            int(bounds[group]) for bounds in (self.step, self.least, self.upper, self.extra)
        )
        own = [extra] if 0 < extra <= upper else []
        return sorted({*range(least, upper + 1, step), *own})

    def floor(self, units: NDArray[Any]) -> Integers:
        """The widest choices up to ``units``; ``lower`` if all are wider."""
        multiples: Integers = np.floor(units / self.step).astype(np.int64) * self.step
        multiples = np.where(multiples < self.least, 0, multiples)
        extra = np.where(self.extra <= units, self.extra, 0)
        return np.clip(np.maximum(multiples, extra), self.lower, self.upper)

    def next(self, units: Integers) -> Integers:
        """One choice up; ``units`` itself at the top."""
        multiples = np.maximum((units // self.step + 1) * self.step, self.least)
        extra = np.where(self.extra > units, self.extra, multiples)
        above: Integers = np.minimum(np.minimum(multiples, extra), self.upper)
        return above

    def previous(self, units: Integers) -> Integers:
        """One choice down; ``units`` itself at the bottom."""
        return self.floor(units - 1)

    def without_originals(self, groups: Sequence[int]) -> "Choices":
        """The same but for some groups, which have only their multiples."""
        extra, upper = self.extra.copy(), self.upper.copy()
        extra[groups] = 0
        upper[groups] -= upper[groups] % self.step[groups]
        return replace(self, extra=extra, upper=upper)


def has_choice(group: Group, divisor: int, min_width: int = 1) -> bool:
    """Whether multiples of ``divisor`` let the group be narrower than in the original."""
    _, least = _steps(group, divisor, min_width)
    return least < group.units and (group.most is None or least <= group.most)


def _steps(group: Group, divisor: int, min_width: int) -> tuple[int, int]:
    """The step of a group's units that makes all its layer outputs multiples, and the least one."""
    step = divisor // gcd(group.grain, divisor)
    wide = max(group.least, -(-min_width * group.units // group.narrowest))
    return step, -(-wide // step) * step


def _bounds(
    group: Group, divisors: Sequence[int], min_width: int, cap: float
) -> tuple[int, int, int, int, int]:
    """Original units, step, least and upper units of one group, and its divisor."""
    leaving = (divisor for divisor in divisors if has_choice(group, divisor, min_width))
    divisor = next(leaving, divisors[0])
    step, least = _steps(group, divisor, min_width)
    units = group.units
    most = int(units * cap + 1e-9) if group.most is None else min(group.most, units)
    upper = max(most // step * step, units if most >= units else min(least, units))
    return units, step, least, upper if upper >= least else units, divisor
