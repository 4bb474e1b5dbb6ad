"""Calibrates a latency budget: plans, measures the built network, corrects the next plan's budget.

A profile describes single operations, not the network as a whole. The measured time of a planned
network shows the error of its prediction at that size; the next plan's budget compensates for it.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precrop.api import plan
from precrop.costs.profiles import DeviceProfile, find_profile
from precrop.deployment.runtimes import check_here, median_seconds, session_medians, sessions
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Run, Stopwatch
from precrop.errors import BudgetError
from precrop.plans.plan import Plan
from precrop.progress import unheard
from precrop.read.network import given_inputs
from precrop.solve.budgets import UNITS, Budget, parse_budget, parse_share

_SECOND = UNITS["latency"].suffixes["s"]
_HALVINGS = 4
"""Bisection steps, each a plan that is not measured, to find how narrow a network may be."""
MOST_ROUNDS = 5
"""Most plans that are measured."""
_AIM = 0.96
"""Share of the asked time that the next plan aims at: below 1, since widths come in steps."""
_EXPONENTS = (0.7, 1.5)
"""Bounds of the exponent with which measured times are assumed to grow with a plan's budget."""
_CLOSE = 0.94
"""A plan that takes at least this share of the asked time, and not more than it, is accepted."""


@dataclass(frozen=True)
class Attempt:
    """One plan that was measured, side by side with the original.

    Attributes:
        asked: the plan's budget, as a share of the original's predicted latency.
        seconds: median time of the planned network.
        dense: median time of the original in the same rounds, in seconds.
        limit: the asked time in seconds; if it is a share, then of ``dense``.
    """

    asked: float
    seconds: float
    dense: float
    limit: float

    @property
    def used(self) -> float:
        """Measured time as a share of the allowed one."""
        return self.seconds / self.limit


@dataclass(frozen=True)
class Calibrated:
    """The slowest plan within the asked time, and all measurements.

    ``met`` is whether there is such a plan; if not, ``plan`` is the fastest one.
    """

    plan: Plan
    met: bool
    attempts: tuple[Attempt, ...]


def calibrate(
    model: nn.Module,
    input_shape: Any,
    latency: Budget,
    *,
    device_profile: DeviceProfile | str | Path | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    rounds: int = 20,
    progress: Callable[[str], object] | None = None,
    **options: Any,
) -> Calibrated:
    """Plan until the built network's measured time is close to the asked time and not above it.

    At most five plans are measured, in rounds in which the plan and the original take turns, so a
    share is relative to the original's median in the same rounds. Both are loaded several times.

    Args:
        model: the network; it stays as it was.
        input_shape: as for `precrop.plan`.
        latency: a share of the original's time, or a string such as ``"8ms"``.
        device_profile: as for `precrop.plan`; times are measured in its runtime on its device.
        batch_size: inputs in one pass.
        threads: CPU threads; if None, the profile's, or PyTorch's.
        rounds: rounds of each measurement.
        progress: called with a line of text for each step.
        options: further options of `precrop.plan`.

    Raises:
        BudgetError: no possible plan is predicted to be this fast.
        PrecropError: the profile is of another machine, or its runtime is not installed.
    """
    profile = find_profile(device_profile)
    check_here(profile)
    if threads is None:
        threads = profile.threads or torch.get_num_threads()
    setting = Setting(profile.runtime, batch_size, threads, profile.device)
    inputs = given_inputs(model, input_shape)
    attempts: list[Attempt] = []
    plans: list[Plan] = []
    planned = partial(
        plan, model, input_shape, device_profile=profile, batch_size=batch_size, **options
    )
    say = progress or unheard
    say("the original")
    with sessions(model, inputs, setting) as dense:
        asked = _first_share(latency, dense, setting.stopwatch)
        while len(attempts) < MOST_ROUNDS:
            number = f"plan {len(attempts) + 1} of at most {MOST_ROUNDS}"
            say(f"{number}, {asked:.0%} of the prediction")
            made: Plan | None = None
            try:
                made = planned(latency=asked)
            except BudgetError as error:
                if not attempts:
                    what = f"latency={latency!r}, as it is predicted"
                    raise BudgetError(f"{what}: {error}") from error
                asked, made = _narrowest(planned, asked, attempts[-1].asked)
            if made is None or any(made.tensors == known.tensors for known in plans):
                break  # there are no widths in between
            plans.append(made)
            with sessions(made.build(model), inputs, setting) as cropped:
                networks = {"dense": dense, "cropped": cropped}
                medians = session_medians(networks, rounds, setting.stopwatch)
            whole, ours = map(statistics.median, medians.values())
            attempts.append(Attempt(asked, ours, whole, limit(latency, whole)))
            if _CLOSE <= attempts[-1].used <= 1:
                break
            asked = _corrected(attempts)
    return _best(latency, plans, attempts)


def _first_share(latency: Budget, dense: Sequence[Run], stopwatch: Stopwatch) -> float:
    """Return the first plan's budget: the share itself, or the time over the original's."""
    asked, other = (parse_share("latency", latency, n * _SECOND) for n in (1, 2))
    if asked == other:  # a share, not a time
        return asked
    return min(asked / median_seconds(dense, 10, stopwatch), 1.0)


def limit(latency: Budget, dense: float) -> float:
    """Return the seconds that a budget allows if the original takes ``dense`` seconds.

    Raises:
        BudgetError: it is neither a share nor a time.
    """
    return parse_budget("latency", latency, round(dense * _SECOND)) / _SECOND


def _narrowest(
    planned: Callable[..., Plan], impossible: float, possible: float
) -> tuple[float, Plan | None]:
    """Bisect for the least share that has a plan; the plan is None if only ``possible`` has one."""
    found = None
    for _ in range(_HALVINGS):
        between = math.sqrt(impossible * possible)
        try:
            possible, found = between, planned(latency=between)
        except BudgetError:
            impossible = between
    return possible, found


def _corrected(attempts: list[Attempt]) -> float:
    """Return the next plan's budget, so that its measured time comes close to the aim.

    Measured times are modelled as a power of the budget. If there are plans on both sides of the
    aim, the power goes through the closest two. Else its exponent is that of the last two plans (1
    after the first), kept close to 1, since times are noisy.
    """
    slower = min((a for a in attempts if a.used > _AIM), key=attrgetter("used"), default=None)
    faster = max((a for a in attempts if a.used <= _AIM), key=attrgetter("used"), default=None)
    if slower and faster and slower.asked > faster.asked:
        share = math.log(_AIM / faster.used) / math.log(slower.used / faster.used)
        return faster.asked * math.pow(slower.asked / faster.asked, share)
    last = attempts[-1]
    exponent = 1.0
    if len(attempts) > 1 and attempts[-2].asked != last.asked:
        first = attempts[-2]
        grown = math.log(last.used / first.used) / math.log(last.asked / first.asked)
        exponent = min(max(grown, _EXPONENTS[0]), _EXPONENTS[1])
    return min(last.asked * math.pow(_AIM / last.used, 1 / exponent), 1.0)


def _best(latency: Budget, plans: list[Plan], attempts: list[Attempt]) -> Calibrated:
    """Return the slowest plan within the asked time, or else the fastest."""
    # Plans in time come first, then those closest to the limit.
    best = min(attempts, key=lambda one: (one.used > 1, abs(one.used - 1)))
    chosen = plans[attempts.index(best)]
    record = {
        "asked": latency,
        "seconds": best.seconds,
        "dense_seconds": best.dense,
        "share_of_limit": best.used,
        "rounds": len(attempts),
    }
    options = {**chosen.options, "calibrated": record}
    return Calibrated(replace(chosen, options=options), best.used <= 1, tuple(attempts))
