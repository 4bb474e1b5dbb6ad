"""Closes the loop: plans, builds, measures the whole network, and corrects what is asked of a plan.

A profile knows operations, not the network as a whole. The measured time of the planned network
says by how much its prediction is off at that size; the next plan is asked for a time that is
wrong by as much the other way.
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
"""Plans that are made, not measured, to find how narrow a network may be."""
MOST_ROUNDS = 5
"""Plans that are measured, at most."""
_AIM = 0.96
"""Where in the asked time the next plan aims: below it, since widths come in steps."""
_EXPONENTS = (0.7, 1.5)
"""Least and greatest power of what was asked that measured times are taken to follow."""
_CLOSE = 0.94
"""A plan at this share of the asked time or above, and within it, is not improved any more."""


@dataclass(frozen=True)
class Attempt:
    """One plan that was measured, side by side with the original.

    Attributes:
        asked: share of the original's predicted latency that the plan was given.
        seconds: median of the planned network.
        dense: median of the original in the same rounds, in seconds.
        limit: seconds that were allowed, in terms of the same rounds.
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
    """The plan that came closest to the asked time from below, and all that were measured.

    ``met`` is whether it is at or under the asked time; if none was, the fastest is the plan.
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
    """Plan until the measured time of the built network is at or under the asked one.

    Plans at most five times. Times are medians of interleaved rounds with the original, so a share
    is a share of what the original took in the same rounds; both are loaded a few times.

    Args:
        model: the network; it stays as it was.
        input_shape: as for `precrop.plan`.
        latency: a share of the original's time, or a string such as ``"8ms"``.
        device_profile: as for `precrop.plan`; its runtime and device are those that are measured.
        batch_size: inputs in one pass.
        threads: of the CPU; the profile's, or all, if None.
        rounds: of one measurement.
        progress: told in words what is being done.
        options: further ones of `precrop.plan`.

    Raises:
        BudgetError: no network that is allowed is predicted to be so fast.
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
                break  # widths have no step in between
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
    """What to ask of the first plan: the share itself, or the time over the original's."""
    asked, other = (parse_share("latency", latency, n * _SECOND) for n in (1, 2))
    if asked == other:  # whatever the original takes
        return asked
    return min(asked / median_seconds(dense, 10, stopwatch), 1.0)


def limit(latency: Budget, dense: float) -> float:
    """The seconds that a budget allows where the original takes ``dense``.

    Raises:
        BudgetError: it is neither a share nor a time.
    """
    return parse_budget("latency", latency, round(dense * _SECOND)) / _SECOND


def _narrowest(
    planned: Callable[..., Plan], impossible: float, possible: float
) -> tuple[float, Plan | None]:
    """The least share between both that a plan can have, roughly; no plan if it is the last one."""
    found = None
    for _ in range(_HALVINGS):
        between = math.sqrt(impossible * possible)
        try:
            possible, found = between, planned(latency=between)
        except BudgetError:
            impossible = between
    return possible, found


def _corrected(attempts: list[Attempt]) -> float:
    """What to ask next, so that the measured time comes to what is aimed at.

    Measured times follow a power of what was asked: between the closest plans on either side of the
    aim, the one that goes through both. Else it has the exponent of the last two plans: 1 after the
    first, and never far from it, since times have noise.
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
    """The slowest plan within the asked time, or else the fastest."""
    # Of those in time, else of all, the one that is closest to it.
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
