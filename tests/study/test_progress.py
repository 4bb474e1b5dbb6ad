"""How far a study is: the time left, and what is said."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from precrop.study import progress
from precrop.study.cells import Cell
from precrop.study.events import (
    Began,
    Busy,
    Died,
    DoneElsewhere,
    Elsewhere,
    Ended,
    Epoch,
    Event,
    Started,
)
from precrop.study.progress import Forecast, duration, shown
from tests.study.fake_work import cell, row_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def after(clock: Clock, forecast: Forecast, *events: tuple[float, Event]) -> float | None:
    """The seconds left when events have come, each so many seconds after the one before."""
    for seconds, event in events:
        clock.now += seconds
        forecast.take(event)
    return forecast.seconds()


def begun(one: Cell, epochs: int = 4) -> list[tuple[float, Event]]:
    return [(0, Started(one.id)), (0, Began(one.id, "0" * 12, epochs))]


def ended(one: Cell, status: str = "done") -> Event:
    return Ended(one.id, row_of(one, status))


def test_cells_take_as_long_as_those_like_them() -> None:
    clock, cells = Clock(), [cell(name, seed) for name in ("small", "large") for seed in range(3)]
    forecast = Forecast(cells, lambda: 1, clock)
    assert after(clock, forecast, (0, Elsewhere(0)), *begun(cells[0])) is None
    assert after(clock, forecast, (10, Epoch(cells[0].id, 1, 0.5))) == 30 + 5 * 40
    clock.now += 4
    assert forecast.seconds() == 26 + 5 * 40
    assert after(clock, forecast, (6, ended(cells[0]))) == 5 * 20  # that is how long it took
    assert after(clock, forecast, *begun(cells[3]), (50, ended(cells[3]))) == 2 * 20 + 2 * 50
    assert forecast.over == 2
    side_by_side = Forecast(cells, lambda: 4, clock)
    assert after(clock, side_by_side, *begun(cells[0]), (12, ended(cells[0]))) == 5 * 12 / 4
    assert duration(5 * 12 / 4) == "0:00:15"
    assert duration(None) == "?"


def test_a_run_that_goes_on_has_fewer_epochs_to_train() -> None:
    clock, one = Clock(), cell()
    forecast = Forecast([one], lambda: 1, clock)
    assert after(clock, forecast, *begun(one, 10), (5, Epoch(one.id, 8, 0.5))) == 2 * 5
    clock.now += 60  # an epoch that takes longer than all before
    assert forecast.seconds() == 0


@pytest.mark.parametrize("event", [Busy(cell().id, Path("lock")), Died(cell().id, "why")])
def test_what_is_run_again_begins_anew(event: Event) -> None:
    clock, one = Clock(), cell()
    forecast = Forecast([one], lambda: 1, clock)
    course = [*begun(one), (10, Epoch(one.id, 1, 0.5)), (1, event)]
    assert after(clock, forecast, *course) is None
    assert after(clock, forecast, *begun(one), (7, Epoch(one.id, 2, 0.5))) == 2 * 7


def test_failures_tell_nothing_of_the_time() -> None:
    clock, cells = Clock(), [cell(seed=seed) for seed in range(2)]
    forecast = Forecast(cells, lambda: 1, clock)
    assert after(clock, forecast, *begun(cells[0]), (1, ended(cells[0], "failed"))) is None
    assert forecast.over == 1


def test_what_another_process_has_run_is_over() -> None:
    clock, cells = Clock(), [cell(seed=seed) for seed in range(3)]
    forecast = Forecast(cells, lambda: 1, clock)
    course = [*begun(cells[0]), (10, ended(cells[0])), (0, DoneElsewhere(cells[1].id))]
    assert after(clock, forecast, *course) == 10
    assert forecast.over == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_said(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A line for what is over and what has died; in a terminal bars besides."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False)
    monkeypatch.setattr(progress, "standard_error", lambda: console)
    monkeypatch.setattr(progress, "in_terminal", lambda: terminal)
    cells = [cell(seed=seed) for seed in range(4)]
    with shown(cells, lambda: 1) as tell:
        for event in (
            *(event for _, event in begun(cells[0])),
            Elsewhere(1),
            Died(cells[0].id, "killed by SIGKILL"),
            *(event for _, event in begun(cells[0])),
            Epoch(cells[0].id, 1, 0.25),
            ended(cells[0]),
            Started(cells[1].id),
            ended(cells[1], "failed"),
            Started(cells[3].id),
            Ended(cells[3].id, row_of(cells[3], kind="masked", params=400, base_params=1000)),
            DoneElsewhere(cells[2].id),
        ):
            tell(event)
    said = out.getvalue()
    assert "fine, dense, seed 0: killed by SIGKILL; it is run again" in said
    assert "[1/4] fine, dense, seed 0  accuracy 85.00%" in said
    assert said.count("was asked for") == 1
    assert "; params 40.0% where 30.0% was asked for" in said
    assert "[2/4] fine, dense, seed 1  failed: it broke  " in said
    assert ("in all" in said) == terminal
    assert terminal or said.count("\n") == 4
