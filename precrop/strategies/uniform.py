"""Uniform width: the baseline that every method is compared with."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from precrop.solve.program import Program
from precrop.strategies.shapes import shaped
from precrop.strategies.strategy import Solution, Strategy


@dataclass(frozen=True)
class Uniform(Strategy):
    """One share of every width: a width multiplier that uses the tightest budget up."""

    def record(self) -> dict[str, Any]:
        """The rule's name."""
        return {**super().record(), "rule": "uniform"}

    def __call__(self, problem: Program) -> Solution:
        """Find the multiplier; whole units then come as close to it as the budgets allow."""
        return shaped(problem, np.zeros(len(problem.structure.groups)), {})
