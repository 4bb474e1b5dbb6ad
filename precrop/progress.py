"""Messages on standard error beside a result: progress, notes, and with ``-v`` every step."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from precrop.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Wraps a loop's items to show its progress; also takes a title and the number of items."""

Told = Callable[[str, float], None]
"""Receives what is being done, in words, and the share of the work that is complete."""

_DEAF = (AttributeError, OSError, ValueError)
"""Errors of a standard error that cannot be written to: None, closed, or any other object."""

PATIENCE = 2.0
"""Seconds after which a step shows that it is still running."""


class Level(IntEnum):
    """How much is written; warnings and errors always are."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


_level = ContextVar("level", default=Level.USUAL)


@contextmanager
def speaking(level: Level) -> Iterator[None]:
    """Set the level of messages within this context."""
    token = _level.set(level)
    try:
        yield
    finally:
        _level.reset(token)


def speaks(level: Level = Level.USUAL) -> bool:
    """Return whether messages of this level are written."""
    return _level.get() >= level


def say(text: str) -> None:
    """Write one line on standard error, or nothing if that is not possible."""
    with suppress(*_DEAF):
        sys.stderr.write(f"precrop: {one_line(text)}\n")


def note(text: str) -> None:
    """Write one line on standard error, unless quiet was asked for."""
    if speaks():
        say(text)


def console() -> "Console":
    """Return a console on standard error for progress; it writes nothing if quiet was asked for.

    Nor does it where standard error is closed; where there is none, Rich itself writes nothing.
    """
    from rich.console import Console

    heard = speaks() and not getattr(sys.stderr, "closed", False)
    return Console(stderr=True, highlight=False, quiet=not heard)


def in_terminal() -> bool:
    """Return whether bars are shown: in a terminal, unless quiet was asked for."""
    with suppress(*_DEAF):
        return speaks() and sys.stderr.isatty()
    return False


def unheard(*said: object) -> None:
    """Ignore all arguments: a `Told` for callers who want no progress."""


def silent(items: Iterable[Any], title: str, total: int | None) -> Iterable[Any]:
    """A `Progress` that shows nothing."""
    return items


def bar(items: Iterable[Any], title: str, total: int | None) -> Iterable[Any]:
    """A `Progress` that shows a bar with the time left; it disappears at the end."""
    if not in_terminal():
        return items
    from rich.progress import track

    return track(items, title, total, console=console(), transient=True)


@contextmanager
def measuring(otherwise: Told = unheard) -> Iterator[Told]:
    """Show a bar for measurements, and yield the `Told` that advances it.

    It is drawn only when that is called: a thread that refreshes it would take time from what is
    measured. Where no bar is shown, ``otherwise`` is yielded.
    """
    if not in_terminal():
        yield otherwise
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, auto_refresh=False) as bars:
        task = bars.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            bars.update(task, description=what, completed=share, refresh=True)

        yield show


def lines(speak: Callable[[str], object] = note) -> Told:
    """Return a `Told` for use without a bar: it passes ``speak`` a line for each new activity."""
    last = ""

    def show(what: str, share: float) -> None:
        nonlocal last
        if what != last:
            last = what
            speak(f"{share:4.0%}  {what}")

    return show


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a running clock for work of unknown duration, once it has taken two seconds.

    With ``-v`` a line says how long it took.
    """
    start = time.perf_counter()
    with _clock(title):
        yield
    if speaks(Level.VERBOSE):
        note(f"{title}: {time.perf_counter() - start:.2f} s")


@contextmanager
def _clock(title: str) -> Iterator[None]:
    if not in_terminal():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    shown = Progress(*columns, console=console(), transient=True)
    shown.add_task(title, total=None)
    late = threading.Timer(PATIENCE, shown.start)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
        late.join()
        shown.stop()
