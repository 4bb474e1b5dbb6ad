"""How sure a mean is."""

import numpy as np

from precrop.evidence.intervals import interval


def test_an_interval_holds_its_mean() -> None:
    found = interval("x", np.array([1.0, 2.0, 3.0, np.nan]))
    assert found["x"] == 2
    assert 1 <= found["x low"] < 2 < found["x high"] <= 3
    assert np.isnan(interval("x", np.array([]))["x"])
