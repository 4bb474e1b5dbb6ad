"""SynFlow: scores without data that avoid layer collapse by iterative pruning."""

from collections.abc import Mapping

import torch
from torch import Tensor

from precrop.errors import PrecropError, check_values
from precrop.linear.replay import Flow, Replay, Weight
from precrop.pruning.problem import Problem
from precrop.pruning.ranking import kept_weights


def synflow(problem: Problem, *, rounds: int = 100) -> dict[str, Tensor]:
    """``|w| dR/d|w|``, scored and pruned in many rounds (``rounds``).

    Tanaka et al. 2020 (2006.05467), Algorithm 1: after round k of n at density d,
    ``int((1 - d ** (k / n)) * N)`` of N weights are pruned, as in the official code. The last
    scores then keep no more than the budget, where the code's count rounds up. Weights pruned
    before the last round score zero. All scores are scaled by a common positive factor, so that
    nothing overflows in deep networks.

    The official code runs batch norms in eval mode, adds the biases' absolute values and lets
    activations such as ReLU6 saturate; here all of them are left out (`precrop.linear.readings`),
    as in the paper's formula. At initialization the difference is a factor of 1 / sqrt(1 + 1e-5)
    a norm, but networks with ReLU6 or gates are scored, too. A max-pool stays one, as in the code.
    The layers that compute a gate (squeeze-and-excitation) score zero, since it counts as one.

    Rounds compound: after many of them the masks of float32 and float64 differ in far more weights
    than after one.

    Args:
        problem: the network and its budgets.
        rounds: number of rounds; the code's default is 1, the paper's experiments take 100.

    Raises:
        PrecropError: the network multiplies activations, as attention does; R is zero because all
            weights of a layer are; or weights are not finite.
    """
    if type(rounds) is not int or rounds < 1:
        raise PrecropError(f"rounds={rounds!r} makes no sense: write a whole number from 1 up")
    replay = Replay(problem.network, average_pool=False)
    weights, others = _magnitudes(problem.weights()), _magnitudes(problem.others())
    names = problem.parameters

    def scored(weights: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        own = {names[layer]: weights[layer] for layer in weights}
        total, found = saliency(replay, own | others)
        return float(total.values), {layer: found[names[layer]] for layer in weights}

    total, scores = scored(weights)
    if total == 0:
        zero = ", ".join(name for name, weight in weights.items() if not weight.any())
        why = f"all weights of {zero} are zero" if zero else "zeros lie on every path"
        raise PrecropError(f"SynFlow scores nothing: {why}")
    totals = {name: problem.totals[name] for name in problem.limits}
    for done in problem.progress(range(1, rounds), "SynFlow", rounds - 1):
        shares = {name: problem.share(name) ** (done / rounds) for name in totals}
        limits = {name: n - int((1.0 - shares[name]) * n) for name, n in totals.items()}
        kept = kept_weights(problem, scores, limits)
        weights = {name: weight * kept[name] for name, weight in weights.items()}
        total, found = scored(weights)
        if total == 0:  # no path is left: return the last scores that are not all zero
            return {name: score * kept[name] for name, score in scores.items()}
        scores = found
    return scores


def saliency(replay: Replay, weights: Mapping[str, Tensor]) -> tuple[Flow, dict[str, Tensor]]:
    """Return R and every weight's ``|w| dR/d|w|``, the latter without R's power of two.

    Args:
        replay: the replay of a network.
        weights: non-negative weights by parameter name.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with torch.enable_grad():
        total = replay({name: Weight(leaf) for name, leaf in leaves.items()})
        found = torch.autograd.grad(total.values, list(leaves.values()), materialize_grads=True)
    scores = {name: weights[name] * slope for name, slope in zip(leaves, found, strict=True)}
    return Flow(total.values.detach(), total.exponent), scores


def _magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return absolute weights as float32 or float64: half precision would overflow at 65504."""
    found = {}
    for name, weight in weights.items():
        check_values(name, weight)
        values = weight.abs()
        found[name] = values if values.dtype == torch.float64 else values.float()
    return found
