"""Widths that were chosen elsewhere."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
_SNAP = 1e-6
"""Part of a channel that a width may be off by rounding errors."""


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
            self._set(layer, new, units, choices)
            if abs(layer.width(units / choices.units) - self.widths[layer.name]) > _SNAP:
                raise PrecropError(self._conflict(layer, [owners[g] for g in layer.produced]))
        for group in np.flatnonzero(choices.floor(units.astype(float)) != units).tolist():
            name = owners[group]
            scale = self.widths[name] / units[group]
            least, most = (round(scale * n[group]) for n in (choices.lower, choices.upper))
            raise PrecropError(
                f"{name} cannot have {self.widths[name]} channels, but {least} to {most} "
                f"(expand=True allows more) with {choices.rule}"
            )
        return units

    def _set(self, layer: Layer, groups: Sequence[int], units: Integers, choices: Choices) -> None:
        """Let groups keep the one share that gives the layer its width, or nearly one.

        The width is linear in that share, but where several axes are one. What rounding leaves over
        of a sum of several widths goes to those with the finest steps.
        """
        if not groups:
            return
        ratios = units / choices.units
        ratios[groups] = 1.0
        whole, total = layer.width(ratios), sum(layer.produced[group] for group in groups)
        if sum(layer.produced.values()) > 1 + _SNAP:
            share = (self.widths[layer.name] / whole) ** (1 / total)
        else:
            share = 1 - (whole - self.widths[layer.name]) / (layer.out_channels * total)
        for group in groups:
            units[group] = max(1, round(share * choices.units[group]))
        if len(groups) < 2:
            return
        steps = {g: layer.out_channels * layer.produced[g] / choices.units[g] for g in groups}
        coarsest_first = sorted(groups, key=lambda group: -steps[group])
        for rounded, group in itertools.product((np.trunc, np.floor), coarsest_first):
            missing = self.widths[layer.name] - layer.width(units / choices.units)
            moved = units[group] + rounded((missing + np.sign(missing) * _SNAP) / steps[group])
            units[group] = min(max(1, moved), choices.upper[group])

    def _conflict(self, layer: Layer, owners: Sequence[str]) -> str:
        """Why a layer cannot have its width."""
        width = self.widths[layer.name]
        others = [name for name in owners if name != layer.name]
        if not owners:
            return f"{layer.name} keeps its {layer.out_channels} channels: it cannot have {width}"
        if not others:
            return f"{layer.name} cannot be cut to {width} of its {layer.out_channels} channels"
        return (
            f"{layer.name} cannot have {width} channels and {others[0]} "
            f"{self.widths[others[0]]}: they share a width"
        )


def _checked(name: str, width: Any) -> int:
    """A number of output channels."""
    whole = isinstance(width, Integral) and not isinstance(width, bool)
    if whole and 0 < width < _LARGEST:
        return int(width)
    raise PrecropError(f"the width of {name} is {brief(width)}: write output channels, 1 or more")
