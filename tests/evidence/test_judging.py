"""The verdict on SynExp, guarded on a sample of the table; `precrop judge` has the figures."""

import dataclasses

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

import precrop
from precrop.evidence import judging
from precrop.evidence.judging import Candidate, Case, chosen_widths
from precrop.evidence.nats import DATA_SETS, FiveWidths, FreeWidths, Table, structure
from precrop.strategies.objectives import OBJECTIVES

SYNEXP = Candidate("synexp")
UNIFORM = Candidate(judging.UNIFORM, {"rule": "uniform"})


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands wide enough for a sample of the networks."""
    monkeypatch.setattr(judging, "BAND", 0.15)


def test_bands_hold_networks_of_one_size(table: Table, coarse: None) -> None:
    found = judging.bands(table)
    assert len(found) > 20
    for band in found:
        assert len(band) >= judging.FEWEST
        for cost in (table.params, table.macs):
            assert np.ptp(np.log(cost[band])) <= 0.15
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found))


def test_synexp_orders_networks_of_one_size(
    tables: list[Table], coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "OBJECTIVES", {"synexp": OBJECTIVES["synexp"]})
    frame = pd.DataFrame(row for table in tables for row in judging.order(table))
    frame = frame.set_index(["data set", "objective"])
    for data_set in DATA_SETS:
        assert frame.loc[(data_set.name, "synexp"), "rho raw low"] > 0.5
        assert frame.loc[(data_set.name, "params"), "rho raw"] < 0.4


def test_an_objective_that_is_the_accuracy_orders_perfectly(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "objective_values", lambda table: {"oracle": table.raw})
    (row,) = judging.order(table)
    assert row["rho raw"] == pytest.approx(1)
    assert row["tau raw"] == pytest.approx(1)


def test_synexp_regrets_less_than_uniform_width_and_chance(table: Table, coarse: None) -> None:
    rows = [
        *judging.regret(table, SYNEXP, 12),
        *judging.regret(table, UNIFORM, 12),
        *judging.baselines(table, 12),
    ]
    means = pd.DataFrame(rows).groupby("strategy")["regret"].mean()
    assert means["synexp"] < means[judging.UNIFORM] < means["any network of the size"]
    assert means["synexp"] < 0.2


def test_regret_is_zero_for_the_best_network(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, macs = judging.drawn_budgets(table, 1)[0]
    within = np.flatnonzero((table.params <= params) & (table.macs <= macs))
    best = within[table.smooth[within].argmax()]
    monkeypatch.setattr(judging, "chosen_widths", lambda *_, **__: table.widths[best])
    (row,) = judging.regret(table, SYNEXP, 1)
    assert row["regret"] == pytest.approx(0, abs=1e-9)
    assert row["beats"] == 1 or table.smooth[best] == table.smooth[within].max()


def test_plans_keep_their_budgets_and_steps(table: Table) -> None:
    for kind in (FiveWidths, FreeWidths):
        widths = chosen_widths(
            table.data_set, judging.WIDEST, SYNEXP, kind=kind, params=0.4, macs=0.4
        )
        assert widths is not None
        assert widths.max() <= 64
        if kind is FiveWidths:
            assert (widths % 8 == 0).all()
    assert chosen_widths(table.data_set, judging.WIDEST, SYNEXP, params=100) is None


def test_gains_are_measured_from_uniform_width(table: Table) -> None:
    base = (64, 48, 32, 24, 16)
    case = Case("ill-shaped", "inverted", base, {"params": 0.6}, "parameters alone", False)
    (uniform,) = judging.gains(table, UNIFORM, [case])
    assert uniform["gain"] == 0
    (ours,) = judging.gains(table, SYNEXP, [case])
    assert ours["gain"] > 0
    repaired = dataclasses.replace(case, budgets={"params": 1.0, "macs": 1.0}, expand=True)
    (row,) = judging.gains(table, SYNEXP, [repaired])
    assert row["gain"] > 0


def test_a_registered_objective_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "mine", lambda known: np.ones(len(known.layers)))
    assert "mine" in [strategy.name for strategy in judging.strategies()]


def test_an_interval_holds_its_mean() -> None:
    found = judging.interval("x", np.array([1.0, 2.0, 3.0, np.nan]))
    assert found["x"] == 2
    assert 1 <= found["x low"] < 2 < found["x high"] <= 3
    assert np.isnan(judging.interval("x", np.array([]))["x"])


def test_controls_are_judged_and_stay_unregistered(table: Table, coarse: None) -> None:
    (control,) = [s for s in judging.strategies() if s.name == "root-macs"]
    rows = pd.DataFrame([*judging.regret(table, control, 4), *judging.regret(table, SYNEXP, 4)])
    means = rows.groupby("strategy")["regret"].mean()
    assert means["root-macs"] > means["synexp"]
    assert "root-macs" not in OBJECTIVES


def test_exact_objectives_order_a_few_bands(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "EXACT_BANDS", 5)
    rows = {row["objective"]: row for row in judging.exact_order(table)}
    assert list(rows) == ["exact", "exact-output", "synexp, 5 bands"]
    for row in rows.values():
        assert row["bands"] == 5
        assert row["rho smooth"] > 0.5


def test_exact_values_are_those_of_the_networks_densities(table: Table) -> None:
    found = judging.exact_values(table, np.array([7]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = FiveWidths(judging.WIDEST, 10)
    known = structure(table.data_set, judging.WIDEST)
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
