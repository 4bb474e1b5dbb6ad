"""Progress of a study: a line per cell that is over, and bars in a terminal."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from statistics import fmean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from precrop.linear.densities import WHOLE_UNITS
from precrop.progress import console as standard_error
from precrop.progress import in_terminal
from precrop.study.cells import Cell, label
from precrop.study.events import Began, Died, DoneElsewhere, Elsewhere, Ended, Epoch, Event, Started
from precrop.study.rows import Row


class Forecast:
    """Estimates the time left: a cell takes as long as the most similar ones took.

    ``places`` returns how many cells run at the same time, now.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        places: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._clock = places, clock
        self._kinds = {
            cell.id: ((cell.variant, str(cell.network)), ("", str(cell.network)), ("", ""))
            for cell in cells
        }
        """What cells are: from what few of them are to what all are."""
        self._left = dict.fromkeys(self._kinds)
        self._started: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._trained: Counter[str] = Counter()
        self._took: dict[str, float] = {}
        """Seconds that cells took, or will have taken if all their epochs take as long."""

    @property
    def over(self) -> int:
        """The number of cells that are over."""
        return len(self._kinds) - len(self._left)

    def take(self, event: Event) -> None:
        """Update the estimates by an event."""
        if isinstance(event, Elsewhere):
            return
        cell, now = event.cell, self._clock()
        if isinstance(event, DoneElsewhere):
            del self._left[cell]
        elif isinstance(event, Started):
            self._started[cell] = now
            self._trained[cell] = 0
        elif isinstance(event, Began):
            self._epochs[cell] = event.epochs
        elif isinstance(event, Epoch):
            self._trained[cell] += 1
            mine = self._trained[cell]  # earlier ones were trained before an interruption
            each = (now - self._started[cell]) / mine
            self._took[cell] = each * (mine + self._epochs[cell] - event.epoch)
        else:
            took = now - self._started.pop(cell)
            self._took.pop(cell, None)
            if isinstance(event, Ended):
                del self._left[cell]
                if event.row.status == "done":
                    self._took[cell] = took

    def seconds(self) -> float | None:
        """Return the seconds until all cells are over, or None while nothing is known."""
        known = defaultdict[tuple[str, str], list[float]](list)
        for cell, took in self._took.items():
            for kind in self._kinds[cell]:
                known[kind].append(took)
        if not known:
            return None
        means = {kind: fmean(found) for kind, found in known.items()}
        now, left = self._clock(), [0.0]
        for cell in self._left:
            alike = next(means[kind] for kind in self._kinds[cell] if kind in means)
            left.append(self._took.get(cell, alike) - (now - self._started.get(cell, now)))
        return max(sum(max(0.0, one) for one in left) / max(1, self._places()), *left)


@contextmanager
def shown(cells: Sequence[Cell], places: Callable[[], int]) -> Iterator[Callable[[Event], None]]:
    """Show the progress of cells on standard error; yield the function that takes the events.

    There is a line for each cell that is over, and in a terminal bars for the study and what runs.
    """
    console, forecast = standard_error(), Forecast(cells, places)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    text = TextColumn("{task.fields[text]}", markup=False)
    bars = Progress(*columns, text, console=console, transient=True)
    names = {cell.id: label(cell) for cell in cells}
    whole = bars.add_task("in all", total=len(cells), text="")
    tasks: dict[str, TaskID] = {}

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    def tell(event: Event) -> None:
        forecast.take(event)
        left = f"{duration(forecast.seconds())} left"
        if isinstance(event, Elsewhere):
            others = f", {event.cells} run by another process" if event.cells else ""
            bars.update(whole, text=left + others)
            return
        name, over = names[event.cell], forecast.over
        if isinstance(event, Started):
            tasks[event.cell] = bars.add_task(name, total=None, text="is prepared")
        elif isinstance(event, Began):
            bars.update(tasks[event.cell], total=event.epochs, text=f"run {event.run}")
        elif isinstance(event, Epoch):
            accuracy = f"accuracy {event.accuracy:.2%}"
            bars.update(tasks[event.cell], completed=event.epoch, text=accuracy)
        elif not isinstance(event, DoneElsewhere):
            bars.remove_task(tasks.pop(event.cell))
        if isinstance(event, Ended):
            say(f"[{over}/{len(names)}] {name}  {_came_to(event.row)}  {left}")
        elif isinstance(event, Died):
            say(f"{name}: {event.reason}; it is run again")
        bars.update(whole, completed=over, text=left)

    with bars if in_terminal() else nullcontext():
        yield tell


def duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds, or a question mark for None."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def _came_to(row: Row) -> str:
    if row.status == "failed":
        return f"failed: {row.error}"
    assert row.accuracy is not None
    assert row.best_accuracy is not None
    accuracy = f"accuracy {row.accuracy:.2%} (best {row.best_accuracy:.2%}), {row.seconds:.1f} s"
    return "; ".join([accuracy, *_above(row)])


def _above(row: Row) -> Iterator[str]:
    """Yield by how much a masked network exceeds its budgets, as whole units may."""
    for name in ("params", "macs") if row.kind == "masked" else ():
        has, base, asked = (getattr(row, f"{part}{name}") for part in ("", "base_", "asked_"))
        if asked is not None and has > asked * base * (1 + WHOLE_UNITS):
            yield f"{name} {has / base:.1%} where {asked:.1%} was asked for"
