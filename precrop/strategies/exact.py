"""Maximise the paper's SynExp itself, or the expected output."""

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
"""Most rounds of one climb; in practice it takes few."""
CLIMBED = 1e-7
"""Growth of the objective below which a climb ends."""
EXACT: dict[str, type[Expectation]] = {"exact": ScoreExpectation, "exact-output": Expectation}
"""The expectation that each objective maximises."""


@dataclass(frozen=True)
class Exact(Strategy):
    """Maximise log SynExp itself, or log E[R], instead of the sum of the log densities.

    Both differ from that sum in networks with branches. They depend on the network's weights.

    Attributes:
        objective: ``exact`` for the expected sum of all scores, as in the paper, or
            ``exact-output`` for the expected output E[R].
        balance: weight of the balance term.
    """

    objective: str = "exact"
    balance: float = BALANCE
    rule = "balanced"
    follows_every_call = True  # every step of a recurrent layer multiplies scores

    def solver(self, network: Network) -> Solver:
        """Return the climb for this network.

        Raises:
            PrecropError: the objective is unknown, or the network has no linear reading.
        """
        check_known(f"objective={self.objective!r}", self.objective, EXACT)
        return partial(climb, EXACT[self.objective](network))


def climb(expectation: Expectation, problem: Program) -> Solution:
    """Maximise an expectation by a sequence of tangent programs (minorise and maximise).

    The logarithm of the expectation is convex in the log densities, so its tangent lies below it:
    solving the program with the gradient at the last solution as layer weights never lowers it and
    ends where no small change helps. That need not be the maximum, so the better of two starts
    counts: the optimum of the sum of log densities, and that of the dense network's tangent.
    Weights are scaled to have mean 1 at the first start, as in the program.
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
        """Return the program whose objective is tangent to the exact one at ``x``."""
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
    """Solve tangent programs while the value grows; return the last allocation and the rounds."""
    allocation, reached = start, value(start.log_ratios)
    for rounds in range(MOST_ROUNDS):
        better = allocate(tangent(allocation.log_ratios))
        climbed = value(better.log_ratios)
        if climbed <= reached + CLIMBED:
            return allocation, rounds
        allocation, reached = better, climbed
    return allocation, MOST_ROUNDS
