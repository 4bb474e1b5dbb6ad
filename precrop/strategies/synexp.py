"""The default strategy: the paper's objective and the balance term in one program over widths."""

from dataclasses import dataclass

from precrop.solve.program import BALANCE, Program
from precrop.solve.relax import allocate
from precrop.strategies.objectives import layer_weights
from precrop.strategies.strategy import Solution, Strategy


@dataclass(frozen=True)
class SynExp(Strategy):
    """Maximise the weighted sum of the log densities within the budgets, in one convex program.

    Attributes:
        balance: weight of the balance term, gamma in docs/method.md.
        objective: weights of the layers, by a name in `precrop.strategies.objectives.OBJECTIVES`;
            ``synexp`` weighs all layers equally (arXiv 2203.02549).
    """

    balance: float = BALANCE
    objective: str = "synexp"
    rule = "balanced"

    def __call__(self, problem: Program) -> Solution:
        """Solve the convex program.

        Raises:
            PrecropError: the objective is unknown, or its weights make no sense.
        """
        weighed = problem.weighed(layer_weights(self.objective, problem.structure))
        return Solution(weighed, allocate(weighed), weighed.value)
