"""Regret, guarded on a sample of the table."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from precrop.evidence.candidates import UNIFORM, Candidate
from precrop.evidence.nats import Table
from precrop.evidence.regret import baselines, drawn_budgets, regret

SYNEXP = Candidate("synexp")
BY_UNIFORM_WIDTH = Candidate(UNIFORM, {"rule": "uniform"})


def test_synexp_regrets_less_than_uniform_width_and_chance(table: Table, coarse: None) -> None:
    rows = [
        *regret(table, SYNEXP, 12),
        *regret(table, BY_UNIFORM_WIDTH, 12),
        *baselines(table, 12),
    ]
    means = pd.DataFrame(rows).groupby("strategy")["regret"].mean()
    assert means["synexp"] < means[UNIFORM] < means["any network of the size"]
    assert means["synexp"] < 0.2


def test_regret_is_zero_for_the_best_network(
    table: Table, coarse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, macs = drawn_budgets(table, 1)[0]
    within = np.flatnonzero((table.params <= params) & (table.macs <= macs))
    best = within[table.smooth[within].argmax()]
    monkeypatch.setattr(
        "precrop.evidence.regret.chosen_widths", lambda *_, **__: table.widths[best]
    )
    (row,) = regret(table, SYNEXP, 1)
    assert row["regret"] == pytest.approx(0, abs=1e-9)
    assert row["beats"] == 1 or table.smooth[best] == table.smooth[within].max()
