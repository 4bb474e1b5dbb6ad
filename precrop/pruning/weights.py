"""Scores that need only the weights: magnitude and random."""

import torch
from torch import Tensor

from precrop.pruning.problem import Problem, generator


def magnitude(problem: Problem) -> dict[str, Tensor]:
    """``|w|``, ranked over the whole network.

    This is global magnitude pruning as in SynFlow's code (Tanaka et al. 2020). Han et al.
    (1506.02626) rank each layer on its own, which is `uniform` with masks by these scores.
    """
    return {name: weight.abs() for name, weight in problem.weights().items()}


def random(problem: Problem) -> dict[str, Tensor]:
    """A uniform random number per weight: every layer keeps nearly the same share.

    As in SynFlow's code, which draws from a normal distribution: the ranking is just as random.
    """
    return {
        name: torch.rand(
            weight.shape, generator=generator(problem.seed, name), dtype=torch.float32
        ).to(weight.device)
        for name, weight in problem.weights().items()
    }
