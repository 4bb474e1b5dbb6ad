import itertools
import time
from functools import partial

import pytest

from precrop.deployment.timing import Run, Timing, host_stopwatch, interleaved
from precrop.errors import PrecropError
from tests.deployment.benched import Clock


class Workers:
    """Callables that move a clock and note who was called."""

    def __init__(self, **seconds: float) -> None:
        self.clock = Clock()
        self.calls: list[str] = []
        self.stopwatch = partial(host_stopwatch, clock=self.clock)
        self.runners = {name: self._worker(name, took) for name, took in seconds.items()}

    def _worker(self, name: str, took: float) -> Run:
        def work() -> None:
            self.calls.append(name)
            self.clock.now += took

        return work


def test_medians_and_percentiles() -> None:
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert timing.median == 3.0
    assert timing.low == pytest.approx(1.4)
    assert timing.high == pytest.approx(4.6)
    assert timing.spread == pytest.approx(3.2 / 3)


def test_percentiles_of_one_sample() -> None:
    timing = Timing((7.0,))
    assert (timing.low, timing.median, timing.high) == (7.0, 7.0, 7.0)


def test_each_runner_has_its_own_time() -> None:
    work = Workers(quick=0.25, slow=2.0)
    found = interleaved(work.runners, rounds=5, stopwatch=work.stopwatch)
    assert found["quick"].seconds == (0.25,) * 5
    assert found["slow"].seconds == (2.0,) * 5
    assert found["quick"].spread == 0.0


def test_rounds_rotate() -> None:
    work = Workers(a=1.0, b=1.0, c=1.0)
    interleaved(work.runners, rounds=4, warmup=2, stopwatch=work.stopwatch)
    assert "".join(work.calls) == "abcabc" + "abc" + "bca" + "cab" + "abc"


def test_short_runners_are_repeated_and_long_ones_are_not() -> None:
    work = Workers(short=0.25, long=3.0)
    found = interleaved(
        work.runners, rounds=2, warmup=1, least_seconds=1.0, stopwatch=work.stopwatch
    )
    assert work.calls.count("short") == 1 + 2 * 4
    assert work.calls.count("long") == 1 + 2
    assert found["short"].median == 0.25  # the mean of its repeats, not their sum


def test_a_runner_that_takes_no_time_is_repeated_a_bounded_number_of_times() -> None:
    work = Workers(none=0.0)
    found = interleaved(
        work.runners, rounds=1, warmup=1, least_seconds=1.0, stopwatch=work.stopwatch
    )
    assert len(work.calls) == 1 + 1000
    assert found["none"].spread == 0.0


def test_drift_hits_all_alike() -> None:
    """A machine that gets slower from call to call: one after the other would tell them apart."""
    clock, pace = Clock(), itertools.count(100)

    def work() -> None:
        clock.now += next(pace)

    stopwatch = partial(host_stopwatch, clock=clock)
    found = interleaved({"a": work, "b": work}, rounds=50, stopwatch=stopwatch)
    assert found["a"].median == pytest.approx(found["b"].median, rel=0.01)


def test_progress_goes_on_to_the_end() -> None:
    work = Workers(a=1.0, b=1.0)
    told: list[float] = []
    interleaved(work.runners, rounds=3, warmup=2, stopwatch=work.stopwatch, progress=told.append)
    assert told == [call / 10 for call in range(1, 11)]


def test_the_real_clock_runs() -> None:
    found = interleaved({"nap": lambda: time.sleep(0.002)}, rounds=3, warmup=1)
    assert all(seconds >= 0.002 for seconds in found["nap"].seconds)


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 3), (3, 0)])
def test_no_round_is_refused(rounds: int, warmup: int) -> None:
    with pytest.raises(PrecropError, match="give 1 or more of both"):
        interleaved({"a": int}, rounds=rounds, warmup=warmup)
