"""Regret: how far is the plan's network behind the best one within two budgets?"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from precrop.evidence.candidates import WIDEST, Candidate, chosen_widths
from precrop.evidence.nats import FiveWidths, Floats, FreeWidths, Integers, Table
from precrop.evidence.sizes import FEWEST, of_size
from precrop.models.nats import NatsNetwork

BUDGETS = 300
FEW_BUDGETS = 20
"""Number of budgets for slow candidates, such as SynFlow or the exact objective: a second each."""


def drawn_budgets(table: Table, count: int) -> list[tuple[int, int]]:
    """Return parameters and MACs of networks drawn at random, if enough others have their size."""
    rows = np.random.default_rng(0).permutation(len(table.params))
    drawn = ((int(table.params[row]), int(table.macs[row])) for row in rows)
    return list(islice((pair for pair in drawn if len(of_size(table, *pair)) >= FEWEST), count))


def regret(
    table: Table, strategy: Candidate, count: int, kind: type[NatsNetwork] = FiveWidths
) -> Iterator[dict[str, Any]]:
    """Yield, for each pair of budgets, how far the strategy's network is behind the best one."""
    name = strategy.name + (", widths inside cells free" if kind is FreeWidths else "")
    for budget, (params, macs) in enumerate(drawn_budgets(table, count)):
        widths = chosen_widths(
            table.data_set, WIDEST, strategy, kind=kind, params=params, macs=macs
        )
        if widths is not None:
            yield {"budget": budget, **_outcome(table, name, params, macs, widths[None])}


def baselines(table: Table, count: int) -> Iterator[dict[str, Any]]:
    """Yield the regret without a plan: of the average network of that size, and of the largest."""
    for budget, (params, macs) in enumerate(drawn_budgets(table, count)):
        same = table.widths[of_size(table, params, macs)]
        outcome = _outcome(table, "any network of the size", params, macs, same)
        yield {"budget": budget, **outcome}
        within = np.flatnonzero((table.params <= params) & (table.macs <= macs))
        for name, cost in (("most parameters", table.params), ("most MACs", table.macs)):
            largest = table.widths[within[cost[within].argmax()]]
            yield {"budget": budget, **_outcome(table, name, params, macs, largest[None])}


def _outcome(
    table: Table, name: str, params: int, macs: int, chosen: Integers | Floats
) -> dict[str, Any]:
    """Return the mean accuracy of choices, shape (networks, 5), relative to what was possible."""
    within = (table.params <= params) & (table.macs <= macs)
    same = table.smooth[of_size(table, params, macs)]
    accuracy = table.surface(chosen).mean()
    return {
        "data set": table.data_set.name,
        "strategy": name,
        "regret": table.smooth[within].max() - accuracy,
        "raw regret": table.raw[within].max() - table.measured(chosen).mean(),
        "over its size": accuracy - same.mean(),
        "beats": (same < accuracy).mean(),
    }
