"""Budgets: what is understood, what is refused, and with which words."""

import decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precrop.errors import BudgetError
from precrop.solve.budgets import bound, parse_budget, parse_budgets, written


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


@pytest.mark.parametrize("asked", [10**5000, "9" * 100, "9" * 2_000_000, 1e300], ids="abcd")
def test_numbers_of_any_length_are_refused_in_a_line(asked: Any) -> None:
    with pytest.raises(BudgetError, match="write") as raised:
        parse_budget("macs", asked, 1_000_000)
    assert len(str(raised.value)) < 300


def test_limits_hang_on_no_setting_of_decimal_numbers() -> None:
    with decimal.localcontext() as context:
        context.prec = 3
        limits = [parse_budget("params", asked, 123_457) for asked in (0.5555, "55.55%", "0.5555")]
        assert bound("params", 123_457, up=True) == "123457"
    assert limits == [68_580] * 3


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


MS = 10**12
"""Femtoseconds."""


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ("8ms", 8 * MS),
        (" 8 ms ", 8 * MS),
        ("8MS", 8 * MS),
        ("0.5s", 500 * MS),
        (".5s", 500 * MS),
        ("800us", 800 * MS // 1000),
        ("800\N{MICRO SIGN}s", 800 * MS // 1000),
        ("12.5ns", 12_500_000),
        ("1s", 1000 * MS),
        ("50%", 10 * MS),
        ("0.5", 10 * MS),
        (0.5, 10 * MS),
        (1.0, 20 * MS),
    ],
)
def test_latencies(asked: Any, limit: int) -> None:
    found = parse_budget("latency", asked, 20 * MS)
    assert found == limit
    assert type(found) is int


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ("64MB", 64 * 10**6),
        ("64 mb", 64 * 10**6),
        ("64MiB", 64 * 2**20),
        ("1.5KiB", 1536),
        ("1.5kB", 1500),
        ("2GB", 2 * 10**9),
        ("1GiB", 2**30),
        ("4096B", 4096),
        ("4096", 4096),
        (4096, 4096),
        ("50%", 500_000),
        (0.5, 500_000),
    ],
)
def test_bytes(asked: Any, limit: int) -> None:
    assert parse_budget("memory", asked, 1_000_000) == limit


@pytest.mark.parametrize("asked", [8, 1, "8", "1", 10**15, np.int64(3)])
def test_a_latency_without_unit_is_refused(asked: Any) -> None:
    with pytest.raises(BudgetError, match=r"has no unit: write a share .* \(latency='8ms'\)"):
        parse_budget("latency", asked, 20 * MS)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        *(("memory", asked) for asked in ("12ms", "12s", "2.5M", "3T", "1TB", "-1MB", "MB", "0MB")),
        *(("latency", asked) for asked in ("64MB", "2.5M", "8m", "8min", "ms", "0ms", "-8ms")),
        *(("params", asked) for asked in ("8ms", "64MB", "1GiB")),
        *(("latency", asked) for asked in (True, -0.5, 0.0, float("nan"), 1e-20, 250.0)),
        *(("memory", asked) for asked in (True, -5, 0, 1, 2.5e6, float("inf"))),
    ],
)
def test_other_costs_units_are_refused(name: str, asked: Any) -> None:
    with pytest.raises(BudgetError, match="write") as raised:
        parse_budget(name, asked, 20 * MS)
    assert str(raised.value).startswith(f"{name}=")
    assert "\n" not in str(raised.value)


def test_costs_as_people_read_them() -> None:
    assert written("latency", 8_250_000_000_000) == "8.250 ms"
    assert written("memory", 64_000_000) == "64.00 MB"
    assert written("params", 2_500_000) == "2,500,000"


@pytest.mark.parametrize(
    ("name", "number", "below", "above"),
    [
        ("params", 12_345_678, "12345678", "12345678"),
        ("memory", 999, "999B", "999B"),
        ("memory", 1500, "1.5kB", "1.5kB"),
        ("memory", 16_384_001, "16.384MB", "16.385MB"),
        ("latency", 8 * MS, "8ms", "8ms"),
        ("latency", 8 * MS + 1, "8ms", "8.001ms"),
        ("latency", 999_999_999_999, "999.999us", "1000us"),
        ("latency", 1500 * MS, "1.5s", "1.5s"),
        ("latency", 3, "0ns", "0.001ns"),
    ],
)
def test_bounds_in_messages(name: str, number: int, below: str, above: str) -> None:
    assert bound(name, number, up=False) == below
    assert bound(name, number, up=True) == above


@settings(max_examples=200, derandomize=True)
@given(st.sampled_from(["params", "macs", "memory", "latency"]), st.integers(2, 10**18))
def test_a_named_bound_is_a_budget_that_is_enough(name: str, number: int) -> None:
    base = 10**18
    assert (
        number <= parse_budget(name, bound(name, number, up=True), base) <= 1.001 * number + 10**3
    )
    assert bound(name, number, up=False) != bound(name, number + 1, up=True)
