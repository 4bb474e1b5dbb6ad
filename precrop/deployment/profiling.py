"""Measures how fast a device is and fits what `precrop.costs.profiles` needs.

Networks are run at a few widths. The times of their single operations give the coefficients of
each kind by non-negative least squares; the times of whole passes then correct them for what lies
between the operations.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from precrop.api import plan
from precrop.costs.batches import follow
from precrop.costs.latency import READERS, amounts, predicted_seconds
from precrop.costs.machine import describe_machine
from precrop.costs.profiles import OTHER, STANDS_FOR, DeviceProfile
from precrop.costs.work import FEATURES
from precrop.deployment.machine import check_here
from precrop.deployment.operations import PASSES, SECONDS, Sample
from precrop.deployment.runtimes import Setting, runner
from precrop.deployment.timing import interleaved
from precrop.errors import BudgetError, PrecropError
from precrop.read.inputs import Inputs, given
from precrop.read.network import Network
from precrop.solve.program import Floats

SHARES = (1.0, 0.6, 0.35, 0.2)
"""Of the MACs, at which each network is measured."""
_STEPS = (1, 2, 4, 8, 16, 32)
_STEP_WIDTH = 96
"""Channels that every step divides, to which one step is added."""
_STEP_LOSS = 0.1
"""Throughput that a finer step may cost."""
_FEWEST = 8
"""Samples that a kind needs for coefficients of its own."""
_BORROWED = 0.1
"""Weight of a stand-in's samples, all together, beside those of the kind itself."""
_USUAL_ERROR = 0.05
"""Relative error of a pass beyond which it counts less."""
_EMPHASIS = 0.7
"""Errors are weighed by seconds to minus this power: 1 is relative, 0 absolute."""


@dataclass(frozen=True)
class Subject:
    """A network that is measured: what it is called and what it reads."""

    name: str
    model: nn.Module
    input_shape: Any


@dataclass(frozen=True)
class Total:
    """One whole pass: what was predicted for it, its operations, and the seconds that it took."""

    name: str
    predicted: float
    operations: int
    seconds: float


def profile_device(
    subjects: Sequence[Subject],
    *,
    runtime: str = "ort",
    device: str = "cpu",
    threads: int = 1,
    batch_size: int = 1,
    shares: Sequence[float] = SHARES,
    rounds: int = 15,
    progress: Callable[[int, int], None] | None = None,
) -> DeviceProfile:
    """Measure a device with some networks.

    Args:
        subjects: networks whose operations are measured; predictions are best for kinds of work
            that some of them have.
        runtime: ``eager`` or ``ort``.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU.
        batch_size: inputs in one pass.
        shares: of the MACs, at which each network is cropped and measured.
        rounds: passes for each time.
        progress: told what is done, and of how much.

    Raises:
        PrecropError: the runtime or the device is not there, or no network was given.
    """
    if runtime not in PASSES:
        raise PrecropError(f"no profile for runtime {runtime!r}: write {' or '.join(PASSES)}")
    if not subjects:
        raise PrecropError("a profile needs at least one network to measure")
    setting = Setting(batch_size, threads, device)
    step = kernel_step(runtime, setting, rounds)
    bare = DeviceProfile(device, device, runtime, threads, {OTHER: {}}, step)
    samples: list[Sample] = []
    measured: list[tuple[str, nn.Module, Any, float]] = []
    done = 0
    for subject in subjects:
        for share in shares:
            model = _cropped(subject, share, bare)
            if model is not None:
                inputs = Inputs(subject.input_shape)
                found = PASSES[runtime](model, inputs, setting, rounds, step)
                samples += found.samples
                name = f"{subject.name} at {share:.0%}"
                measured.append((name, model, subject.input_shape, found.seconds))
            done += 1
            if progress is not None:
                progress(done, len(subjects) * len(shares))
    fitted = replace(bare, coefficients=fit(samples))
    totals = [whole_pass(fitted, *one, batch_size) for one in measured]
    corrected = correct(fitted, totals)
    machine = describe_machine(device)
    return replace(
        corrected,
        name=machine["cpu" if device == "cpu" else "gpu"],
        machine=machine,
        fitted=_quality(corrected, batch_size, measured, len(samples)),
    )


def _cropped(subject: Subject, share: float, profile: DeviceProfile) -> nn.Module | None:
    """The network at a share of its MACs, in the kernels' steps; None where it gets no smaller."""
    if share == 1:
        return subject.model
    options = {"device_profile": profile, "divisor": "auto"}
    try:
        made = plan(subject.model, subject.input_shape, macs=share, **options)  # type: ignore[arg-type]
    except BudgetError:
        return None
    return made.build(subject.model)


# --- fitting ------------------------------------------------------------------------------------


def fit(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Coefficients of every kind that was met often enough, and of all others together.

    A kind of layer is fitted with a few of the kind that would stand for it: where its own samples
    say nothing, as classifiers of one image say nothing of linear layers on maps, those decide.

    Args:
        samples: of single operations.

    Returns:
        Seconds per unit of each feature, by kind.
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
    """Non-negative least squares of seconds over features."""
    samples = [*own, *alike]
    table = np.array([[sample.amounts[name] for name in FEATURES] for sample in samples])
    seconds = np.maximum(np.array([sample.seconds for sample in samples]), 1e-9)
    trust = np.ones(len(samples))
    trust[len(own) :] = _BORROWED * (len(own) / len(alike)) ** 0.5 if alike else 1.0
    weights = trust * seconds**-_EMPHASIS
    solution = _non_negative(table * weights[:, None], seconds * weights)
    rates = zip(FEATURES, solution.tolist(), strict=True)
    return {name: rate for name, rate in rates if rate > 0}


def _non_negative(table: Floats, values: Floats) -> Floats:
    """Least squares without negative coefficients, on columns of like size."""
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(table).max(axis=0), 1e-300)
    solution, _ = nnls(table / scale, values)
    found: Floats = solution / scale
    return found


def correct(profile: DeviceProfile, totals: Sequence[Total]) -> DeviceProfile:
    """Scale all coefficients, and change all launches, so that whole passes come out right.

    Between operations a runtime spends time of its own, and timing operations one by one costs
    some: one factor and one time per operation, positive or negative, are found from the relative
    errors, those beyond the usual counting less, so that a pass measured in a slow moment does not
    decide.
    Launches stay at zero or above.
    """
    from scipy.optimize import least_squares

    table = np.array([[total.predicted, total.operations] for total in totals], float)
    scaled = table / np.array([total.seconds for total in totals])[:, None]
    unit = np.abs(scaled).max(axis=0)

    def errors(found: Floats) -> Floats:
        wrong: Floats = (scaled / unit) @ found - 1
        return wrong

    solution = least_squares(errors, [unit[0], 0.0], loss="soft_l1", f_scale=_USUAL_ERROR)
    factor, between = (float(value) for value in solution.x / unit)
    if factor <= 0:
        factor, between = 1.0, 0.0
    coefficients: dict[str, dict[str, float]] = {}
    for kind, rates in profile.coefficients.items():
        changed = {name: rate * factor for name, rate in rates.items()}
        launch = max(changed.get("calls", 0.0) + between, 0.0)
        coefficients[kind] = {**changed, "calls": launch}
    return replace(profile, coefficients=coefficients)


def whole_pass(
    profile: DeviceProfile,
    name: str,
    model: nn.Module,
    input_shape: Any,
    seconds: float,
    batch_size: int = 1,
) -> Total:
    """A measured pass beside what a profile predicts for it, as `correct` takes it.

    Args:
        profile: of the device.
        name: of the network.
        model: the network as it is; it is only looked at.
        input_shape: as for `precrop.plan`.
        seconds: that it took.
        batch_size: inputs in the pass.
    """
    network = Network(model, given(model, input_shape))
    lives = follow(network, batch_size)
    works = READERS[profile.runtime](network, lives)
    operations = int(sum(amounts(work)["calls"] for work in works))
    return Total(name, predicted_seconds(profile, network, lives), operations, seconds)


@dataclass(frozen=True)
class Check:
    """A network that was not fitted: what a profile says of it and what it takes, in seconds."""

    name: str
    predicted: float
    seconds: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to the measured time."""
        return self.predicted / self.seconds - 1


def check(
    profile: DeviceProfile, subjects: Sequence[Subject], *, batch_size: int = 1, rounds: int = 15
) -> list[Check]:
    """Measure networks as they are beside what a profile predicts for them.

    Args:
        profile: of the device that this is.
        subjects: networks; those that the profile was not fitted to say more.
        batch_size: inputs in one pass.
        rounds: passes that are measured.

    Raises:
        PrecropError: the profile is of another machine.
    """
    check_here(profile)
    found = []
    for subject in subjects:
        setting = Setting(batch_size, profile.threads or 1, profile.device)
        inputs = Inputs(subject.input_shape)
        seconds = SECONDS[profile.runtime](subject.model, inputs, setting, rounds)
        predicted = predict(profile, subject.model, subject.input_shape, batch_size)
        found.append(Check(subject.name, predicted, seconds))
    return found


def predict(
    profile: DeviceProfile, model: nn.Module, input_shape: Any, batch_size: int = 1
) -> float:
    """Seconds of one pass of a network as a profile sees it.

    Args:
        profile: of the device.
        model: the network as it is; it is only looked at.
        input_shape: as for `precrop.plan`.
        batch_size: inputs in one pass.
    """
    network = Network(model, given(model, input_shape))
    return predicted_seconds(profile, network, follow(network, batch_size))


def _quality(
    profile: DeviceProfile,
    batch_size: int,
    measured: Sequence[tuple[str, nn.Module, Any, float]],
    samples: int,
) -> Mapping[str, Any]:
    """How well the profile describes the passes that it was fitted to."""
    passes = {}
    for one in measured:
        total = whole_pass(profile, *one, batch_size)
        passes[total.name] = {"seconds": total.seconds, "predicted": total.predicted}
    errors = [abs(p["predicted"] / p["seconds"] - 1) for p in passes.values()]
    return {
        "batch_size": batch_size,
        "samples": samples,
        "median_error": float(np.median(errors)),
        "largest_error": float(np.max(errors)),
        "passes": passes,
    }


# --- the step of a device's kernels -------------------------------------------------------------


def kernel_step(runtime: str, setting: Setting, rounds: int) -> int:
    """The fewest channels that convolutions are done in without loss.

    Chains of convolutions of 96 + 1, 2, 4, … channels are timed side by side: the smallest step
    whose speed is within 10% of the best one's.
    """
    options = {"batch": setting.batch, "threads": setting.threads, "device": setting.device}
    chains = {step: _chain(_STEP_WIDTH + step) for step in _STEPS}
    inputs = {step: Inputs((_STEP_WIDTH + step, 28, 28)) for step in _STEPS}
    with ExitStack() as stack:
        runners = {
            str(step): stack.enter_context(
                runner(chains[step], inputs[step], runtime=runtime, **options)  # type: ignore[arg-type]
            )
            for step in _STEPS
        }
        watch = runners[str(_STEPS[0])].stopwatch
        times = interleaved(runners, rounds=rounds, least_seconds=0.005, stopwatch=watch)
    speed = {step: (_STEP_WIDTH + step) ** 2 / times[str(step)].median for step in _STEPS}
    best = max(speed.values())
    return next(step for step in _STEPS if speed[step] >= (1 - _STEP_LOSS) * best)


def _chain(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for kernel in (3, 1, 3, 1):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers)
