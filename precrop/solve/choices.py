"""The widths that a divisor and a minimum width allow each group."""

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

    All arrays have shape (groups,). A group with no multiple below its original width never gets
    narrower; one with no multiple above it never gets wider.

    Attributes:
        units: units in the original network.
        step: fewest units that make every layer output of the group a multiple of its divisor.
        least: smallest multiple of ``step`` that is allowed.
        upper: most units allowed.
        extra: the one number allowed besides multiples: the original units, or 0 for none.
        divisors: the divisor of each group.
        divisor: the first divisor asked for.
        min_width: fewest channels allowed in the narrowest layer output of a group.
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
        """Return the choices of all groups.

        Args:
            groups: the independent widths.
            divisors: divisors of layer outputs, in order of preference. A group takes the first
                that allows it a width below the original, or simply the first if none does.
            min_width: fewest channels allowed in the narrowest layer output of a group.
            cap: largest ratio to the original width; 1 for cropping.
        """
        rows = [_bounds(group, divisors, min_width, cap) for group in groups]
        units, step, least, upper, chosen = np.array(rows, np.int64).reshape(-1, 5).T
        return cls(units, step, least, upper, units, chosen, divisors[0], min_width)

    @property
    def lower(self) -> Integers:
        """The fewest units allowed."""
        return np.minimum(self.least, self.units)

    @property
    def rule(self) -> str:
        """The divisor and minimum width, in words for messages."""
        return f"divisor={self.divisor} and min_width={self.min_width}"

    @property
    def log_bounds(self) -> tuple[Floats, Floats]:
        """The smallest and largest log ratio of every group."""
        return np.log(self.lower / self.units), np.log(self.upper / self.units)

    def allowed(self, group: int) -> list[int]:
        """Return all choices of one group in increasing order."""
        step, least, upper, extra = (
            int(bounds[group]) for bounds in (self.step, self.least, self.upper, self.extra)
        )
        own = [extra] if 0 < extra <= upper else []
        return sorted({*range(least, upper + 1, step), *own})

    def floor(self, units: NDArray[Any]) -> Integers:
        """Round ``units`` down to choices; to ``lower`` where all choices are wider."""
        multiples: Integers = np.floor(units / self.step).astype(np.int64) * self.step
        multiples = np.where(multiples < self.least, 0, multiples)
        extra = np.where(self.extra <= units, self.extra, 0)
        return np.clip(np.maximum(multiples, extra), self.lower, self.upper)

    def next(self, units: Integers) -> Integers:
        """Return the next choice up, or ``units`` itself at the top."""
        multiples = np.maximum((units // self.step + 1) * self.step, self.least)
        extra = np.where(self.extra > units, self.extra, multiples)
        above: Integers = np.minimum(np.minimum(multiples, extra), self.upper)
        return above

    def previous(self, units: Integers) -> Integers:
        """Return the next choice down, or ``units`` itself at the bottom."""
        return self.floor(units - 1)

    def without_originals(self, groups: Sequence[int]) -> "Choices":
        """Return these choices without the original units of some groups, only multiples."""
        extra, upper = self.extra.copy(), self.upper.copy()
        extra[groups] = 0
        upper[groups] -= upper[groups] % self.step[groups]
        return replace(self, extra=extra, upper=upper)


def has_choice(group: Group, divisor: int, min_width: int = 1) -> bool:
    """Return whether a multiple of ``divisor`` is narrower than the group's original width."""
    _, least = _steps(group, divisor, min_width)
    return least < group.units and (group.most is None or least <= group.most)


def _steps(group: Group, divisor: int, min_width: int) -> tuple[int, int]:
    """Return the group's step for this divisor, and the least multiple of it that is allowed."""
    step = divisor // gcd(group.grain, divisor)
    wide = max(group.least, -(-min_width * group.units // group.narrowest))
    return step, -(-wide // step) * step


def _bounds(
    group: Group, divisors: Sequence[int], min_width: int, cap: float
) -> tuple[int, int, int, int, int]:
    """Return the original units, step, least and upper units, and divisor of one group."""
    leaving = (divisor for divisor in divisors if has_choice(group, divisor, min_width))
    divisor = next(leaving, divisors[0])
    step, least = _steps(group, divisor, min_width)
    units = group.units
    most = int(units * cap + 1e-9) if group.most is None else min(group.most, units)
    upper = max(most // step * step, units if most >= units else min(least, units))
    return units, step, least, upper if upper >= least else units, divisor
