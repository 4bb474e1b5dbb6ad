"""How sure a mean is."""

import numpy as np

from precrop.evidence.nats import Floats

RESAMPLES = 1000


def interval(name: str, values: Floats) -> dict[str, float]:
    """The mean and its 95% interval: percentiles of means of resampled values."""
    values = values[~np.isnan(values)]
    if not len(values):
        return {name: np.nan, f"{name} low": np.nan, f"{name} high": np.nan}
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {name: float(values.mean()), f"{name} low": float(low), f"{name} high": float(high)}
