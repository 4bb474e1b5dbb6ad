"""Running a study's cells on an engine: each once, whatever is interrupted or runs beside it."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    Args:
        cells: of a study.
        store: of their rows.
        engine: runs them; it is closed at the end.
        retry_failed: run those that failed before once more.
        tell: called with what happens.

    Raises:
        PrecropError: the store cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    running = _Running(cells, store, engine, retry_failed, tell)
    try:
        return running.all()
    finally:
        engine.close()
        for claim in running.claims.values():
            claim.release()


class _Running:
    """The state of `run_study`: every cell to run is in one of its collections."""

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        engine: Engine,
        retry_failed: bool,
        tell: Callable[[Event], None],
    ) -> None:
        self._store, self._engine, self._tell = store, engine, tell
        self._before = store.tally()
        todo = to_run(cells, self._before, retry_failed=retry_failed)
        self._summary = Summary(skipped=len({cell.id for cell in cells}) - len(todo))
        self._pending = deque(todo)
        self._running: dict[str, tuple[Cell, datetime]] = {}
        self._waiting: dict[str, tuple[Cell, Path]] = {}
        """Cells that another process runs, or whose run it trains, with its lock."""
        self.claims: dict[str, Lock] = {}
        self._deaths: Counter[str] = Counter()

    def all(self) -> Summary:
        """Run until nothing is left."""
        began = looked = time.perf_counter()
        while self._pending or self._running or self._waiting:
            while len(self._running) < self._engine.places and (cell := self._next()):
                self._running[cell.id] = (cell, datetime.now(UTC))
                self._engine.start(cell)
                self._tell(Started(cell.id))
            for event in self._engine.wait(_TURN):
                self._tell(self._taken(event))
            if time.perf_counter() - looked >= LOOK:
                looked = time.perf_counter()
                self._look_again()
        self._summary.seconds = time.perf_counter() - began
        return self._summary

    def _next(self) -> Cell | None:
        """The next cell that is ours to run, claimed."""
        while self._pending:
            cell = self._pending.popleft()
            if cell.id in self.claims:
                return cell
            path = self._store.path / "claims" / cell.id
            claim = Lock.take(path)
            if claim is None:
                self._waiting[cell.id] = cell, path
            elif self._store.tally().get(cell.id) != self._before.get(cell.id):
                claim.release()  # another process has run it since we began
                self._summary.elsewhere += 1
                self._tell(DoneElsewhere(cell.id))
            else:
                self.claims[cell.id] = claim
                return cell
        return None

    def _taken(self, event: Event) -> Event:
        """What an engine's event means to the study, once that has learnt of it."""
        if isinstance(event, Died):
            event = self._failed_or(event)
        if isinstance(event, (Ended, Busy, Died)):
            cell, _ = self._running.pop(event.cell)
            if isinstance(event, Ended):
                self._end(event)
            elif isinstance(event, Busy):
                self._waiting[cell.id] = cell, event.lock
            else:
                self._pending.appendleft(cell)
        return event

    def _end(self, event: Ended) -> None:
        """Keep a cell's row; its claim is given up after that, so that nobody runs it again."""
        self._store.append([event.row])
        self.claims.pop(event.cell).release()
        failed = event.row.status == "failed"
        self._summary.failed += failed
        self._summary.done += not failed
        self._summary.trained += event.row.seconds
        self._summary.overhead += event.row.overhead

    def _failed_or(self, event: Died) -> Ended | Died:
        """A cell that kills its processes has failed; of another the run goes on where it was."""
        cell, started = self._running[event.cell]
        self._deaths[cell.id] += 1
        if self._deaths[cell.id] < _ATTEMPTS:
            return event
        error = PrecropError(f"the process that ran it died {_ATTEMPTS} times: {event.reason}")
        return Ended(cell.id, failure(cell, error, started=started, ended=datetime.now(UTC)))

    def _look_again(self) -> None:
        """Bring cells back whose lock is free by now, in their turn after all others."""
        elsewhere = self._waiting.keys() - self.claims.keys()
        self._tell(Elsewhere(len(elsewhere)))
        for cell, lock in list(self._waiting.values()):
            if not is_claimed(lock):
                del self._waiting[cell.id]
                self._pending.append(cell)
