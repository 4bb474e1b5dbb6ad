from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

import precrop
from precrop.errors import PrecropError
from precrop.evidence.candidates import WIDEST
from precrop.evidence.nats import DATA_SETS, FiveWidths, FreeWidths, Table, load_tables, structure
from precrop.models import nats_sss


def test_the_five_widths_are_those_of_the_table(table: Table) -> None:
    known = structure(table.data_set, WIDEST)
    assert [group.units for group in known.groups] == list(WIDEST)
    different = np.flatnonzero(
        (table.widths[:, 1] != table.widths[:, 2]) & (table.widths[:, 3] != table.widths[:, 4])
    )
    for row in different[::200]:
        units = table.widths[row].tolist()
        assert known.costs["params"](units) == table.params[row]
        assert known.costs["macs"](units) == table.macs[row]


def test_ties_add_neither_parameters_nor_macs() -> None:
    free, tied = (
        precrop.plan(kind((16, 24, 32, 40, 48), 10), (3, 32, 32), params=1.0)
        for kind in (FreeWidths, FiveWidths)
    )
    plain = precrop.plan(nats_sss((16, 24, 32, 40, 48)), (3, 32, 32), params=1.0)
    assert free.base_params == tied.base_params == plain.base_params
    assert free.base_macs == tied.base_macs == plain.base_macs
    assert len({layer.group for layer in tied.layers}) == 6  # five, and None of the classifier
    assert len({layer.group for layer in free.layers}) > 6


def test_the_surface_recovers_a_polynomial_and_measures_noise(table: Table) -> None:
    logs = np.log(table.widths / 32)
    exact = 90 + logs @ np.arange(1, 6) - (logs**2).sum(1)
    noise = np.random.default_rng(0).normal(0, 0.5, len(exact))
    made = type(table)(table.data_set, table.widths, table.params, table.macs, exact + noise)
    assert np.abs(made.smooth - exact).mean() < 0.15
    assert made.noise == pytest.approx(0.5, rel=0.05)
    assert made.measured(table.widths[:3]).tolist() == (exact + noise)[:3].tolist()
    assert np.isnan(made.measured(np.array([[1.0, 2, 3, 4, 5]]))).all()


def test_files_that_are_not_the_table(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="holds no nats-sss.parquet"):
        load_tables(tmp_path)
    pd.DataFrame({"c0": [8]}).to_parquet(tmp_path / "nats-sss.parquet")
    with pytest.raises(PrecropError, match="is not the size space"):
        load_tables(tmp_path)
    (tmp_path / "nats-sss.parquet").write_text("no parquet")
    with pytest.raises(PrecropError, match="is not the size space"):
        load_tables(tmp_path)


def test_a_table_of_more_rows_than_the_space_has(tmp_path: Path) -> None:
    text = pd.DataFrame({"c0": ["x" * 2**20] * 100})
    text.to_parquet(tmp_path / "nats-sss.parquet", compression="zstd")
    with pytest.raises(PrecropError, match="its rows take more than 67,108,864 bytes"):
        load_tables(tmp_path)


def test_every_data_set_is_there(tables: list[Table]) -> None:
    assert [table.data_set for table in tables] == list(DATA_SETS)
