"""Measures a device's speed and makes a profile (`precrop.costs.profiles`).

Networks are timed at a few widths; `precrop.deployment.rates` fits rates to the times.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from precrop.api import plan
from precrop.costs.batches import follow
from precrop.costs.latency import READERS, amounts, predicted_seconds
from precrop.costs.machine import LIBRARY, describe_machine, part
from precrop.costs.profiles import OTHER, DeviceProfile
from precrop.deployment.operations import PASSES, Moved, pass_seconds
from precrop.deployment.passes import PassFile, Place
from precrop.deployment.quiet import Quiet
from precrop.deployment.rates import CountedWork, TimedPass, profile_of
from precrop.deployment.runtimes import check_here, sessions
from precrop.deployment.setting import Setting
from precrop.deployment.timing import interleaved
from precrop.errors import BudgetError, PrecropError, check_known
from precrop.progress import Told, unheard
from precrop.read.inputs import Inputs
from precrop.read.network import given_inputs, read_network

SHARES = (1.0, 0.35, 0.6, 0.2)
"""Shares of the MACs to which each network is cropped for measuring, in this order."""
ROUNDS = 15
_BEGUN = 0.99
"""Progress shown when the time is over but the last pass is not."""
_STEPS = (1, 2, 4, 8, 16, 32)
_STEP_WIDTH = 96
"""Channels, divisible by every step, to which one step is added."""
_STEP_LOSS = 0.1
"""Share of the throughput that may be lost by a smaller step."""


@dataclass(frozen=True)
class Subject:
    """A network to measure."""

    name: str
    model: nn.Module
    input_shape: Any

    @property
    def inputs(self) -> Inputs:
        """The network's inputs."""
        return given_inputs(self.model, self.input_shape)


def profile_device(
    subjects: Sequence[Subject],
    setting: Setting,
    *,
    shares: Sequence[float] = SHARES,
    rounds: int = ROUNDS,
    kept: Path | None = None,
    seconds: float | None = None,
    quiet: Quiet | None = None,
    found: Callable[[DeviceProfile], object] = unheard,
    progress: Told = unheard,
    clock: Callable[[], float] = time.monotonic,
) -> DeviceProfile:
    """Profile a device by measuring some networks on it.

    Args:
        subjects: networks whose operations are measured; predictions are best for kinds of work
            that some of them have.
        setting: how they are run, in ``eager`` or ``ort``.
        shares: shares of the MACs to which each network is cropped: all networks are measured at
            the first share, then all at the next.
        rounds: passes of which each time is the median.
        kept: a file for the measurements; those in it already are not repeated.
        seconds: time limit, which a further pass must not be expected to exceed; None for none.
        quiet: how quiet the machine is, for the profile's record.
        found: called with the profile so far, after every pass.
        progress: called with the current step and the share that is done.
        clock: returns seconds.

    Returns:
        The profile; its ``fitted["left"]`` is the number of passes that there was no time for.

    Raises:
        PrecropError: the runtime has no profiles, there is no network or round, ``kept`` is of
            another device or setting, or no network gets as small as the shares ask.
    """
    start = clock()
    check_known(f"runtime {setting.runtime!r} of a profile", setting.runtime, PASSES)
    if not subjects:
        raise PrecropError("a profile needs at least one network to measure")
    if rounds < 1:
        raise PrecropError(f"{rounds} rounds measure nothing: give 1 or more")
    machine = describe_machine(setting.device)
    store = PassFile(kept, _described(machine, setting, rounds))
    wanted: dict[Place, Subject] = {
        (one.name, one.inputs.text, share): one for share in shares for one in subjects
    }
    left = [place for place in wanted if place not in store.found]

    def tell(what: str) -> None:
        over = 1 - len(left) / len(wanted)
        spent = 0.0 if seconds is None else (clock() - start) / max(seconds, 1.0)
        progress(what, max(over, min(spent, _BEGUN)))

    if store.step is None:
        what = "channels that kernels work on at once"
        store.begin(kernel_step(setting, rounds, lambda *_: tell(what)))
    assert store.step is not None
    about = {"batch_size": setting.batch, **({} if quiet is None else {"quiet": asdict(quiet)})}
    name, runtime, threads = machine[part(setting.device)], setting.runtime, setting.threads
    bare = DeviceProfile(name, setting.device, runtime, threads, {OTHER: {}}, store.step, machine)

    def so_far() -> DeviceProfile:
        return profile_of(replace(bare, fitted={**about, "left": len(left)}), store.passes)

    longest = 0.0
    while left:
        began = clock()
        if seconds is not None and store.passes and began - start + longest > seconds:
            break
        *_, share = place = left[0]
        store.add(place, measured_pass(wanted[place], share, bare, setting, rounds, tell))
        del left[0]
        longest = max(longest, clock() - began)
        if store.passes:
            found(so_far())
    if not store.passes:
        raise PrecropError("none of these networks gets as small as the shares ask: add 1 to them")
    return so_far()


def _described(machine: Mapping[str, Any], setting: Setting, rounds: int) -> dict[str, Any]:
    """Return what all passes of one profile must have in common."""
    library = LIBRARY[setting.runtime]
    return {
        "device": machine[part(setting.device)],
        "runtime": setting.runtime,
        library: machine["versions"][library],
        "threads": setting.threads,
        "batch": setting.batch,
        "rounds": rounds,
    }


def measured_pass(
    subject: Subject,
    share: float,
    bare: DeviceProfile,
    setting: Setting,
    rounds: int,
    tell: Callable[[str], None],
) -> TimedPass | None:
    """Measure a network cropped to a share of its MACs; None if it cannot be made this small."""
    what = f"{subject.name} at {share:.0%}"
    tell(f"{what}: planning")
    model = subject.model
    if share != 1:
        try:
            made = plan(model, subject.input_shape, macs=share, device_profile=bare)
        except BudgetError:
            return None
        model = made.build(model)
    tell(f"{what}: measuring")
    samples, seconds = PASSES[bare.runtime](
        model, subject.inputs, setting, rounds, bare.step, lambda *_: tell(f"{what}: measuring")
    )
    works = READERS[bare.runtime](*follow(read_network(model, subject.inputs), setting.batch))
    counted = tuple(CountedWork(work.kind, amounts(work, bare.step)) for work in works)
    return TimedPass(subject.name, share, seconds, tuple(samples), counted)


@dataclass(frozen=True)
class Check:
    """A profile's prediction for a network, and the measured time, in seconds."""

    name: str
    predicted: float
    seconds: float

    @property
    def error(self) -> float:
        """Error of the prediction, relative to the measured time."""
        return self.predicted / self.seconds - 1


def check(
    profile: DeviceProfile, subject: Subject, *, batch_size: int = 1, rounds: int = ROUNDS
) -> Check:
    """Compare a profile's prediction with a network's time, best of one it was not fitted to.

    Raises:
        PrecropError: the profile is of another machine.
    """
    check_here(profile)
    setting = Setting(profile.runtime, batch_size, profile.threads or 1, profile.device)
    seconds = pass_seconds(subject.model, subject.inputs, setting, rounds)
    predicted = predict(profile, subject.model, subject.input_shape, batch_size)
    return Check(subject.name, predicted, seconds)


def predict(
    profile: DeviceProfile, model: nn.Module, input_shape: Any, batch_size: int = 1
) -> float:
    """Predict the seconds of a network's pass by a profile; ``input_shape`` is as for `plan`."""
    network = read_network(model, given_inputs(model, input_shape))
    return predicted_seconds(profile, *follow(network, batch_size))


# --- the step of a device's kernels -------------------------------------------------------------


def kernel_step(setting: Setting, rounds: int, moved: Moved = unheard) -> int:
    """Return the smallest step of channels at which convolutions reach full speed.

    Chains of convolutions with 96 + 1, 2, 4, … channels are timed side by side; the result is the
    smallest step whose speed is within 10% of the best. Times are 10th percentiles, so that other
    programs that slow down some samples do not matter.
    """
    with ExitStack() as stack:
        runs = {}
        for step in _STEPS:
            moved()
            width = _STEP_WIDTH + step
            loading = sessions(_chain(width), Inputs((width, 28, 28)), setting, 1)
            (runs[step],) = stack.enter_context(loading)
        times = interleaved(
            runs, rounds=rounds, least_seconds=0.005, stopwatch=setting.stopwatch, progress=moved
        )
    speed = {step: (_STEP_WIDTH + step) ** 2 / times[step].low for step in _STEPS}
    best = max(speed.values())
    return next(step for step in _STEPS if speed[step] >= (1 - _STEP_LOSS) * best)


def _chain(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for kernel in (3, 1, 3, 1):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers)
