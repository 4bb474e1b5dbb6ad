"""From measured passes to a device's rates, and how well these predict what they did not see.

The times of single operations give the coefficients of each kind by non-negative least squares; the
times of whole passes then correct them for what lies between the operations.
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
"""Samples that a kind needs for coefficients of its own."""
_POINTS = 2
"""Passes that there are for each number that is found from them, at least."""
_BORROWED = 0.1
"""Weight of a stand-in's samples, all together, beside those of the kind itself."""
_USUAL_ERROR = 0.05
"""Relative error of a pass beyond which it counts less."""
_EMPHASIS = 0.7
"""Errors are weighed by seconds to minus this power: 1 is relative, 0 absolute."""
_NETWORKS = 3
"""From so many on one whole network is left out at a time; below it one pass."""


@dataclass(frozen=True)
class CountedWork:
    """One operation of a pass as plans count it: its kind and how much it has to do."""

    kind: str
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class TimedPass:
    """One pass of a network at one width.

    Attributes:
        share: of the network's MACs that were kept.
        seconds: that the whole pass took.
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
        """The pass beside what a profile predicts for it."""
        times = (predicted(profile, work.kind, work.amounts) for work in self.works)
        operations = int(sum(work.amounts["calls"] for work in self.works))
        return Total(self.name, sum(times), operations, self.seconds)


@dataclass(frozen=True)
class Total:
    """One whole pass: what was predicted for it, its operations, and the seconds that it took."""

    name: str
    predicted: float
    operations: int
    seconds: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to the measured time, whatever its sign."""
        return abs(self.predicted / self.seconds - 1)


def profile_of(bare: DeviceProfile, passes: Sequence[TimedPass]) -> DeviceProfile:
    """A profile with the rates of these passes.

    Its ``fitted`` has the error on the passes themselves, which is small where there are few, and
    ``held_out``: the error on what a fit did not see. With three networks or more each is left out
    once, with fewer each pass; None where that leaves nothing.

    Args:
        bare: what is known of the device otherwise.
        passes: one at least.
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
    """Errors on passes that the rates were not fitted to."""
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
    """Seconds per unit of each feature, by kind; of kinds that were rarely met all together.

    A kind of layer is fitted with a few of the kind that would stand for it: where its own samples
    say nothing, as classifiers of one image say nothing of linear layers on maps, those decide.
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
    """Non-negative least squares of seconds over features, on columns of like size."""
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
    """Scale all coefficients, and change all launches, so that whole passes come out right.

    Between operations a runtime spends time of its own, and timing operations one by one costs
    some: one factor and one time per operation, positive or negative, are found from the relative
    errors, those beyond the usual counting less, so that a pass measured in a slow moment does not
    decide. For each of the two there are twice as many passes at least: where they are fewer the
    time is left out, or both.
    Launches stay at zero or above.
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
