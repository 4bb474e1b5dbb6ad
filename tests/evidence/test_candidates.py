"""What chooses widths, and what it chooses."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from precrop.evidence.candidates import WIDEST, Candidate, chosen_widths, strategies
from precrop.evidence.nats import FiveWidths, FreeWidths, Table
from precrop.evidence.regret import regret
from precrop.strategies.objectives import OBJECTIVES

SYNEXP = Candidate("synexp")


def test_plans_keep_their_budgets_and_steps(table: Table) -> None:
    for kind in (FiveWidths, FreeWidths):
        widths = chosen_widths(table.data_set, WIDEST, SYNEXP, kind=kind, params=0.4, macs=0.4)
        assert widths is not None
        assert widths.max() <= 64
        if kind is FiveWidths:
            assert (widths % 8 == 0).all()
    assert chosen_widths(table.data_set, WIDEST, SYNEXP, params=100) is None


def test_a_registered_objective_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "mine", lambda known: np.ones(len(known.layers)))
    assert "mine" in [strategy.name for strategy in strategies()]


def test_controls_are_judged_and_stay_unregistered(table: Table, coarse: None) -> None:
    (control,) = [s for s in strategies() if s.name == "root-macs"]
    rows = pd.DataFrame([*regret(table, control, 4), *regret(table, SYNEXP, 4)])
    means = rows.groupby("strategy")["regret"].mean()
    assert means["root-macs"] > means["synexp"]
    assert "root-macs" not in OBJECTIVES
