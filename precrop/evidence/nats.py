"""NATS-Bench's size search space, in which the accuracy of every choice of widths is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch import Tensor, nn

from precrop.errors import MALFORMED, PrecropError, errors_as
from precrop.files import checked_path, read_parquet
from precrop.models.nats import STAGES, NatsCell, NatsNetwork, NatsReduction, projection
from precrop.read.inputs import Inputs
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.solve.structure import Structure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FILE = "nats-sss.parquet"
STEP = 8
"""All widths in the table are multiples of this."""
MOST_BYTES = 2**26
"""Limit on the table in memory; it has 8^5 rows of 14 numbers."""
DEGREE = 4
"""Degree of the surface that is fitted to the accuracies, a polynomial in the log widths."""


@dataclass(frozen=True)
class DataSet:
    """One of the three data sets that the networks were trained on."""

    name: str
    num_classes: int
    input_shape: tuple[int, int, int]


DATA_SETS = (
    DataSet("cifar10", 10, (3, 32, 32)),
    DataSet("cifar100", 100, (3, 32, 32)),
    DataSet("imagenet16_120", 120, (3, 16, 16)),
)


@dataclass(frozen=True)
class Table:
    """All networks of the space on one data set."""

    data_set: DataSet
    widths: Integers  # channels, shape (networks, 5)
    params: Integers  # shape (networks,)
    macs: Integers  # multiply-accumulates of one image, shape (networks,)
    raw: Floats  # top-1 accuracy in percent of each network's single run, shape (networks,)

    @cached_property
    def smooth(self) -> Floats:
        """Accuracies without the noise of single runs: the fitted surface at every network."""
        return self.surface(self.widths)

    @cached_property
    def _coefficients(self) -> Floats:
        found, *_ = np.linalg.lstsq(_monomials(self.widths), self.raw, rcond=None)
        return np.asarray(found, float)

    @property
    def noise(self) -> float:
        """Standard deviation of raw accuracies around the surface, in percentage points."""
        freedom = len(self.raw) - len(self._coefficients)
        return float(np.sqrt(((self.raw - self.smooth) ** 2).sum() / freedom))

    def surface(self, widths: Integers | Floats) -> Floats:
        """Return the fitted surface's accuracies at any widths, shape (networks, 5)."""
        return _monomials(widths) @ self._coefficients

    def measured(self, widths: Integers | Floats) -> Floats:
        """Return raw accuracies at widths, shape (networks, 5); NaN where the table lacks them."""
        rows = [self._rows.get(tuple(map(float, row))) for row in widths]
        return np.array([np.nan if row is None else self.raw[row] for row in rows])

    @cached_property
    def _rows(self) -> dict[tuple[float, ...], int]:
        return {tuple(map(float, row)): index for index, row in enumerate(self.widths)}


def _monomials(widths: Integers | Floats) -> Floats:
    """Return all products of up to `DEGREE` centred log widths, shape (networks, monomials)."""
    logs = np.log(np.asarray(widths, float) / 32)
    powers = [
        power
        for degree in range(DEGREE + 1)
        for power in combinations_with_replacement(range(STAGES), degree)
    ]
    ones = np.ones(len(logs))
    return np.stack([prod((logs[:, i] for i in power), start=ones) for power in powers], 1)


def load_tables(path: Path) -> list[Table]:
    """Load the tables of all data sets.

    Args:
        path: the Parquet file, its folder, or the folder that holds ``nats-sss/`` with it.

    Raises:
        PrecropError: there is no such file, or it has other columns.
    """
    places = [path, path / FILE, path / "nats-sss" / FILE]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise PrecropError(f"{path} holds no {FILE}: give its folder with --data")
    failure = f"{found} is not the size space of NATS-Bench"
    with errors_as(failure, OSError, pa.ArrowException, *MALFORMED):
        file = pq.ParquetFile(checked_path(found))
        table = read_parquet(file, file.schema_arrow.names, MOST_BYTES)
        frame = table.replace_schema_metadata(None).to_pandas()
        widths = frame[[f"c{i}" for i in range(STAGES)]].to_numpy(np.int64)
        return [
            Table(
                data_set,
                widths,
                frame[f"params_{data_set.name}"].to_numpy(np.int64),
                frame[f"macs_{data_set.name}"].to_numpy(np.int64),
                frame[f"accuracy_{data_set.name}"].to_numpy(np.float64),
            )
            for data_set in DATA_SETS
        ]


class FreeCell(NatsCell):
    """A cell that has a projection even between equal widths."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.skip = projection(inputs, outputs)


class TiedCell(FreeCell):
    """A cell whose three nodes share one width, as in the table: a sum times zero ties them."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H, W)``."""
        first, second, third = self.nodes(x)
        return third + 0 * (first + second)


class TiedReduction(NatsReduction):
    """A reduction whose hidden map and output share one width, as in the table."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H/2, W/2)``."""
        hidden, out = self.nodes(x)
        return out + 0 * hidden


class FreeWidths(NatsNetwork):
    """A network of the space whose cells may have other widths inside than at their ends.

    Later cells have a projection even if both ends have the same width, so that five widths can be
    chosen at the ends; the first cell, whose ends always have the same width, has none.
    """

    cell = FreeCell

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        self.cell_1.skip = nn.Identity()


class FiveWidths(FreeWidths):
    """A network of the space in which only the table's five widths can be chosen."""

    cell = TiedCell
    reduction = TiedReduction


def structure(data_set: DataSet, widths: Sequence[int]) -> Structure:
    """Return the groups, layers and costs of a network whose five widths are to be chosen."""
    network = FiveWidths(widths, data_set.num_classes)
    return lower(read_network(network, Inputs(data_set.input_shape))).structure
