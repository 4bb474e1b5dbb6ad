"""Order within bands, guarded on a sample of the table."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

import precrop
from precrop.evidence.candidates import WIDEST
from precrop.evidence.nats import DATA_SETS, FiveWidths, Table, structure
from precrop.evidence.order import exact_order, exact_values, order
from precrop.evidence.sizes import FEWEST, bands
from precrop.strategies.objectives import OBJECTIVES


def test_bands_hold_networks_of_one_size(table: Table, coarse: None) -> None:
    found = bands(table)
    assert len(found) > 20
    for band in found:
        assert len(band) >= FEWEST
        for cost in (table.params, table.macs):
            assert np.ptp(np.log(cost[band])) <= 0.15
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found))


def test_synexp_orders_networks_of_one_size(
    tables: list[Table], coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precrop.evidence.order.OBJECTIVES", {"synexp": OBJECTIVES["synexp"]})
    frame = pd.DataFrame(row for table in tables for row in order(table))
    frame = frame.set_index(["data set", "objective"])
    for data_set in DATA_SETS:
        assert frame.loc[(data_set.name, "synexp"), "rho raw low"] > 0.5
        assert frame.loc[(data_set.name, "params"), "rho raw"] < 0.4


def test_an_objective_that_is_the_accuracy_orders_perfectly(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "precrop.evidence.order.objective_values", lambda table: {"oracle": table.raw}
    )
    (row,) = order(table)
    assert row["rho raw"] == pytest.approx(1)
    assert row["tau raw"] == pytest.approx(1)


def test_exact_objectives_order_a_few_bands(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precrop.evidence.order.EXACT_BANDS", 5)
    rows = {row["objective"]: row for row in exact_order(table)}
    assert list(rows) == ["exact", "exact-output", "synexp, 5 bands"]
    for row in rows.values():
        assert row["bands"] == 5
        assert row["rho smooth"] > 0.5


def test_exact_values_are_those_of_the_networks_densities(table: Table) -> None:
    found = exact_values(table, np.array([7]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = FiveWidths(WIDEST, 10)
    known = structure(table.data_set, WIDEST)
    small = structure(table.data_set, table.widths[7].tolist())
    densities = {
        layer.name: narrow.weights / layer.weights
        for layer, narrow in zip(known.layers, small.layers, strict=True)
    }
    shape = table.data_set.input_shape
    assert found["exact"][7] == pytest.approx(precrop.synexp(base, shape, densities))
    expected = precrop.expected_output(base, shape, densities)
    assert found["exact-output"][7] == pytest.approx(expected)
    assert np.isnan(found["exact"][8])
