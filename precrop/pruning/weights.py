"""Scores that need only the weights: magnitude and random."""

import torch
from torch import Tensor

from precrop.pruning.problem import Problem, generator


def magnitude(problem: Problem) -> dict[str, Tensor]:
    """``|w|``, ranked over the whole network.

    Follows the global magnitude of SynFlow's code (Tanaka et al. 2020); Han et al. (1506.02626)
    rank each layer on its own instead, which is `uniform` with masks by these scores.
    """
    return {name: weight.abs() for name, weight in problem.weights().items()}


def random(problem: Problem) -> dict[str, Tensor]:
    """A uniform random number per weight: every layer keeps nearly the same share.

    Follows SynFlow's code, but for the distribution (there normal): a ranking is the same.
    """
    return {
        name: torch.rand(
            weight.shape, generator=generator(problem.seed, name), dtype=torch.float32
        ).to(weight.device)
        for name, weight in problem.weights().items()
    }
