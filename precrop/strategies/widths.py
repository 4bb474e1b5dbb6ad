"""Widths that were chosen elsewhere."""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from precrop.errors import BudgetError, PrecropError, brief
from precrop.linear.densities import check_names
from precrop.read.network import Network
from precrop.solve.choices import Choices
from precrop.solve.program import Program
from precrop.solve.relax import Allocation
from precrop.solve.structure import Integers, Layer
from precrop.strategies.shapes import nearest
from precrop.strategies.strategy import GIVEN, Solution, Solver, Strategy

_LARGEST = 2**31
"""More channels than any layer has."""
_MOST_TRIED = 2**12
"""Combinations of all factors of a width but one that are tried."""


@dataclass(frozen=True)
class Widths(Strategy):
    """Widths chosen elsewhere, taken as they are.

    Widths that no named layer has stay as wide as they may.

    Attributes:
        widths: output channels by layer name; of an embedding or another learnt table whose width
            no layer makes, by its name.
    """

    widths: Mapping[str, int]
    rule = "balanced"
    budgeted = False  # budgets are only checked

    def solver(self, network: Network) -> Solver:
        """The same with checked widths.

        Raises:
            PrecropError: there are none, or one is not a number of channels or of no layer.
        """
        names = [*(layer.name for layer in network.layers), *network.tables]
        check_names("widths", self.widths, names)
        if not self.widths:
            raise PrecropError("widths= is empty: give {layer name: output channels}")
        return replace(self, widths={name: _checked(name, n) for name, n in self.widths.items()})

    def __call__(self, problem: Program) -> Solution:
        """The widths as they are given; budgets are only checked.

        Raises:
            BudgetError: the widths cost more than a budget allows.
            PrecropError: a layer cannot have its width, or two that share one ask for different
                ones.
        """
        units = self._units(problem)
        for name, limit in problem.limits.items():
            cost = problem.costs[name](units.tolist())
            if cost > limit:
                raise BudgetError(f"{name}={limit} cannot be met: the widths given cost {cost}")
        x = np.log(units / problem.choices.units)
        near = nearest(problem, x, fills=False)
        multipliers = dict.fromkeys(problem.limits, 0.0)
        allocation = Allocation(x, near.value(x), GIVEN, 0, multipliers, ())
        return Solution(near, allocation, near.value)

    def _units(self, problem: Program) -> Integers:
        """Units of every group; layers that follow from one group come first."""
        choices = problem.choices
        units = np.minimum(choices.units, choices.upper)
        owners: dict[int, str] = {}
        layers = [layer for layer in problem.structure.layers if layer.name in self.widths]
        named = self.widths.keys() - {layer.name for layer in layers}
        for place, table in enumerate(problem.structure.groups):
            if table.name in named:
                owners[place], width = table.name, self.widths[table.name]
                units[place] = round(width * table.units / table.width)
                if units[place] * table.width != width * table.units:
                    raise PrecropError(
                        f"{table.name} cannot be cut to {width} of its {table.width} channels"
                    )
        for layer in sorted(layers, key=lambda layer: len(layer.produced)):
            new = [group for group in layer.produced if group not in owners]
            owners |= dict.fromkeys(new, layer.name)
            if any(sum(group in new for group in term) > 1 for term in layer.width.terms):
                sharing = [one for one in layers if not one.produced.keys().isdisjoint(new)]
                open_ends = [(one, [g for g in one.produced if g not in owners]) for one in sharing]
                units = self._factored(layer, new, open_ends, units, choices)
            elif new:
                self._share(layer, new, units, choices)
            if layer.width(units.tolist()) != self.widths[layer.name]:
                by = {group: owners[group] for group in layer.produced}
                raise PrecropError(self._conflict(layer, by, units, choices))
        for group in np.flatnonzero(choices.floor(units.astype(float)) != units).tolist():
            name = owners[group]
            scale = self.widths[name] / units[group]
            least, most = (round(scale * n[group]) for n in (choices.lower, choices.upper))
            raise PrecropError(
                f"{name} cannot have {self.widths[name]} channels, but {least} to {most} "
                f"(expand=True allows more) with {choices.rule}"
            )
        return units

    def _share(
        self, layer: Layer, groups: Sequence[int], units: Integers, choices: Choices
    ) -> None:
        """Let groups keep the one share that gives the layer its width, or nearly one.

        The width is linear in that share. What rounding leaves over of a sum of several widths goes
        to those with the finest steps.
        """
        units[groups] = choices.units[groups]
        whole, asked = layer.width(units.tolist()), self.widths[layer.name]
        steps = {group: whole - layer.width(_one_less(units, group)) for group in groups}
        share = 1 - (whole - asked) / sum(steps[group] * choices.units[group] for group in groups)
        for group in groups:
            units[group] = max(1, round(share * choices.units[group]))
        if len(groups) < 2:
            return
        coarsest_first = sorted(groups, key=lambda group: -steps[group])
        for rounded, group in itertools.product((np.trunc, np.floor), coarsest_first):
            missing = asked - layer.width(units.tolist())
            moved = units[group] + rounded(missing / steps[group])
            units[group] = min(max(1, moved), choices.upper[group])

    def _factored(
        self,
        layer: Layer,
        groups: Sequence[int],
        sharing: Iterable[tuple[Layer, Sequence[int]]],
        units: Integers,
        choices: Choices,
    ) -> Integers:
        """Let groups whose product counts give the layer its width, if they can.

        Many products are one number. Those come first that keep the number of heads or of kernels,
        which has the fewest units, and then the most even ones. Layers ``sharing`` a factor must be
        able to have their widths, by what groups they have besides.
        """
        heads = min(groups, key=lambda group: choices.units[group])

        def unlike(found: Integers) -> tuple[bool, float, int]:
            ratios = found[groups] / choices.units[groups]
            fewer = choices.units[heads] - found[heads]
            return bool(fewer), ratios.max() / ratios.min(), int(fewer)

        def suits(found: Integers, one: Layer, more: Sequence[int]) -> bool:
            near = _around(one, more, found, choices, self.widths[one.name])
            return any(width == self.widths[one.name] for width, _ in near)

        near = _around(layer, groups, units, choices, self.widths[layer.name])
        exact = sorted((u for width, u in near if width == self.widths[layer.name]), key=unlike)
        fitting = (u for u in exact if all(suits(u, one, more) for one, more in sharing))
        return next(itertools.chain(fitting, exact), units)

    def _conflict(
        self, layer: Layer, owners: Mapping[int, str], units: Integers, choices: Choices
    ) -> str:
        """Why a layer cannot have its width."""
        width = self.widths[layer.name]
        others = [name for name in owners.values() if name != layer.name]
        if not owners:
            return f"{layer.name} keeps its {layer.out_channels} channels: it cannot have {width}"
        if others:
            return (
                f"{layer.name} cannot have {width} channels and {others[0]} "
                f"{self.widths[others[0]]}: they share a width"
            )
        near = {found for found, _ in _around(layer, [*owners], units, choices, width)}
        below, above = (sorted(n for n in near if (n > width) is more) for more in (False, True))
        nearest = " or ".join(map(str, below[-1:] + above[:1]))
        return (
            f"{layer.name} cannot be cut to {width} of its {layer.out_channels} channels"
            f"{nearest and f', but to {nearest}'}"
        )


def _around(
    layer: Layer, groups: Sequence[int], units: Integers, choices: Choices, width: int
) -> Iterator[tuple[int, Integers]]:
    """The widths around one that groups of a layer can give it, each with the units for it.

    There are none where too many combinations would have to be tried.
    """
    if not groups:
        yield layer.width(units.tolist()), units
        return
    *first, last = sorted(groups, key=lambda group: choices.units[group])
    tried = units.copy()

    def made(kept: int) -> int:
        tried[last] = kept
        return int(layer.width(tried.tolist()))

    allowed, options = choices.allowed(last), [choices.allowed(group) for group in first]
    if prod(map(len, options)) > _MOST_TRIED:
        return
    for kept in itertools.product(*options):
        tried[first] = kept
        place = bisect_left(allowed, width, key=made)
        for found in allowed[max(0, place - 1) : place + 1]:
            yield made(found), tried.copy()


def _one_less(units: Integers, group: int) -> list[int]:
    return [kept - (place == group) for place, kept in enumerate(units.tolist())]


def _checked(name: str, width: Any) -> int:
    """A number of output channels."""
    whole = isinstance(width, Integral) and not isinstance(width, bool)
    if whole and 0 < width < _LARGEST:
        return int(width)
    raise PrecropError(f"the width of {name} is {brief(width)}: write output channels, 1 or more")
