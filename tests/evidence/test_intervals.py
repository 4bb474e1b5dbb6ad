"""How sure a mean is."""

import numpy as np
import pytest

from precrop.evidence.intervals import interval


def test_an_interval_is_students() -> None:
    """Of 1, 2 and 3: two degrees of freedom, 4.303 standard errors of 1 / sqrt(3)."""
    found = interval("x", np.array([1.0, 2.0, 3.0, np.nan]))
    assert found["x"] == 2
    assert found["x high"] - 2 == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert 2 - found["x low"] == pytest.approx(found["x high"] - 2)
    assert np.isnan(interval("x", np.array([]))["x"])
    alone = interval("x", np.array([1.0]))
    assert alone["x"] == 1
    assert np.isnan(alone["x low"])
    assert np.isnan(alone["x high"])


@pytest.mark.parametrize("count", [6, 300])
def test_an_interval_holds_the_true_mean_as_often_as_it_says(count: int) -> None:
    draws = np.random.default_rng(0).normal(size=(4000, count))
    found = [interval("x", values) for values in draws]
    held = np.mean([one["x low"] <= 0 <= one["x high"] for one in found])
    assert held == pytest.approx(0.95, abs=0.015)
