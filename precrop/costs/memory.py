"""Predicts peak activation memory: the bytes of all tensors that are alive at once, at most.

It counts one inference pass with its inputs; parameters and buffers are not counted, nor what a
kernel allocates and frees within one call. The bytes at each moment are a polynomial of the widths
with positive coefficients; the peak is the largest of them, so each is one row of the program.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from precrop.costs.batches import at_batch
from precrop.read.axes import Tie
from precrop.read.known import Product
from precrop.read.lifetimes import INPUT, Lifetimes
from precrop.read.lower import CostModel, polynomial
from precrop.read.network import Network
from precrop.solve.structure import Cost, Peak


def memory(lives: Lifetimes) -> CostModel:
    """Return peak memory, in bytes, of a pass that `precrop.costs.batches.follow` followed."""

    def model(network: Network, index: Mapping[Tie, int]) -> Peak:
        batch = at_batch(network, lives)
        storages = []
        for life in lives.lives:
            if life.call == INPUT:
                product = Product(life.bytes * life.elements, [])
            else:
                axes = list(batch.axes(life.call, life.output))
                product = Product(life.bytes * batch.growth[life.call][life.output], axes)
            storages.append(polynomial([product], index))
        return Peak(_largest([_total(storages, alive) for alive in _moments(lives)]))

    return model


def _moments(lives: Lifetimes) -> list[list[int]]:
    """Return the storages alive at each local peak: one was just made, the next event is a release.

    The storages that are alive at any other moment are among those of one of these.
    """
    found: list[list[int]] = []
    before = INPUT - 1
    for end in sorted({*(life.last for life in lives.lives), len(lives.sizes) - 1}):
        if any(before < life.call <= end for life in lives.lives):
            alive = [i for i, life in enumerate(lives.lives) if life.call <= end <= life.last]
            found.append(alive)
            before = end
    return found


def _total(storages: Sequence[Cost], alive: Sequence[int]) -> Cost:
    terms = Counter[tuple[int, ...]]()
    for storage in alive:
        terms.update(storages[storage].terms)  # adds up
    return Cost(dict(terms))


def _largest(costs: Sequence[Cost]) -> tuple[Cost, ...]:
    """Drop costs that another one exceeds at all widths, as none of its coefficients is smaller.

    The constant counts as a coefficient, too.
    """
    keys = sorted({key for cost in costs for key in cost.terms})
    table = np.array([[cost.terms.get(key, 0) for key in keys] for cost in costs], dtype=float)
    kept: list[int] = []
    for row in np.argsort(-table.sum(axis=1), kind="stable").tolist():
        if not any((table[row] <= table[other]).all() for other in kept):
            kept.append(row)
    return tuple(costs[row] for row in sorted(kept))
