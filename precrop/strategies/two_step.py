"""Densities first, then channels: a reconstruction of the paper's two steps."""

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
"""How a width follows from the shares that its layers ask for."""


@dataclass(frozen=True)
class TwoStep(Strategy):
    """Densities first, then channels: the paper's two steps, reconstructed.

    A layer of density p asks for the share sqrt(p) at both ends, or for p where only one end can
    change or both are one. A width takes the minimum, maximum or geometric mean of what its layers
    ask for; one factor then scales all widths until a budget is used up.

    Attributes:
        rule: a name in `RULES`.
        densities: densities by layer name. By default those that maximise SynExp within the same
            shares of the layers' weights and MACs, above 1 where widths may grow.
    """

    rule: str
    densities: Mapping[str, float] | None = None

    @property
    def budgeted(self) -> bool:
        """Whether the strategy needs a budget: given densities alone determine the size."""
        return not self.densities

    def solver(self, network: Network) -> Solver:
        """Return this strategy with checked densities.

        Raises:
            PrecropError: the rule is unknown, or densities are as `Match` refuses them.
        """
        check_known(f"rule={self.rule!r}", self.rule, RULES)
        return replace(self, densities=checked(self.densities, network)) if self.densities else self

    def __call__(self, problem: Program) -> Solution:
        """Follow the rule; rounding then comes as close to its widths as the budgets allow."""
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
    """Return SynExp's densities if every budget is the same share of the layers' own cost."""
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
