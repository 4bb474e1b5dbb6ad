"""The ways to choose widths that are judged, and their choices in the size search space."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

import precrop
from precrop.errors import BudgetError
from precrop.evidence.nats import STEP, DataSet, FiveWidths, Floats
from precrop.models.nats import NatsNetwork
from precrop.pruning.methods import METHODS
from precrop.solve.program import Program
from precrop.solve.relax import allocate
from precrop.solve.structure import Structure
from precrop.strategies.objectives import OBJECTIVES
from precrop.strategies.strategy import Solution
from precrop.strategies.two_step import RULES as TWO_STEP

WIDEST = (64, 64, 64, 64, 64)
UNIFORM = "uniform width"


def root_macs(known: Structure) -> Floats:
    """Weigh layers by the square root of their MACs: halfway between SynExp and uniform width.

    Within a budget of MACs, the best densities give layers MACs in proportion to these weights:
    equal MACs with SynExp's equal weights, one density for all with the MACs as weights.
    """
    return np.array([layer.macs for layer in known.layers], float) ** 0.5


CONTROLS: dict[str, Callable[[Structure], Floats]] = {"root-macs": root_macs}
"""Objectives that are no longer offered, kept to show how much better others are."""


@dataclass(frozen=True)
class Control(precrop.SynExp):
    """A strategy that chooses widths by one of `CONTROLS`."""

    name: str = "root-macs"

    def __call__(self, problem: Program) -> Solution:
        """Solve the problem once, with the control's weights."""
        weighed = problem.weighed(CONTROLS[self.name](problem.structure))
        return Solution(weighed, allocate(weighed), weighed.value)


@dataclass(frozen=True)
class Candidate:
    """One way to choose widths."""

    name: str  # its name in tables
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords of `precrop.plan`
    method: str | None = None  # the method whose densities are turned into channels, if any


def strategies() -> list[Candidate]:
    """Return every objective and control, uniform width, two other balances, two-step rules."""
    objectives = [Candidate(name, {"objective": name}) for name in OBJECTIVES]
    objectives += [Candidate(name, {"strategy": Control(name=name)}) for name in CONTROLS]
    uniform = Candidate(UNIFORM, {"rule": "uniform"})
    balances = [Candidate(f"synexp, balance {b:g}", {"balance": b}) for b in (0.1, 10.0)]
    rules = [Candidate(f"rule {rule}", {"rule": rule}) for rule in TWO_STEP]
    return [*objectives, uniform, *balances, *rules]


def slow_strategies() -> list[Candidate]:
    """Return the exact objective, and data-free methods whose densities become channels."""
    names = [name for name, method in METHODS.items() if not method.needs_data]
    methods = [Candidate(f"densities of {name}", method=name) for name in names]
    return [Candidate("exact", {"objective": "exact"}), *methods]


def fixed_network(kind: type[NatsNetwork], widths: Sequence[int], num_classes: int) -> NatsNetwork:
    """Build a network with the same weights every time, as some methods look at them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(widths, num_classes)


@lru_cache(maxsize=100)
def _reading(
    kind: type[NatsNetwork], widths: tuple[int, ...], data_set: DataSet
) -> precrop.Reading:
    """Read a network once for all budgets that it is planned for."""
    return precrop.Reading(fixed_network(kind, widths, data_set.num_classes), data_set.input_shape)


def chosen_widths(
    data_set: DataSet,
    base: Sequence[int],
    strategy: Candidate,
    *,
    kind: type[NatsNetwork] = FiveWidths,
    **asked: Any,
) -> Floats | None:
    """Return the five widths of the plan, shape (5,); None if its budgets cannot be met.

    If widths inside cells are free, each of the five is the geometric mean of the output channels
    of a stage's 3x3 convolutions.

    Args:
        data_set: gives the number of classes and the size of the images.
        base: the five widths of the network that is cropped.
        strategy: how widths are chosen.
        kind: the class of the network, `FiveWidths` or `FreeWidths`.
        asked: budgets and ``expand``, as for `precrop.plan`.
    """
    reading = _reading(kind, tuple(base), data_set)  # type: ignore[arg-type] # classes have hashes
    try:
        if strategy.method is not None:
            budgets = {name: asked[name] for name in ("params", "macs") if name in asked}
            asked["densities"] = precrop.densities(
                reading.model, data_set.input_shape, method=strategy.method, **budgets
            )
        plan = precrop.plan(reading, divisor=STEP, **strategy.options, **asked)
    except BudgetError:
        return None
    stages: dict[str, list[int]] = {}
    for layer in plan.layers:
        if not layer.name.endswith("shortcut.1") and "skip" not in layer.name:
            stages.setdefault(layer.name.partition(".")[0], []).append(layer.out_channels)
    del stages["classifier"]
    stem = [*stages.pop("stem"), *stages.pop("cell_1")]
    means = [np.exp(np.log(widths).mean()) for widths in (stem, *stages.values())]
    return np.round(means, 6)
