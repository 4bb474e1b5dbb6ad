"""Times several functions side by side: warmed up, interleaved, with their spread."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from precrop.errors import PrecropError
from precrop.progress import unheard

Name = TypeVar("Name")
Run = Callable[[], Any]
"""A function to time; its result is dropped."""
Clock = Callable[[], float]
"""Returns the time in seconds."""
Stopwatch = Callable[[Run, int], float]
"""Returns the seconds that a number of calls in a row take together."""
Progress = Callable[[float], object]
"""Called with the share of a measurement that is done."""


@dataclass(frozen=True)
class Timing:
    """Samples of one function's time: seconds per call, one sample for each round."""

    seconds: tuple[float, ...]

    @cached_property
    def median(self) -> float:
        """The middle sample, in seconds."""
        return statistics.median(self.seconds)

    @cached_property
    def low(self) -> float:
        """The 10th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.1))

    @cached_property
    def high(self) -> float:
        """The 90th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.9))

    @property
    def spread(self) -> float:
        """From the 10th to the 90th percentile, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def host_stopwatch(run: Run, repeats: int, clock: Clock = time.perf_counter) -> float:
    """Time calls in a row by a clock of the host."""
    start = clock()
    for _ in range(repeats):
        run()
    return clock() - start


def cuda_stopwatch(run: Run, repeats: int, device: str = "cuda") -> float:
    """Time calls in a row by two CUDA events in the GPU's current stream."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3  # from milliseconds


def interleaved(
    runners: Mapping[Name, Run],
    *,
    rounds: int = 30,
    warmup: int = 3,
    least_seconds: float = 0.0,
    stopwatch: Stopwatch = host_stopwatch,
    progress: Progress = unheard,
) -> dict[Name, Timing]:
    """Time several functions in turns, so that what slows the machine down slows all of them.

    Every round takes one sample of each function. The order rotates by one from round to round, so
    that each is first equally often (if the rounds are a multiple of their number). A sample of a
    short function is the mean of several calls in a row.

    Args:
        runners: functions to call, by name.
        rounds: samples of each.
        warmup: calls of each before the first sample; the time of the last one decides how many
            calls make a sample.
        least_seconds: least duration of a sample.
        stopwatch: takes the times; the default uses the host's clock.
        progress: called with the share of calls and samples that is done.

    Raises:
        PrecropError: ``rounds`` or ``warmup`` is less than 1.
    """
    if rounds < 1 or warmup < 1:
        raise PrecropError(f"{rounds} rounds after {warmup} warm-up calls: give 1 or more of both")
    names = list(runners)
    calls = itertools.count(1)

    def seconds(name: Name, repeats: int) -> float:
        taken = stopwatch(runners[name], repeats) / repeats
        progress(next(calls) / (len(runners) * (warmup + rounds)))
        return taken

    for _ in range(warmup):
        last = {name: seconds(name, 1) for name in names}
    repeats = {name: _repeats(last[name], least_seconds) for name in names}
    samples: dict[Name, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            samples[name].append(seconds(name, repeats[name]))
        names = [*names[1:], *names[:1]]
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def _repeats(seconds: float, least: float) -> int:
    """Return how many calls of ``seconds`` each last ``least`` seconds together; at most 1,000."""
    return min(max(math.ceil(least / max(seconds, 1e-9)), 1), 1000)
