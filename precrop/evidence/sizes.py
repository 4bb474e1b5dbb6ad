"""Networks of one size, among those whose accuracies are known."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from numpy.typing import NDArray

from precrop.errors import PrecropError
from precrop.evidence.nats import Table

BAND = 0.03
"""Networks whose parameters and MACs differ by no more than this count as of one size."""
FEWEST = 10
"""Networks that a band must have, and that must lie just within a pair of budgets."""


def bands(table: Table) -> list[NDArray[np.int64]]:
    """Return groups of networks of one size: cells of a `BAND` grid in log parameters and MACs.

    Raises:
        PrecropError: the table has too few networks for one band.
    """
    cells = pd.DataFrame(np.floor(np.log(np.stack([table.params, table.macs], 1)) / BAND))
    of_cells = sorted(cells.groupby([0, 1]).indices.items())
    found = [band for _, band in of_cells if len(band) >= FEWEST]
    if not found:
        raise PrecropError(
            f"too few networks to judge by: of {len(cells):,} on {table.data_set.name} no {FEWEST} "
            f"are of one size, within {BAND:.0%} in parameters and in MACs"
        )
    return found


def of_size(table: Table, params: int, macs: int) -> NDArray[np.int64]:
    """Return the networks just within both budgets."""
    within = (table.params <= params) & (table.macs <= macs)
    close = (table.params >= (1 - BAND) * params) & (table.macs >= (1 - BAND) * macs)
    return np.flatnonzero(within & close)
