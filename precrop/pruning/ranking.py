"""Global ranking: keep the weights with the highest scores in the whole network.

The threshold is searched among all floating-point numbers, so budgets are met to within one weight,
whatever they count. Where not all weights of equal score fit, every layer keeps the same share of
its own, the first ones, so the result does not depend on the order in which layers run.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from precrop.errors import BudgetError, PrecropError, check_values
from precrop.pruning.problem import Problem
from precrop.solve.structure import Layer

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_SAMPLES = 10_000
"""Size of the sample from which a threshold is guessed; as few scores are sorted instead."""


@dataclass(frozen=True)
class Price:
    """One budget: the cost of a single weight of each layer, and the limit on the total."""

    name: str
    each: Mapping[str, int | Fraction]
    limit: float

    def room(self, counts: Mapping[str, int]) -> float | Fraction:
        """Return exactly what is left if layers keep ``counts`` weights."""
        return self.limit - sum(self.each[name] * count for name, count in counts.items())


def kept_weights(
    problem: Problem, scores: Mapping[str, Tensor], limits: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Return masks (bool tensors) of the weights that remain, by layer name.

    A layer in which every weight ranks too low has collapsed; it keeps its best weight, so that
    every density is above zero. `outranked` finds such layers.

    Args:
        problem: the problem with the layers and the budgets.
        scores: tensors of the weights' shapes by layer name.
        limits: limits to use instead of the problem's.

    Raises:
        BudgetError: a budget has no room for one weight per layer.
        PrecropError: a score is not finite.
    """
    double = any(values.dtype == torch.float64 for values in scores.values())
    dtype = torch.float64 if double else torch.float32
    keys = {name: _ordered(name, scores[name].to(dtype)) for name in sorted(scores)}
    prices = _prices(problem, limits or problem.limits)
    threshold, tied = _threshold(keys, prices)
    masks = {name: key >= threshold for name, key in keys.items()}
    for name, mask in masks.items():
        if not mask.any():
            mask.view(-1)[keys[name].argmax()] = True
    places = {
        name: ((keys[name] == threshold - 1) & ~masks[name]).view(-1).nonzero().view(-1)
        for name in tied
    }
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    fitting = _fitting({name: len(new) for name, new in places.items()}, counts, prices)
    for name, count in fitting.items():
        masks[name].view(-1)[places[name][:count]] = True
    return {name: masks[name] for name in scores}


def shares(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of its weights that each layer's mask keeps."""
    return {name: int(mask.sum()) / mask.numel() for name, mask in masks.items()}


def outranked(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[str]:
    """Return collapsed layers: their single weight that remains scores below a pruned one."""
    pruned = [scores[name][~mask].max() for name, mask in masks.items() if not mask.all()]
    best = max(map(float, pruned), default=-math.inf)
    return [
        name
        for name, mask in masks.items()
        if mask.numel() > 1 and int(mask.sum()) == 1 and float(scores[name][mask]) < best
    ]


def _ordered(name: str, scores: Tensor) -> Tensor:
    """Return integers in the order of the scores: the floats' bits, flipped for negative ones."""
    check_values(f"the score of {name}", scores)
    scores = scores.detach().contiguous()
    least, most = torch.aminmax(scores)
    if not (least.isfinite() and most.isfinite()):
        raise PrecropError(
            f"the scores of {name} are not all finite: the loss or a gradient is not a number"
        )
    if least >= 0:
        return scores.abs().view(_BITS[scores.dtype])  # abs makes -0.0 equal 0.0
    bits = (scores + 0.0).view(_BITS[scores.dtype])  # and so does adding 0.0
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _prices(problem: Problem, limits: Mapping[str, float]) -> list[Price]:
    """Return the budgets, refusing one without room for a weight in each layer."""
    per_weight: dict[str, dict[str, int | Fraction]] = {
        "params": dict.fromkeys(problem.layers, 1),
        "macs": {name: _quotient(layer) for name, layer in problem.layers.items()},
    }
    prices = [Price(name, per_weight[name], limit) for name, limit in limits.items()]
    for price in prices:
        least = sum(price.each.values())
        if least > price.limit:
            raise BudgetError(
                f"{price.name}={price.limit:.0f} has no room for one weight in each of the "
                f"{len(problem.layers)} layers: that takes {math.ceil(least)}"
            )
    return prices


def _quotient(layer: Layer) -> int | Fraction:
    """Return the multiply-accumulates per weight, exactly."""
    whole, rest = divmod(layer.macs, layer.weights)
    return Fraction(layer.macs, layer.weights) if rest else whole


def _fits(counts: Mapping[str, int], prices: Sequence[Price]) -> bool:
    """Return whether these counts, but at least one weight per layer, are within all budgets."""
    least = {name: max(1, count) for name, count in counts.items()}
    return all(price.room(least) >= 0 for price in prices)


def _fitting(
    tied: Mapping[str, int], counts: Mapping[str, int], prices: Sequence[Price]
) -> dict[str, int]:
    """Return how many of each layer's tied weights fit in the budgets beside the kept ones.

    Tied weight r (from 0) of n in a layer ranks at (r + 1/2) / n, so that layers keep equal shares;
    of equal ranks the first layer's comes first. Weights are taken in this order while they fit;
    once the next is too expensive, cheaper ones of other layers use up the rest.
    """
    sizes = list(tied.values())
    ranks = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes] or [np.zeros(0)])
    owners = np.repeat(np.arange(len(sizes)), sizes)[np.argsort(ranks, kind="stable")]

    def first(number: int) -> dict[str, int]:
        found = np.bincount(owners[:number], minlength=len(sizes)).tolist()
        return dict(zip(tied, found, strict=True))

    def passes(number: int) -> bool:
        more = first(number)
        return not _fits({name: n + more.get(name, 0) for name, n in counts.items()}, prices)

    fitting = first(bisect_left(range(len(owners) + 1), True, key=passes) - 1)
    for name, most in tied.items():
        kept = {other: n + fitting.get(other, 0) for other, n in counts.items()}
        each = [(price.room(kept), price.each[name]) for price in prices]
        more = [math.floor(room / cost) for room, cost in each if cost]
        fitting[name] = min([most, *(fitting[name] + max(0, n) for n in more)])
    return fitting


def _threshold(keys: Mapping[str, Tensor], prices: Sequence[Price]) -> tuple[int, list[str]]:
    """Return the lowest key from which on all weights fit, and the layers with keys just below it.

    As in quickselect, each round looks only at keys between the bounds.
    """
    above = dict.fromkeys(keys, 0)
    between = {name: key.reshape(-1) for name, key in keys.items()}
    low = min(int(key.min()) for key in between.values())
    high = max(int(key.max()) for key in between.values()) + 1
    if _fits({name: len(key) for name, key in between.items()}, prices):
        return low, []
    # Invariant: with threshold `low` too many weights would remain, with `high` they fit.
    while high - low > 1 and sum(map(len, between.values())) > _SAMPLES:
        for guess in _guesses(above, between, prices):
            bound = min(max(guess, low + 1), high - 1)
            kept = {name: key >= bound for name, key in between.items()}
            counts = {name: above[name] + int(kept[name].count_nonzero()) for name in kept}
            if _fits(counts, prices):
                high, above = bound, counts
                between = {name: key[~kept[name]] for name, key in between.items()}
                break
            low, between = bound, {name: key[kept[name]] for name, key in between.items()}
    if high - low > 1:
        high, between = _settled(above, between, prices)
    return high, [name for name, key in between.items() if len(key)]


def _settled(
    above: Mapping[str, int], between: Mapping[str, Tensor], prices: Sequence[Price]
) -> tuple[int, dict[str, Tensor]]:
    """Find the threshold among few keys by bisection; also return the keys just below it."""
    ordered = {name: key.sort().values.cpu().numpy() for name, key in between.items()}
    keys = np.unique(np.concatenate(list(ordered.values()))).tolist()

    def fits(key: int) -> bool:
        counts = {n: above[n] + len(o) - int(np.searchsorted(o, key)) for n, o in ordered.items()}
        return _fits(counts, prices)

    below = keys[bisect_left(keys, True, key=fits) - 1]  # at the lowest key too many remain
    return below + 1, {name: key[key == below] for name, key in between.items()}


def _guesses(
    above: Mapping[str, int], between: Mapping[str, Tensor], prices: Sequence[Price]
) -> tuple[int, int]:
    """Guess from a sample a key a little below the threshold and one a little above it."""
    stride = max(1, sum(map(len, between.values())) // _SAMPLES)
    samples = {name: key[::stride].cpu().numpy() for name, key in between.items()}
    keys = np.concatenate(list(samples.values()))
    order = np.argsort(-keys, kind="stable")
    used = np.zeros(len(keys))
    for price in prices:
        costs = np.concatenate([np.full(len(s), float(price.each[n])) for n, s in samples.items()])
        taken = stride * np.cumsum(costs[order])
        used = np.maximum(used, taken / max(float(price.room(above)), 1e-300))
    place, margin = int(np.searchsorted(used, 1.0)), 2 * int(len(keys) ** 0.5)
    last = len(keys) - 1
    return (
        int(keys[order[min(place + margin, last)]]),
        int(keys[order[min(max(place - margin, 0), last)]]),
    )
