"""Checks whether a machine is quiet enough for measurements: no other program takes its time."""

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
"""Largest spread of a repeated computation's times at which measurements can be trusted."""
PATIENCE, PAUSE = 15.0, 2.0
"""Seconds to wait for a quiet machine at most, and between two checks."""
_SAMPLES, _SECONDS, _SIDE = 60, 0.005, 256


@dataclass(frozen=True)
class Quiet:
    """How steadily a repeated computation ran, on one thread.

    Attributes:
        spread: from the 10th to the 90th percentile of its times, as a share of the median.
        load: load average of the last minute; None if the system does not report it.
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
    """Time a short computation repeatedly, for about a third of a second by this clock."""
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
    """Wait until the machine is quiet enough, but not for long; return how quiet it was at last.

    If it is not quiet at first, ``told`` is called with a message, once, before the first pause.
    """
    start = time.monotonic()
    found = listen(clock)
    if not found.enough:
        told(f"the machine is busy: {found}; times may be too long")
    while not found.enough and time.monotonic() - start + PAUSE <= PATIENCE:
        time.sleep(PAUSE)
        found = listen(clock)
    return found
