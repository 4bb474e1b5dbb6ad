"""Budgets: what is understood, what is refused, and with which words."""

from typing import Any

import numpy as np
import pytest

from precrop.budgets import parse_budget, parse_budgets
from precrop.errors import BudgetError


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        (0.5, 500_000),
        (1.0, 1_000_000),
        (1.5, 1_500_000),
        (0.29, 290_000),
        (np.float64(0.5), 500_000),
        (2, 2),
        (2_500_000, 2_500_000),
        (np.int64(7), 7),
        ("50%", 500_000),
        (" 12.5 % ", 125_000),
        ("0.5", 500_000),
        (".5", 500_000),
        ("1.0", 1_000_000),
        ("2.5M", 2_500_000),
        ("1.2G", 1_200_000_000),
        ("300k", 300_000),
        ("1T", 10**12),
        ("1000000", 1_000_000),
        ("1_000_000", 1_000_000),
    ],
)
def test_understood(asked: Any, limit: int) -> None:
    found = parse_budget("params", asked, 1_000_000)
    assert found == limit
    assert type(found) is int


def test_shares_are_decimal() -> None:
    assert int(0.29 * 100) == 28
    assert parse_budget("params", 0.29, 100) == 29


@pytest.mark.parametrize(
    "asked",
    [
        *(True, False, 0, 0.0, -1, -0.5, float("nan"), float("inf"), 1e-9, 2.5e6, None, [0.5], 1j),
        *("", "%", ".", "half", "-5", "1e6", "1,000", "5 X", "0", "0%", "nan", "1.2.3", "_1", "M"),
    ],
)
def test_refused_in_one_line_that_says_what_to_write(asked: Any) -> None:
    with pytest.raises(BudgetError, match="write") as raised:
        parse_budget("macs", asked, 1_000_000)
    assert str(raised.value).startswith("macs=")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("asked", [1, "1"])
def test_a_single_unit_is_a_slip(asked: Any) -> None:
    with pytest.raises(BudgetError, match=r"params=1\.0 for all"):
        parse_budget("params", asked, 1000)


def test_several_budgets() -> None:
    bases = {"params": 1000, "macs": 2000}
    assert parse_budgets({"params": None, "macs": "50%"}, bases) == {"macs": 1000}
    with pytest.raises(BudgetError, match="no budget"):
        parse_budgets({"params": None}, bases)
    with pytest.raises(BudgetError, match="no cost is called 'flops'"):
        parse_budgets({"flops": 0.5}, bases)
