"""Whether a machine is quiet enough for measurements: no other program takes its time."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from precrop.deployment.runtimes import torch_run
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Clock, host_stopwatch, interleaved
from precrop.modules.threads import threads_restored

QUIET = 0.1
"""Spread of one and the same computation up to which times can be trusted."""
PATIENCE, PAUSE = 15.0, 2.0
"""Seconds: how long quiet is waited for, and between two tries."""
_SAMPLES, _SECONDS, _SIDE = 60, 0.005, 256


@dataclass(frozen=True)
class Quiet:
    """How steadily one and the same computation ran, on one thread.

    Attributes:
        spread: from the 10th to the 90th percentile of its time, as a share of the median.
        load: processes that wanted to run in the last minute, on average; None where the system
            does not tell.
    """

    spread: float
    load: float | None

    @property
    def enough(self) -> bool:
        """Whether times measured now can be trusted."""
        return self.spread <= QUIET

    def __str__(self) -> str:
        load = "" if self.load is None else f", load {self.load:.1f}"
        return f"the times of one computation vary by {self.spread:.0%}{load}"


def listen(clock: Clock = time.perf_counter) -> Quiet:
    """Run a short computation again and again, for a third of a second by this clock."""
    factor = torch.ones(_SIDE, _SIDE)
    with threads_restored():
        product = torch_run(lambda: factor @ factor, Setting(threads=1))
        timing = interleaved(
            {"product": product},
            rounds=_SAMPLES,
            least_seconds=_SECONDS,
            stopwatch=partial(host_stopwatch, clock=clock),
        )["product"]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Quiet(timing.spread, load)


def wait(told: Callable[[str], object], clock: Clock) -> Quiet:
    """Wait until the machine is quiet enough, but not for long; what it was like in the end.

    Where it is not quiet ``told`` gets that in words, once, before the first pause.
    """
    start = time.monotonic()
    found = listen(clock)
    if not found.enough:
        told(f"the machine is busy: {found}; times may be too long")
    while not found.enough and time.monotonic() - start + PAUSE <= PATIENCE:
        time.sleep(PAUSE)
        found = listen(clock)
    return found
