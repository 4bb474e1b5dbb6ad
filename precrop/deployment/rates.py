"""Fits a device's rates to measured passes, and finds how well they predict passes not fitted.

The times of single operations give the coefficients of each kind by non-negative least squares; the
times of whole passes then correct them for the overhead between operations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from precrop.costs.latency import seconds as predicted
from precrop.costs.profiles import OTHER, STANDS_FOR, DeviceProfile
from precrop.costs.work import FEATURES
from precrop.deployment.operations import Sample

_FEWEST = 8
"""Least number of samples for a kind to get coefficients of its own."""
_POINTS = 2
"""Least number of whole passes for each parameter that is fitted to them."""
_BORROWED = 0.1
"""Weight of all samples of a similar kind together, relative to those of the kind itself."""
_USUAL_ERROR = 0.05
"""Relative error beyond which a pass counts less (soft L1 loss)."""
_EMPHASIS = 0.7
"""Errors are weighted by seconds to minus this power: 1 means relative errors, 0 absolute ones."""
_NETWORKS = 3
"""From this number on, one whole network is held out at a time; below it, one pass."""


@dataclass(frozen=True)
class CountedWork:
    """One operation of a pass as plans count it: its kind and the amount of each feature."""

    kind: str
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class TimedPass:
    """One pass of a network at one width.

    Attributes:
        share: share of the network's MACs that was kept.
        seconds: time of the whole pass.
        samples: its operations, timed one by one.
        works: its operations as plans count them.
    """

    network: str
    share: float
    seconds: float
    samples: tuple[Sample, ...]
    works: tuple[CountedWork, ...]

    @property
    def name(self) -> str:
        """The network and the share."""
        return f"{self.network} at {self.share:.0%}"

    def total(self, profile: DeviceProfile) -> "Total":
        """Return the whole pass with the time that a profile predicts for it."""
        times = (predicted(profile, work.kind, work.amounts) for work in self.works)
        operations = int(sum(work.amounts["calls"] for work in self.works))
        return Total(self.name, sum(times), operations, self.seconds)


@dataclass(frozen=True)
class Total:
    """One whole pass: predicted seconds, number of operations, measured seconds."""

    name: str
    predicted: float
    operations: int
    seconds: float

    @property
    def error(self) -> float:
        """Absolute error of the prediction, relative to the measured time."""
        return abs(self.predicted / self.seconds - 1)


def profile_of(bare: DeviceProfile, passes: Sequence[TimedPass]) -> DeviceProfile:
    """Return a profile with rates fitted to these passes.

    Its ``fitted`` has the error on the passes themselves, which is small if there are few, and
    ``held_out``: the error on passes that were left out of a fit. With three networks or more each
    network is left out once, with fewer each pass; None if nothing would be left to fit.

    Args:
        bare: the device's profile, still without rates.
        passes: at least one.
    """
    found = _rates(bare, passes)
    totals = [one.total(found) for one in passes]
    return replace(
        found,
        fitted={
            **bare.fitted,
            "samples": sum(len(one.samples) for one in passes),
            **_errors(totals),
            "held_out": _held_out(bare, passes),
            "passes": {
                total.name: {"seconds": total.seconds, "predicted": total.predicted}
                for total in totals
            },
        },
    )


def _rates(bare: DeviceProfile, passes: Sequence[TimedPass]) -> DeviceProfile:
    samples = [sample for one in passes for sample in one.samples]
    fitted = replace(bare, coefficients=fit(samples))
    return correct(fitted, [one.total(fitted) for one in passes])


def _errors(totals: Sequence[Total]) -> dict[str, float]:
    errors = [total.error for total in totals]
    return {"median_error": float(np.median(errors)), "largest_error": float(np.max(errors))}


def _held_out(bare: DeviceProfile, passes: Sequence[TimedPass]) -> dict[str, Any] | None:
    """Return the errors on passes that the rates were not fitted to."""
    names = dict.fromkeys(one.network for one in passes)
    left_out, folds = "pass", [[one] for one in passes]
    if len(names) >= _NETWORKS:
        left_out = "network"
        folds = [[one for one in passes if one.network == name] for name in names]
    totals: list[Total] = []
    for chosen in folds:
        others = [one for one in passes if one not in chosen]
        if not others:
            return None
        profile = _rates(bare, others)
        totals += [one.total(profile) for one in chosen]
    return {"left_out": left_out, **_errors(totals)}


def fit(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return seconds per unit of each feature by kind; `OTHER` is fitted to all work without MACs.

    The fit of a kind of layer includes samples of the kind that stands for it, at a low weight.
    They decide what its own samples leave open: a classifier tells little of linear layers on maps.
    """
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.kind, []).append(sample)
    found = {
        kind: _coefficients(own, by_kind.get(STANDS_FOR.get(kind, ""), []))
        for kind, own in by_kind.items()
        if len(own) >= _FEWEST
    }
    rest = [sample for sample in samples if not sample.amounts["macs"]] or list(samples)
    return {**found, OTHER: _coefficients(rest, [])}


def _coefficients(own: Sequence[Sample], alike: Sequence[Sample]) -> dict[str, float]:
    """Fit seconds to features by non-negative least squares, with columns scaled alike."""
    from scipy.optimize import nnls

    samples = [*own, *alike]
    table = np.array([[sample.amounts[name] for name in FEATURES] for sample in samples])
    seconds = np.maximum(np.array([sample.seconds for sample in samples]), 1e-9)
    trust = np.ones(len(samples))
    trust[len(own) :] = _BORROWED * (len(own) / len(alike)) ** 0.5 if alike else 1.0
    weights = trust * seconds**-_EMPHASIS
    table = table * weights[:, None]
    scale = np.maximum(np.abs(table).max(axis=0), 1e-300)
    solution, _ = nnls(table / scale, seconds * weights)
    rates = zip(FEATURES, (solution / scale).tolist(), strict=True)
    return {name: rate for name, rate in rates if rate > 0}


def correct(profile: DeviceProfile, totals: Sequence[Total]) -> DeviceProfile:
    """Scale all coefficients and shift all launch times to predict whole passes well.

    A runtime spends time between operations, and timing operations one by one adds some. One
    factor and one time per operation (of either sign) are fitted to the relative errors of whole
    passes, of which large ones count less, in case a pass was measured in a slow moment. With
    fewer than four passes only the factor is fitted, with one pass neither. Launch times stay at
    zero or above.
    """
    from scipy.optimize import least_squares

    unknown = min(len(totals) // _POINTS, 2)
    if not unknown:
        return profile
    table = np.array([[total.predicted, total.operations][:unknown] for total in totals], float)
    scaled = table / np.array([total.seconds for total in totals])[:, None]
    unit = np.abs(scaled).max(axis=0)

    solution = least_squares(
        lambda found: (scaled / unit) @ found - 1,
        [unit[0], 0.0][:unknown],
        loss="soft_l1",
        f_scale=_USUAL_ERROR,
    )
    factor, between = (*(float(value) for value in solution.x / unit), 0.0)[:2]
    if factor <= 0:
        factor, between = 1.0, 0.0
    coefficients: dict[str, dict[str, float]] = {}
    for kind, rates in profile.coefficients.items():
        changed = {name: rate * factor for name, rate in rates.items()}
        launch = max(changed.get("calls", 0.0) + between, 0.0)
        coefficients[kind] = {**changed, "calls": launch}
    return replace(profile, coefficients=coefficients)
