"""Gain over uniform width, on a sample of the table."""

import dataclasses

from precrop.evidence.candidates import UNIFORM, Candidate
from precrop.evidence.gain import Case, gains
from precrop.evidence.nats import Table

SYNEXP = Candidate("synexp")
BY_UNIFORM_WIDTH = Candidate(UNIFORM, {"rule": "uniform"})


def test_gains_are_measured_from_uniform_width(table: Table) -> None:
    base = (64, 48, 32, 24, 16)
    case = Case("ill-shaped", "inverted", base, {"params": 0.6}, "parameters alone", False)
    (uniform,) = gains(table, BY_UNIFORM_WIDTH, [case])
    assert uniform["gain"] == 0
    (ours,) = gains(table, SYNEXP, [case])
    assert ours["gain"] > 0
    repaired = dataclasses.replace(case, budgets={"params": 1.0, "macs": 1.0}, expand=True)
    (row,) = gains(table, SYNEXP, [repaired])
    assert row["gain"] > 0
