"""Gain: how far is a plan ahead of uniform width, and how far could it be?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from precrop.evidence.candidates import UNIFORM, WIDEST, Candidate, chosen_widths
from precrop.evidence.nats import DataSet, Floats, Table, structure

SENSIBLE = {
    "flat 32": (32, 32, 32, 32, 32),
    "flat 48": (48, 48, 48, 48, 48),
    "flat 64": (64, 64, 64, 64, 64),
    "doubling": (16, 32, 32, 64, 64),
    "pyramid": (16, 24, 32, 48, 64),
    "gentle pyramid": (32, 40, 48, 56, 64),
}
"""Base networks of the kind that people design: never narrower towards the output."""
ILL_SHAPED = {
    "inverted": (64, 48, 32, 24, 16),
    "halving": (64, 32, 32, 16, 16),
    "gently inverted": (64, 56, 48, 40, 32),
    "zigzag": (64, 16, 64, 16, 64),
    "other zigzag": (16, 64, 16, 64, 16),
    "waist": (64, 48, 16, 48, 64),
}
"""Base networks that nobody should design."""
SHARES = (0.4, 0.6, 0.8)
PRECONFIG = {"both whole": (1.0, 1.0), "80% of the parameters": (0.8, 1.0)}


@dataclass(frozen=True)
class Case:
    """One base network with budgets, as shares of its own costs."""

    kind: str
    shape: str
    base: tuple[int, ...]
    budgets: Mapping[str, float]
    label: str
    expand: bool


def cases() -> Iterator[Case]:
    """Yield every shape with every budget: MACs, parameters or both if cropped, and PreConfig's."""
    for kind, shapes in (("sensible", SENSIBLE), ("ill-shaped", ILL_SHAPED)):
        for shape, base in shapes.items():
            for share in SHARES:
                both = {"params": share, "macs": share}
                yield Case(kind, shape, base, both, "both", False)
                yield Case(kind, shape, base, {"macs": share}, "MACs alone", False)
                yield Case(kind, shape, base, {"params": share}, "parameters alone", False)
            for label, (params, macs) in PRECONFIG.items():
                budgets = {"params": params, "macs": macs}
                yield Case(kind, shape, base, budgets, f"PreConfig, {label}", True)


def gains(table: Table, strategy: Candidate, chosen: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Yield a strategy's gain over uniform width at the same budgets, and the possible gain.

    PreConfig is compared with the base network itself. Plans with widths beyond 64, which the table
    lacks, are left out.
    """
    for case in chosen:
        asked: dict[str, Any] = {**case.budgets, "expand": case.expand}
        ours = chosen_widths(table.data_set, case.base, strategy, **asked)
        other: Floats | None = np.array(case.base, float)
        if not case.expand:
            other = _uniform_widths(table.data_set, case.base, tuple(case.budgets.items()))
        if ours is None or other is None or ours.max() > max(WIDEST):
            continue
        best = table.widths[_best(table, case)]
        widths = np.stack([ours, other, best])
        smooth, raw = table.surface(widths), table.measured(widths)
        yield {
            "data set": table.data_set.name,
            "strategy": strategy.name,
            "kind": case.kind,
            "shape": case.shape,
            "budgets": case.label,
            "share": min(case.budgets.values()),
            "gain": smooth[0] - smooth[1],
            "possible": smooth[2] - smooth[1],
            "raw gain": raw[0] - raw[1],
            "raw possible": raw[2] - raw[1],
        }


@lru_cache(maxsize=1000)
def _uniform_widths(
    data_set: DataSet, base: tuple[int, ...], budgets: tuple[tuple[str, float], ...]
) -> Floats | None:
    """Return the widths by the uniform rule, once for all strategies that are compared with it."""
    asked: dict[str, Any] = dict(budgets)
    return chosen_widths(data_set, base, Candidate(UNIFORM, {"rule": "uniform"}), **asked)


_structure = lru_cache(maxsize=100)(structure)


def _best(table: Table, case: Case) -> int:
    """Return the row of the network with the highest smooth accuracy that a plan could choose."""
    known = _structure(table.data_set, case.base)
    allowed = np.ones(len(table.params), bool)
    for name, share in case.budgets.items():
        allowed &= getattr(table, name) <= int(share * known.costs[name](known.units))
    if not case.expand:
        allowed &= (table.widths <= np.array(case.base)).all(1)
    return int(np.flatnonzero(allowed)[table.smooth[allowed].argmax()])
