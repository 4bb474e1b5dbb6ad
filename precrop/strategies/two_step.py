"""Densities first and then channels: the paper's two steps, a reconstruction."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from precrop.errors import PrecropError, check_known
from precrop.linear.closed_form import closed_form, layer_costs
from precrop.read.network import Network
from precrop.solve.program import Program
from precrop.solve.structure import Floats, Structure
from precrop.strategies.match import checked
from precrop.strategies.shapes import shaped
from precrop.strategies.strategy import Solution, Solver, Strategy

WidthRule = Callable[[Sequence[float]], float]
RULES: dict[str, WidthRule] = {
    "sqrt-min": min,
    "sqrt-max": max,
    "geometric-mean": lambda ratios: math.exp(sum(map(math.log, ratios)) / len(ratios)),
}
"""How a width follows from what the layers at it ask for."""


@dataclass(frozen=True)
class TwoStep(Strategy):
    """Densities first, then channels: the paper's two steps, reconstructed.

    A layer of density p asks both of its ends for the share sqrt(p) (for p where only one end can
    change, or where they are one). A width takes the least, the greatest or the geometric mean of
    what is asked of it, and all widths are scaled by one factor until a budget is used up.

    Attributes:
        rule: a name in `RULES`.
        densities: by layer name; without them those that maximise SynExp within the same shares of
            the layers' weights and MACs, above 1 where widths may grow.
    """

    rule: str
    densities: Mapping[str, float] | None = None

    @property
    def budgeted(self) -> bool:
        """Given densities alone say how large the network is."""
        return not self.densities

    def solver(self, network: Network) -> Solver:
        """The same with checked densities.

        Raises:
            PrecropError: no such rule, or densities of layers that are not there.
        """
        check_known(f"rule={self.rule!r}", self.rule, RULES)
        return replace(self, densities=checked(self.densities, network)) if self.densities else self

    def __call__(self, problem: Program) -> Solution:
        """Follow the rule; whole units then come as close to it as the budgets allow."""
        structure, choices = problem.structure, problem.choices
        expand = bool((choices.upper > choices.units).any())
        targets = self.densities or _best_densities(structure, problem.limits, expand)
        return shaped(problem, np.log(self._wanted(structure, targets)), targets)

    def _wanted(self, structure: Structure, targets: Mapping[str, float]) -> Floats:
        asked: list[list[float]] = [[] for _ in structure.groups]
        for layer in structure.layers:
            density = targets.get(layer.name, 1.0)
            share = math.sqrt(density) if layer.inputs and layer.outputs else density
            for group in {*layer.inputs, *layer.outputs}:
                asked[group].append(share)
        return np.array([RULES[self.rule](ratios) if ratios else 1.0 for ratios in asked])


def _best_densities(
    structure: Structure, limits: Mapping[str, int], expand: bool
) -> dict[str, float]:
    """SynExp's densities when every budget is the same share of the layers' own cost."""
    costs = layer_costs(structure.layers)
    shares = {
        name: limits[name] / structure.costs[name](structure.units) * costs[name].sum()
        for name in costs
        if name in limits
    }
    if not shares:
        raise PrecropError("rule= needs a budget of params or of macs to find densities")
    found = closed_form(costs, shares, expand)
    return {layer.name: float(p) for layer, p in zip(structure.layers, found, strict=True)}
