"""Whether a machine is quiet enough for measurements: no other program takes its time."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from precrop.deployment.runtimes import torch_runner
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Stopwatch, interleaved
from precrop.progress import unheard

QUIET = 0.1
"""Spread of one and the same computation up to which times can be trusted."""
_PATIENCE, PAUSE = 15.0, 2.0
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


def listen(stopwatch: Stopwatch | None = None) -> Quiet:
    """Run a short computation again and again, for a third of a second.

    Args:
        stopwatch: takes its times, as those that matter are taken; the host's clock by default.
    """
    factor = torch.ones(_SIDE, _SIDE)
    with torch_runner(lambda: factor @ factor, Setting(threads=1)) as product:
        timing = interleaved(
            {"product": product}, rounds=_SAMPLES, least_seconds=_SECONDS, stopwatch=stopwatch
        )["product"]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Quiet(timing.spread, load)


def wait(
    told: Callable[[str], object] = unheard,
    stopwatch: Stopwatch | None = None,
    *,
    patience: float = _PATIENCE,
    listening: Callable[[Stopwatch | None], Quiet] = listen,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Quiet:
    """Wait until the machine is quiet enough, but not for long; what it was like in the end.

    Args:
        told: in words that it is not quiet, once, before the first pause.
        stopwatch: as for `listen`.
        patience: seconds.
        listening: what finds out.
        clock: tells seconds.
        sleep: waits for so many seconds.
    """
    start = clock()
    found = listening(stopwatch)
    if not found.enough:
        told(f"the machine is busy: {found}; times may be too long")
    while not found.enough and clock() - start + PAUSE <= patience:
        sleep(PAUSE)
        found = listening(stopwatch)
    return found
