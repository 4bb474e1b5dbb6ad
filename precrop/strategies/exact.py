"""The paper's SynExp, or the expected output, maximised themselves."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from precrop.errors import PrecropError, check_known
from precrop.linear.expected import Expectation, ScoreExpectation
from precrop.read.network import Network
from precrop.solve.program import BALANCE, Program, end_shares, mean_one
from precrop.solve.relax import Allocation, allocate
from precrop.solve.structure import Floats
from precrop.strategies.strategy import Solution, Solver, Strategy

MOST_ROUNDS = 50
"""Of the climb; it takes few."""
CLIMBED = 1e-7
"""Growth of the objective below which the climb ends."""
EXACT: dict[str, type[Expectation]] = {"exact": ScoreExpectation, "exact-output": Expectation}
"""What is maximised, by name."""


@dataclass(frozen=True)
class Exact(Strategy):
    """Maximise log SynExp itself, or log E[R], instead of the sum of the log densities.

    Both differ from that sum in networks with branches. They use the network's weights.

    Attributes:
        objective: ``exact`` for the expected sum of all scores, as the paper has it, or
            ``exact-output`` for the expected output E[R].
        balance: weight of the balance term.
    """

    objective: str = "exact"
    balance: float = BALANCE
    rule = "balanced"
    follows_every_call = True  # every step of a recurrent layer multiplies scores

    def solver(self, network: Network) -> Solver:
        """The climb on this network's scores.

        Raises:
            PrecropError: no such objective, or the network has no linear reading.
        """
        check_known(f"objective={self.objective!r}", self.objective, EXACT)
        return partial(climb, EXACT[self.objective](network))


def climb(expectation: Expectation, problem: Program) -> Solution:
    """Maximise an expectation by linear programs: slopes at the last solution are the weights.

    It is convex in the log densities, so its tangent lies below it: solving the program with the
    slopes at the last solution as weights climbs, to a point where no small change helps. That need
    not be the maximum; it is done from two starts, the optimum of the sum of log densities and the
    dense network's slopes, and the better end counts. Weights are scaled to mean 1 at the first
    start, as in the program.
    """
    ends = sum(end_shares(problem.structure))
    if expectation.value(np.zeros(ends.shape[0])) == -math.inf:
        raise PrecropError(
            "SynExp is zero whatever the widths: all weights of a layer are zero, or some are "
            "not finite"
        )
    first = allocate(problem)
    scale = mean_one(problem.structure, expectation(ends @ first.log_ratios)[1])

    def value(x: Floats) -> float:
        return scale * expectation(ends @ x)[0] - float(x @ (problem.penalty @ x))

    def tangent(x: Floats) -> Program:
        """The program whose objective touches the exact one at ``x``."""
        return replace(problem, gain=scale * (ends.T @ expectation(ends @ x)[1]))

    starts = {"synexp": first, "dense": allocate(tangent(np.zeros(len(problem.gain))))}
    climbs = {name: _climb(start, value, tangent) for name, start in starts.items()}
    reached = {name: value(end.log_ratios) for name, (end, _) in climbs.items()}
    best, _ = climbs[max(reached, key=reached.__getitem__)]
    report = {
        name: {
            "objective": reached[name],
            expectation.label: expectation(ends @ end.log_ratios)[0],
            "rounds": rounds,
        }
        for name, (end, rounds) in climbs.items()
    }
    return Solution(tangent(best.log_ratios), best, value, {}, {"starts": report})


def _climb(
    start: Allocation, value: Callable[[Floats], float], tangent: Callable[[Floats], Program]
) -> tuple[Allocation, int]:
    """Solve with the slopes at the last solution while the value grows; also how often it did."""
    allocation, reached = start, value(start.log_ratios)
    for rounds in range(MOST_ROUNDS):
        better = allocate(tangent(allocation.log_ratios))
        climbed = value(better.log_ratios)
        if climbed <= reached + CLIMBED:
            return allocation, rounds
        allocation, reached = better, climbed
    return allocation, MOST_ROUNDS
