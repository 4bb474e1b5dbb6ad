"""What the running of a study's cells comes to, as an engine tells it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from precrop.study.rows import Row

if TYPE_CHECKING:
    from precrop.study.cells import Cell


@dataclass(frozen=True)
class Started:
    """A cell was given to a process."""

    cell: str


@dataclass(frozen=True)
class Began:
    """A cell's network is planned and its training begins, or goes on."""

    cell: str
    run: str
    epochs: int


@dataclass(frozen=True)
class Epoch:
    """An epoch is over: the held-out accuracy after it."""

    cell: str
    epoch: int
    accuracy: float


@dataclass(frozen=True)
class Ended:
    """A cell is done, or failed."""

    cell: str
    row: Row


@dataclass(frozen=True)
class Busy:
    """A cell comes to a run that another process is training; it is free when the lock is."""

    cell: str
    lock: Path


@dataclass(frozen=True)
class Died:
    """The process that ran a cell is gone."""

    cell: str
    reason: str


@dataclass(frozen=True)
class DoneElsewhere:
    """Another process has run a cell meanwhile."""

    cell: str


@dataclass(frozen=True)
class Elsewhere:
    """So many cells are run by another ``precrop study run`` on the same store."""

    cells: int


Event = Started | Began | Epoch | Ended | Busy | Died | DoneElsewhere | Elsewhere
Report = Callable[[Began | Epoch], None]
Work = Callable[["Cell", Path, Report], tuple[Ended | Busy, bool]]
"""Runs a cell, as `precrop.study.worker.work`; whether its process is fit for another one."""
