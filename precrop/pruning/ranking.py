"""Which weights remain when those with the highest scores in the whole network do.

A threshold is searched among the numbers that floating point has, so budgets are met to one weight
whatever they count. Where not all of some equal scores fit, every layer that has some keeps the
same share of them, the first ones, so that nothing depends on the order in which layers run.
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
"""Scores that stand for all when a threshold is guessed."""


@dataclass(frozen=True)
class Price:
    """One budget: what a weight of every layer costs, and the most that all may cost."""

    name: str
    each: Mapping[str, int | Fraction]
    limit: float

    def room(self, counts: Mapping[str, int]) -> float | Fraction:
        """What is left when every layer keeps so many weights, exactly."""
        return self.limit - sum(self.each[name] * count for name, count in counts.items())


def kept_weights(
    problem: Problem, scores: Mapping[str, Tensor], limits: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Per layer name a bool tensor: the weights that remain.

    A layer in which every weight ranks too low has collapsed; it keeps its best weight, so that
    every density is above zero. `outranked` tells such layers.

    Args:
        problem: gives the layers and the budgets.
        scores: per layer name a tensor of the weight's shape.
        limits: other limits than the problem's.

    Raises:
        BudgetError: a budget has no room for one weight a layer.
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
    """Per layer name the share of its weights that a mask keeps."""
    return {name: int(mask.sum()) / mask.numel() for name, mask in masks.items()}


def outranked(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[str]:
    """Layers of which one weight remains that ranks below others which don't: they collapsed."""
    pruned = [scores[name][~mask].max() for name, mask in masks.items() if not mask.all()]
    best = max(map(float, pruned), default=-math.inf)
    return [
        name
        for name, mask in masks.items()
        if mask.numel() > 1 and int(mask.sum()) == 1 and float(scores[name][mask]) < best
    ]


def _ordered(name: str, scores: Tensor) -> Tensor:
    """Integers in the order of the scores: the bits of a float, those of negatives flipped."""
    check_values(f"the score of {name}", scores)
    scores = scores.detach().contiguous()
    least, most = torch.aminmax(scores)
    if not (least.isfinite() and most.isfinite()):
        raise PrecropError(
            f"the scores of {name} are not all finite: the loss or a gradient is not a number"
        )
    if least >= 0:
        return scores.abs().view(_BITS[scores.dtype])  # the absolute value of -0.0 is 0.0
    bits = (scores + 0.0).view(_BITS[scores.dtype])  # so is the sum with 0.0
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _prices(problem: Problem, limits: Mapping[str, float]) -> list[Price]:
    """The budgets, of which each has room for one weight a layer."""
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
    """Multiply-accumulates of one weight."""
    whole, rest = divmod(layer.macs, layer.weights)
    return Fraction(layer.macs, layer.weights) if rest else whole


def _fits(counts: Mapping[str, int], prices: Sequence[Price]) -> bool:
    """Whether every budget holds; each layer keeps a weight at least."""
    least = {name: max(1, count) for name, count in counts.items()}
    return all(price.room(least) >= 0 for price in prices)


def _fitting(
    tied: Mapping[str, int], counts: Mapping[str, int], prices: Sequence[Price]
) -> dict[str, int]:
    """How many of every layer's tied weights the budgets allow beside those that it keeps.

    Of n tied weights of a layer the one after the first r ranks at (r + 1/2) / n, so that layers
    keep equal shares, and of equal ranks the first layer's is first. As many fit as can from the
    first on; where the next one is too dear for what is left, cheaper ones fill it up.
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
    """The lowest key from which on all weights fit, and the layers with weights just below it.

    As in a quickselect, only keys between the bounds are looked at again.
    """
    above = dict.fromkeys(keys, 0)
    between = {name: key.reshape(-1) for name, key in keys.items()}
    low = min(int(key.min()) for key in between.values())
    high = max(int(key.max()) for key in between.values()) + 1
    if _fits({name: len(key) for name, key in between.items()}, prices):
        return low, []
    # From `low` on too many weights would remain, from `high` on few enough.
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
    """The threshold among few keys, by bisection, and the keys just below it."""
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
    """A key a little below the threshold and one a little above it, guessed from a sample."""
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
