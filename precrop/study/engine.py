"""Running a study's cells on an engine: each once, across interruptions and several processes."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from precrop.errors import PrecropError
from precrop.study.cells import Cell
from precrop.study.events import Busy, Died, DoneElsewhere, Elsewhere, Ended, Event, Started
from precrop.study.locks import Lock, is_claimed
from precrop.study.outcomes import failure
from precrop.study.store import Store

_TURN = 0.25
"""Seconds to wait for an event before checking claims and free places again."""
LOOK = 1.0
"""Seconds between two checks of what other processes have claimed."""
_ATTEMPTS = 2
"""Processes that may die while they run a cell before it counts as failed."""


class Engine(Protocol):
    """Runs cells, several at a time.

    Every cell that was started ends with one `Ended`, `Busy` or `Died`.
    """

    @property
    def places(self) -> int:
        """The number of cells that may run at the same time, now."""

    def start(self, cell: Cell) -> None:
        """Start a cell; the caller has made sure that there is a place for it."""

    def wait(self, seconds: float) -> list[Event]:
        """Return the events since the last call, after ``seconds`` at most."""

    def close(self) -> None:
        """Stop running cells, and let go of all processes."""


@dataclass
class Summary:
    """The outcome of a call of `run_study`: numbers of cells, and seconds."""

    done: int = 0
    failed: int = 0
    skipped: int = 0  # already in the store
    elsewhere: int = 0  # run by another process in the meantime
    seconds: float = 0.0  # wall-clock time
    trained: float = 0.0  # training time of all cells together
    overhead: float = 0.0  # time for everything else that was done for them


def to_run(
    cells: Sequence[Cell], tally: Mapping[str, Counter[str]], *, retry_failed: bool = False
) -> list[Cell]:
    """Return the cells that have no result in the store, each once."""
    left = {}
    for cell in cells:
        seen = tally.get(cell.id, Counter())
        if not seen["done"] and (retry_failed or not seen["failed"]):
            left[cell.id] = cell
    return list(left.values())


def run_study(
    cells: Sequence[Cell],
    store: Store,
    engine: Engine,
    *,
    retry_failed: bool = False,
    tell: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Run the cells that are not in the store, and append a row for each.

    Several processes may run the cells of one store at once: they share them. After being killed at
    any moment, the same call resumes.

    The engine is closed at the end. With ``retry_failed``, cells that failed before are run again.

    Raises:
        PrecropError: the store cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    before = store.tally()
    todo = to_run(cells, before, retry_failed=retry_failed)
    summary = Summary(skipped=len({cell.id for cell in cells}) - len(todo))
    running = _Running(store, engine, tell, before, deque(todo), summary)
    try:
        return running.all()
    finally:
        engine.close()
        for claim in running.claims.values():
            claim.release()


@dataclass
class _Running:
    """The state of `run_study`: every cell to run is in one of its collections."""

    store: Store
    engine: Engine
    tell: Callable[[Event], None]
    before: Mapping[str, Counter[str]]  # the store's tally when it began
    pending: deque[Cell]
    summary: Summary
    running: dict[str, tuple[Cell, datetime]] = field(default_factory=dict)  # with its start time
    waiting: dict[str, tuple[Cell, Path]] = field(default_factory=dict)
    """Cells that another process runs, or whose run it trains, with the lock to wait for."""
    claims: dict[str, Lock] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)

    def all(self) -> Summary:
        """Run until no cell is left, and return the summary."""
        began = looked = time.perf_counter()
        while self.pending or self.running or self.waiting:
            while len(self.running) < self.engine.places and (cell := self._next()):
                self.running[cell.id] = (cell, datetime.now(UTC))
                self.engine.start(cell)
                self.tell(Started(cell.id))
            for event in self.engine.wait(_TURN):
                self.tell(self._taken(event))
            if time.perf_counter() - looked >= LOOK:
                looked = time.perf_counter()
                self._look_again()
        self.summary.seconds = time.perf_counter() - began
        return self.summary

    def _next(self) -> Cell | None:
        """Claim and return the next cell to run, or None if there is none."""
        while self.pending:
            cell = self.pending.popleft()
            if cell.id in self.claims:
                return cell
            path = self.store.path / "claims" / cell.id
            claim = Lock.take(path)
            if claim is None:
                self.waiting[cell.id] = cell, path
            elif self.store.tally().get(cell.id) != self.before.get(cell.id):
                claim.release()  # another process has run it since we began
                self.summary.elsewhere += 1
                self.tell(DoneElsewhere(cell.id))
            else:
                self.claims[cell.id] = claim
                return cell
        return None

    def _taken(self, event: Event) -> Event:
        """Update the state by an engine's event; return the event that this means for the study.

        A cell has failed if processes died while they ran it; the first time, it is run again.
        """
        if not isinstance(event, (Ended, Busy, Died)):
            return event
        cell, started = self.running.pop(event.cell)
        if isinstance(event, Died):
            self.deaths[cell.id] += 1
            if self.deaths[cell.id] < _ATTEMPTS:
                self.pending.appendleft(cell)
                return event
            error = PrecropError(f"the process that ran it died {_ATTEMPTS} times: {event.reason}")
            event = Ended(cell.id, failure(cell, error, started=started, ended=datetime.now(UTC)))
        if isinstance(event, Busy):
            self.waiting[cell.id] = cell, event.lock
        else:
            self._end(event)
        return event

    def _end(self, event: Ended) -> None:
        """Store a cell's row, and only then release its claim, so that nobody runs it again."""
        self.store.append([event.row])
        self.claims.pop(event.cell).release()
        failed = event.row.status == "failed"
        self.summary.failed += failed
        self.summary.done += not failed
        self.summary.trained += event.row.seconds
        self.summary.overhead += event.row.overhead

    def _look_again(self) -> None:
        """Report the cells run elsewhere; queue those whose lock is free, after all others."""
        elsewhere = self.waiting.keys() - self.claims.keys()
        self.tell(Elsewhere(len(elsewhere)))
        for cell, lock in list(self.waiting.values()):
            if not is_claimed(lock):
                del self.waiting[cell.id]
                self.pending.append(cell)
