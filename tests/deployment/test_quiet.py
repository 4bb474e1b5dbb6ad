"""Waiting for a quiet machine, on a clock that the tests set."""

from collections.abc import Iterator

from precrop.deployment import quiet
from precrop.deployment.quiet import Quiet, wait

QUIET, BUSY = Quiet(0.01, 0.2), Quiet(0.8, 5.3)


def looks(*found: Quiet) -> Iterator[Quiet]:
    yield from found
    raise AssertionError("looked once too often")


class Clock:
    """Moves while somebody sleeps."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waited(*states: Quiet, patience: float = 10.0) -> tuple[Quiet, list[str], float]:
    clock, said, found = Clock(), list[str](), looks(*states)
    last = wait(
        said.append,
        patience=patience,
        listening=lambda _: next(found),
        clock=lambda: clock.now,
        sleep=clock.sleep,
    )
    return last, said, clock.now


def test_a_quiet_machine_costs_no_time() -> None:
    assert waited(QUIET) == (QUIET, [], 0.0)


def test_quiet_is_waited_for() -> None:
    last, said, seconds = waited(BUSY, BUSY, QUIET)
    assert last is QUIET
    (line,) = said
    assert "busy: the times of one computation vary by 80%, load 5.3; times may be too long" in line
    assert seconds == 2 * quiet.PAUSE


def test_but_not_for_ever() -> None:
    last, said, seconds = waited(*[BUSY] * 6)
    assert last is BUSY
    assert len(said) == 1
    assert seconds == 10.0
