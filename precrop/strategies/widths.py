"""Plan with widths that were chosen elsewhere."""

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from precrop.errors import BudgetError, PrecropError, brief
from precrop.linear.densities import check_names
from precrop.read.network import Network
from precrop.solve.program import Program
from precrop.solve.relax import Allocation
from precrop.solve.structure import Integers, Layer
from precrop.strategies.shapes import nearest
from precrop.strategies.strategy import GIVEN, Solution, Solver, Strategy

_LARGEST = 2**31
"""Channels from which on a width is refused: more than any layer has."""
_MOST_TRIED = 2**12
"""Most combinations of all factors of a width but one that are tried."""


@dataclass(frozen=True)
class Widths(Strategy):
    """Widths chosen elsewhere, taken as they are.

    Other widths stay as in the original, or as near to it as their bounds allow.

    Attributes:
        widths: output channels by layer name, or by the name of an embedding or another learnt
            table whose width no layer makes.
    """

    widths: Mapping[str, int]
    rule = "balanced"
    budgeted = False  # budgets are only checked

    def solver(self, network: Network) -> Solver:
        """Return this strategy with checked widths.

        Raises:
            PrecropError: there are none, one is not a number of channels, or a layer is unknown.
        """
        names = [*(layer.name for layer in network.layers), *network.tables]
        check_names("widths", self.widths, names)
        if not self.widths:
            raise PrecropError("widths= is empty: give {layer name: output channels}")
        return replace(self, widths={name: _checked(name, n) for name, n in self.widths.items()})

    def __call__(self, problem: Program) -> Solution:
        """Return the widths as given; budgets are only checked.

        Raises:
            BudgetError: the widths cost more than a budget allows.
            PrecropError: a layer cannot have its width, or two layers that share one are given
                different ones.
        """
        units = _Chosen(self.widths, problem).found()
        for name, limit in problem.limits.items():
            cost = problem.costs[name](units.tolist())
            if cost > limit:
                raise BudgetError(f"{name}={limit} cannot be met: the widths given cost {cost}")
        x = np.log(units / problem.choices.units)
        near = nearest(problem, x, fills=False)
        multipliers = dict.fromkeys(problem.limits, 0.0)
        allocation = Allocation(x, near.value(x), GIVEN, 0, multipliers, ())
        return Solution(near, allocation, near.value)


class _Chosen:
    """The search for units of all groups that give layers and tables their ``widths``."""

    def __init__(self, widths: Mapping[str, int], problem: Program) -> None:
        self.widths, self.choices = widths, problem.choices
        self.layers = [layer for layer in problem.structure.layers if layer.name in widths]
        self.groups = problem.structure.groups
        self.units = np.minimum(self.choices.units, self.choices.upper)
        self.owners: dict[int, str] = {}
        """The layer or table that determined the units of a group, by group."""

    def found(self) -> Integers:
        """Find the units, starting with layers whose width depends on the fewest groups."""
        self._set_tables()
        for layer in sorted(self.layers, key=lambda layer: len(layer.produced)):
            new = [group for group in layer.produced if group not in self.owners]
            self.owners |= dict.fromkeys(new, layer.name)
            if any(sum(group in new for group in term) > 1 for term in layer.width.terms):
                self._factor(layer, new)
            elif new:
                self._share(layer, new)
            if layer.width(self.units.tolist()) != self.widths[layer.name]:
                raise PrecropError(self._conflict(layer))
        choices = self.choices
        for group in np.flatnonzero(choices.floor(self.units) != self.units).tolist():
            name = self.owners[group]
            scale = self.widths[name] / self.units[group]
            least, most = (round(scale * n[group]) for n in (choices.lower, choices.upper))
            raise PrecropError(
                f"{name} cannot have {self.widths[name]} channels, but {least} to {most} "
                f"(expand=True allows more) with {choices.rule}"
            )
        return self.units

    def _set_tables(self) -> None:
        named = self.widths.keys() - {layer.name for layer in self.layers}
        for place, table in enumerate(self.groups):
            if table.name in named:
                self.owners[place], width = table.name, self.widths[table.name]
                self.units[place], rest = divmod(width * table.units, table.width)
                if rest:
                    raise PrecropError(
                        f"{table.name} cannot be cut to {width} of its {table.width} channels"
                    )

    def _share(self, layer: Layer, groups: Sequence[int]) -> None:
        """Scale groups by one share that gives the layer its width, or nearly so.

        The width is linear in that share. Where it is a sum of several groups, what rounding leaves
        over goes to those with the finest steps.
        """
        units, original = self.units, self.choices.units
        units[groups] = original[groups]
        whole, asked = layer.width(units.tolist()), self.widths[layer.name]
        steps = {group: whole - layer.width(_one_less(units, group)) for group in groups}
        share = 1 - (whole - asked) / sum(steps[group] * original[group] for group in groups)
        for group in groups:
            units[group] = max(1, round(share * original[group]))
        if len(groups) < 2:
            return
        coarsest_first = sorted(groups, key=lambda group: -steps[group])
        for rounded, group in itertools.product((np.trunc, np.floor), coarsest_first):
            missing = asked - layer.width(units.tolist())
            moved = units[group] + rounded(missing / steps[group])
            units[group] = min(max(1, moved), self.choices.upper[group])

    def _factor(self, layer: Layer, groups: Sequence[int]) -> None:
        """Choose units for groups whose product is the layer's width, if they can give it.

        Several products may. Those that keep the number of heads or of kernels (the group with the
        fewest units) come first, then those with the most even ratios. Layers that share a factor
        must still be able to have their widths through their other groups.
        """
        original = self.choices.units
        heads = min(groups, key=lambda group: original[group])
        sharing = [
            (one, [group for group in one.produced if group not in self.owners])
            for one in self.layers
            if not one.produced.keys().isdisjoint(groups)
        ]

        def unlike(found: Integers) -> tuple[bool, float, int]:
            ratios = found[groups] / original[groups]
            fewer = original[heads] - found[heads]
            return bool(fewer), ratios.max() / ratios.min(), int(fewer)

        def exact(one: Layer, free: Sequence[int], units: Integers) -> list[Integers]:
            return [u for n, u in self._around(one, free, units) if n == self.widths[one.name]]

        likely = sorted(exact(layer, groups, self.units), key=unlike)
        fitting = (u for u in likely if all(exact(*each, u) for each in sharing))
        self.units = next(itertools.chain(fitting, likely), self.units)

    def _conflict(self, layer: Layer) -> str:
        """Return the message for a layer that cannot have its width."""
        width = self.widths[layer.name]
        owners = [self.owners[group] for group in layer.produced]
        others = [name for name in owners if name != layer.name]
        if not owners:
            return f"{layer.name} keeps its {layer.out_channels} channels: it cannot have {width}"
        if others:
            return (
                f"{layer.name} cannot have {width} channels and {others[0]} "
                f"{self.widths[others[0]]}: they share a width"
            )
        near = {found for found, _ in self._around(layer, [*layer.produced], self.units)}
        below, above = (sorted(n for n in near if (n > width) is more) for more in (False, True))
        nearest = " or ".join(map(str, below[-1:] + above[:1]))
        return (
            f"{layer.name} cannot be cut to {width} of its {layer.out_channels} channels"
            f"{nearest and f', but to {nearest}'}"
        )

    def _around(
        self, layer: Layer, groups: Sequence[int], units: Integers
    ) -> Iterator[tuple[int, Integers]]:
        """Yield the widths nearest to the one asked for that groups can give a layer, with units.

        Yields nothing where too many combinations would have to be tried.
        """
        if not groups:
            yield layer.width(units.tolist()), units
            return
        *first, last = sorted(groups, key=lambda group: self.choices.units[group])
        tried = units.copy()

        def made(kept: int) -> int:
            tried[last] = kept
            return int(layer.width(tried.tolist()))

        allowed, *options = (self.choices.allowed(group) for group in (last, *first))
        if prod(map(len, options)) > _MOST_TRIED:
            return
        for kept in itertools.product(*options):
            tried[first] = kept
            place = bisect_left(allowed, self.widths[layer.name], key=made)
            for found in allowed[max(0, place - 1) : place + 1]:
                yield made(found), tried.copy()


def _one_less(units: Integers, group: int) -> list[int]:
    return [kept - (place == group) for place, kept in enumerate(units.tolist())]


def _checked(name: str, width: Any) -> int:
    """Return a given width as an integer, or raise `PrecropError`."""
    whole = isinstance(width, Integral) and not isinstance(width, bool)
    if whole and 0 < width < _LARGEST:
        return int(width)
    raise PrecropError(f"the width of {name} is {brief(width)}: write output channels, 1 or more")
