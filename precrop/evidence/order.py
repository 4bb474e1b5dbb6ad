"""Order: among networks of one size, does a larger objective go with a higher accuracy?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from precrop.evidence.candidates import CONTROLS, WIDEST, fixed_network
from precrop.evidence.intervals import interval
from precrop.evidence.nats import FiveWidths, Floats, Integers, Table, structure
from precrop.evidence.sizes import bands
from precrop.linear.expected import Expectation
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.program import end_shares, program
from precrop.strategies.exact import EXACT
from precrop.strategies.objectives import OBJECTIVES

EXACT_BANDS = 60
"""Number of bands for the exact objectives, which take hundredths of a second per network."""


def objective_values(table: Table) -> dict[str, Floats]:
    """Return, per network, all objectives that weigh layers, and its parameters and MACs."""
    whole = structure(table.data_set, WIDEST)
    x = _log_ratios(table)
    values = {"params": table.params.astype(float), "macs": table.macs.astype(float)}
    for name, weights in {**OBJECTIVES, **CONTROLS}.items():
        problem = program(whole, {}).weighed(weights(whole))
        values[name] = x @ problem.gain
        if name == "synexp":
            penalty = (x * (problem.penalty @ x.T).T).sum(1)
            values["synexp with its balance"] = values[name] - penalty
    return values


def exact_values(table: Table, rows: Integers) -> dict[str, Floats]:
    """Return log SynExp and log E[R] of the networks in these rows, and NaN for others."""
    network = read_network(
        fixed_network(FiveWidths, WIDEST, table.data_set.num_classes),
        Inputs(table.data_set.input_shape),
    )
    known = lower(network).structure
    densities = _log_ratios(table)[rows] @ sum(end_shares(known)).T
    kinds: dict[str, type[Expectation]] = EXACT
    values = {name: np.full(len(table.params), np.nan) for name in kinds}
    for name, kind in kinds.items():
        expectation = kind(network)
        values[name][rows] = [expectation.value(row) for row in densities]
    return values


def _log_ratios(table: Table) -> Floats:
    """Return log ratios of every network's widths to the widest ones, shape (networks, 5)."""
    return np.asarray(np.log(table.widths / np.array(WIDEST)), float)


def order(table: Table) -> Iterator[dict[str, Any]]:
    """Yield objectives' rank correlations with accuracy: the mean over bands and its interval."""
    yield from _ordered(table, objective_values(table), bands(table))


def exact_order(table: Table) -> Iterator[dict[str, Any]]:
    """Yield the same for the exact objectives, and for SynExp, on a few bands drawn at random."""
    found = bands(table)
    drawn = np.random.default_rng(0).permutation(len(found))[:EXACT_BANDS]
    chosen = [found[index] for index in sorted(drawn)]
    values = exact_values(table, np.concatenate(chosen))
    same = {f"synexp, {len(chosen)} bands": objective_values(table)["synexp"]}
    yield from _ordered(table, values | same, chosen)


def _ordered(
    table: Table, objectives: Mapping[str, Floats], found: Sequence[NDArray[np.int64]]
) -> Iterator[dict[str, Any]]:
    accuracies = {"smooth": table.smooth, "raw": table.raw}
    for objective, values in objectives.items():
        row: dict[str, Any] = {"data set": table.data_set.name, "objective": objective}
        for kind, accuracy in accuracies.items():
            pairs = [(values[band], accuracy[band]) for band in found]
            rho = np.array([spearmanr(a, b).statistic for a, b in pairs])
            tau = np.array([kendalltau(a, b).statistic for a, b in pairs])
            row |= interval(f"rho {kind}", rho) | {f"tau {kind}": float(np.nanmean(tau))}
        yield {**row, "bands": len(found)}
