"""How far a study is: bars in a terminal, else a line per cell that is over."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from precrop.progress import console as standard_error
from precrop.progress import in_terminal
from precrop.study.cells import Cell, label
from precrop.study.events import Began, Busy, Died, Elsewhere, Ended, Epoch, Event, Started
from precrop.study.rows import Row


@dataclass
class _Course:
    """A cell that is running."""

    started: float
    first: int = 0
    epoch: int = 0
    epochs: int = 0

    def expected(self, now: float) -> float | None:
        """Seconds that it will have taken, when there was an epoch to tell."""
        if self.epoch <= self.first:
            return None
        return (now - self.started) / (self.epoch - self.first) * (self.epochs - self.first)


class Forecast:
    """Estimates the time left from the cells that are over and the epochs of those that run.

    Args:
        cells: that are to be run.
        places: cells that run at the same time.
        clock: tells seconds.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        places: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {cell.id: cell for cell in cells}
        self._all = dict(self._left)
        self._places, self._clock = places, clock
        self._running: dict[str, _Course] = {}
        self._took: list[tuple[Cell, float]] = []

    @property
    def over(self) -> int:
        """Cells that are over."""
        return len(self._all) - len(self._left)

    def take(self, event: Event) -> None:
        """Learn of an event."""
        if isinstance(event, Started):
            self._running[event.cell] = _Course(self._clock())
        elif isinstance(event, Began):
            course = self._running[event.cell]
            course.first = course.epoch = event.epoch
            course.epochs = event.epochs
        elif isinstance(event, Epoch):
            self._running[event.cell].epoch = event.epoch
        elif isinstance(event, (Busy, Died)):
            self._running.pop(event.cell, None)
        elif isinstance(event, Ended):
            course = self._running.pop(event.cell)
            cell = self._left.pop(event.cell)
            if event.row.status == "done":
                self._took.append((cell, self._clock() - course.started))

    def seconds(self) -> float | None:
        """Until all is over; None while nothing is known."""
        now = self._clock()
        known = [*self._took]
        for name, course in self._running.items():
            expected = course.expected(now)
            if expected is not None:
                known.append((self._all[name], expected))
        if not known:
            return None
        left = [self._left_of(cell, known, now) for cell in self._left.values()]
        return max(sum(left) / max(1, self._places()), *left, 0.0) if left else 0.0

    def _left_of(self, cell: Cell, known: Sequence[tuple[Cell, float]], now: float) -> float:
        course = self._running.get(cell.id)
        expected = None if course is None else course.expected(now)
        if expected is None:
            expected = _like(cell, known)
        return max(0.0, expected - (now - course.started if course else 0.0))


def _like(cell: Cell, known: Sequence[tuple[Cell, float]]) -> float:
    """Seconds that cells took which are most like this one."""
    network = [(other, took) for other, took in known if other.network == cell.network]
    variant = [(other, took) for other, took in network if other.variant == cell.variant]
    return statistics.fmean(took for _, took in variant or network or known)


class _Lines:
    """A line on standard error for each cell that is over."""

    def __init__(self, cells: Sequence[Cell], forecast: Forecast, console: Console) -> None:
        self._cells = {cell.id: cell for cell in cells}
        self._forecast, self._console = forecast, console

    def __call__(self, event: Event) -> None:
        """Show what an event changes."""
        self._forecast.take(event)
        if isinstance(event, Ended):
            count = f"[{self._forecast.over}/{len(self._cells)}]"
            left = duration(self._forecast.seconds())
            what = f"{label(self._cells[event.cell])}  {_came_to(event.row)}"
            self._say(f"{count} {what}  {left} left")
        elif isinstance(event, Died):
            self._say(f"{label(self._cells[event.cell])}: {event.reason}; it is run again")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


class _Bars(_Lines):
    """On top of the lines a bar for the study and one for each cell that is running."""

    def __init__(
        self, cells: Sequence[Cell], forecast: Forecast, console: Console, bars: Progress
    ) -> None:
        super().__init__(cells, forecast, console)
        self._bars = bars
        self._whole = bars.add_task("in all", total=len(cells), text="")
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show what an event changes."""
        super().__call__(event)
        if isinstance(event, Started):
            name = label(self._cells[event.cell])
            self._tasks[event.cell] = self._bars.add_task(name, total=None, text="is prepared")
        elif isinstance(event, Began):
            self._bars.update(
                self._tasks[event.cell],
                total=event.epochs,
                completed=event.epoch,
                text=f"run {event.run}",
            )
        elif isinstance(event, Epoch):
            text = f"{event.accuracy:.2%} right"
            self._bars.update(self._tasks[event.cell], completed=event.epoch, text=text)
        elif isinstance(event, (Ended, Busy, Died)):
            task = self._tasks.pop(event.cell, None)
            if task is not None:
                self._bars.remove_task(task)
        elsewhere = event.cells if isinstance(event, Elsewhere) else 0
        others = f", {elsewhere} run by another process" if elsewhere else ""
        text = f"{duration(self._forecast.seconds())} left{others}"
        self._bars.update(self._whole, completed=self._forecast.over, text=text)


@contextmanager
def shown(cells: Sequence[Cell], places: Callable[[], int]) -> Iterator[Callable[[Event], None]]:
    """Show on standard error how far the running of cells is; gives what to tell events to.

    Args:
        cells: that are to be run.
        places: cells that run at the same time, now.
    """
    console = standard_error()
    forecast = Forecast(cells, places)
    if not in_terminal():
        yield _Lines(cells, forecast, console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    text = TextColumn("{task.fields[text]}", markup=False)
    with Progress(*columns, text, console=console, transient=True) as bars:
        yield _Bars(cells, forecast, console, bars)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a question mark where nobody knows."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def _came_to(row: Row) -> str:
    if row.status == "failed":
        return f"failed: {row.error}"
    assert row.accuracy is not None
    assert row.best_accuracy is not None
    return f"{row.accuracy:.2%} right (best {row.best_accuracy:.2%}), {row.seconds:.1f} s"
