"""What is said on standard error beside a result: progress, notes, and with ``-v`` every step."""

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
"""Shows how far a loop is: the loop's items, what it does in words, how many items there are."""

Told = Callable[[str, float], None]
"""Told what is done now, and the share of all that is over."""

_DEAF = (AttributeError, OSError, ValueError)
"""What standard error raises where nobody hears it: it may be None, closed, or anybody's object."""

PATIENCE = 2.0
"""Seconds after which a step shows that it is still at work."""


class Level(IntEnum):
    """How much is said; warnings and errors always are."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


_level = ContextVar("level", default=Level.USUAL)


@contextmanager
def speaking(level: Level) -> Iterator[None]:
    """Say as much as that within it."""
    token = _level.set(level)
    try:
        yield
    finally:
        _level.reset(token)


def speaks(level: Level = Level.USUAL) -> bool:
    """Whether what belongs to a level is said."""
    return _level.get() >= level


def say(text: str) -> None:
    """Write one line on standard error; where there is none, the work goes on without."""
    with suppress(*_DEAF):
        sys.stderr.write(f"precrop: {one_line(text)}\n")


def note(text: str) -> None:
    """Write one line on standard error, unless quiet was asked for."""
    if speaks():
        say(text)


def console() -> "Console":
    """Standard error for lines about progress; it swallows them where quiet was asked for.

    So it does where standard error is closed; where there is none, Rich does it by itself.
    """
    from rich.console import Console

    heard = speaks() and not getattr(sys.stderr, "closed", False)
    return Console(stderr=True, highlight=False, quiet=not heard)


def in_terminal() -> bool:
    """Whether bars are shown: in a terminal, unless quiet was asked for."""
    with suppress(*_DEAF):
        return speaks() and sys.stderr.isatty()
    return False


def unheard(*said: object) -> None:
    """Take the place of a listener where nobody listens."""


def silent(items: Iterable[Any], title: str, total: int | None) -> Iterable[Any]:
    """A `Progress` that shows nothing."""
    return items


def bar(items: Iterable[Any], title: str, total: int | None) -> Iterable[Any]:
    """A `Progress` with the time left, which goes away when it is full."""
    if not in_terminal():
        return items
    from rich.progress import track

    return track(items, title, total, console=console(), transient=True)


@contextmanager
def measuring(otherwise: Told = unheard) -> Iterator[Told]:
    """A bar for measurements, told what is done and the share of all that is over.

    It is drawn only when told to: a thread that draws by itself would take time from what is
    measured. Where no bar is shown, ``otherwise`` is told.
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
    """Progress as lines for ``speak``, one for everything that is done: where there is no bar."""
    last = ""

    def show(what: str, share: float) -> None:
        nonlocal last
        if what != last:
            last = what
            speak(f"{share:4.0%}  {what}")

    return show


@contextmanager
def step(title: str) -> Iterator[None]:
    """Something whose end nobody can foretell: a running clock once it takes two seconds.

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
