"""Confidence intervals of means."""

import numpy as np
from scipy.stats import sem, t

from precrop.evidence.nats import Floats

CONFIDENCE = 0.95


def interval(name: str, values: Floats) -> dict[str, float]:
    """Return the mean and its 95% interval by Student's t; for one value, the ends are NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return {name: np.nan, f"{name} low": np.nan, f"{name} high": np.nan}
    mean, reach = float(values.mean()), np.nan
    if len(values) > 1:
        reach = float(sem(values) * t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return {name: mean, f"{name} low": mean - reach, f"{name} high": mean + reach}
