"""Running a study's cells on an engine: each once, whatever is interrupted or runs beside it."""

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
"""Seconds to wait for an event before looking at claims and free places again."""
LOOK = 1.0
"""Seconds between two looks at what others have claimed."""
_ATTEMPTS = 2
"""Processes that may die of a cell before it counts as failed."""


class Engine(Protocol):
    """What runs cells, several at a time.

    A cell that was started ends with one `Ended`, `Busy` or `Died`.
    """

    @property
    def places(self) -> int:
        """Cells that may run at the same time, now."""

    def start(self, cell: Cell) -> None:
        """Begin a cell; there is a place for it."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened since the last call, after that time at most."""

    def close(self) -> None:
        """Stop what runs, and let go of all processes."""


@dataclass
class Summary:
    """What a call of `run_study` has come to: numbers of cells, and seconds."""

    done: int = 0
    failed: int = 0
    skipped: int = 0  # they were in the store
    elsewhere: int = 0  # another process ran them in the meantime
    seconds: float = 0.0  # on the clock
    trained: float = 0.0  # that the cells took to train, all together
    overhead: float = 0.0  # of everything else that was done for them


def to_run(
    cells: Sequence[Cell], tally: Mapping[str, Counter[str]], *, retry_failed: bool = False
) -> list[Cell]:
    """The cells that the store has no result of, each once."""
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

    Several processes may do so for one store at once: they share the cells. Killed at any moment,
    the same call goes on.

    At its end the engine is closed. Cells that failed before are run if ``retry_failed`` says so.

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
    running: dict[str, tuple[Cell, datetime]] = field(default_factory=dict)  # and since when
    waiting: dict[str, tuple[Cell, Path]] = field(default_factory=dict)
    """Cells that another process runs, or whose run it trains, with its lock."""
    claims: dict[str, Lock] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)

    def all(self) -> Summary:
        """Run until nothing is left."""
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
        """The next cell that is ours to run, claimed."""
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
        """What an engine's event means to the study, once that has learnt of it.

        A cell that kills its processes has failed; of another the run goes on where it was.
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
        """Keep a cell's row; its claim is given up after that, so that nobody runs it again."""
        self.store.append([event.row])
        self.claims.pop(event.cell).release()
        failed = event.row.status == "failed"
        self.summary.failed += failed
        self.summary.done += not failed
        self.summary.trained += event.row.seconds
        self.summary.overhead += event.row.overhead

    def _look_again(self) -> None:
        """Bring cells back whose lock is free by now, in their turn after all others."""
        elsewhere = self.waiting.keys() - self.claims.keys()
        self.tell(Elsewhere(len(elsewhere)))
        for cell, lock in list(self.waiting.values()):
            if not is_claimed(lock):
                del self.waiting[cell.id]
                self.pending.append(cell)
