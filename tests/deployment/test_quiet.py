"""Waiting for a quiet machine, on a clock that the tests set."""

import time
from collections.abc import Callable

import pytest

from precrop.deployment import quiet
from precrop.deployment.quiet import Quiet, wait

QUIET, BUSY = Quiet(0.01, 0.2), Quiet(0.8, 5.3)
Waited = Callable[..., tuple[Quiet, list[str], float]]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Waited:
    def after(*states: Quiet) -> tuple[Quiet, list[str], float]:
        said, slept, found = list[str](), list[float](), iter(states)
        monkeypatch.setattr(quiet, "listen", lambda _: next(found))
        monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
        monkeypatch.setattr(time, "sleep", slept.append)
        last = wait(said.append, time.perf_counter)
        assert next(found, None) is None
        return last, said, sum(slept)

    return after


def test_a_quiet_machine_costs_no_time(waited: Waited) -> None:
    assert waited(QUIET) == (QUIET, [], 0.0)


def test_quiet_is_waited_for(waited: Waited) -> None:
    last, said, seconds = waited(BUSY, BUSY, QUIET)
    assert last is QUIET
    (line,) = said
    assert "busy: the times of one computation vary by 80%, load 5.3; times may be too long" in line
    assert seconds == 2 * quiet.PAUSE


def test_but_not_for_ever(waited: Waited) -> None:
    last, said, seconds = waited(*[BUSY] * 8)
    assert last is BUSY
    assert len(said) == 1
    assert seconds == 14.0 <= quiet.PATIENCE
