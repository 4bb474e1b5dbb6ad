"""The events of a running study, as an engine reports them."""

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
    """A cell's network is planned, and its training begins or resumes."""

    cell: str
    run: str
    epochs: int


@dataclass(frozen=True)
class Epoch:
    """An epoch has ended, with this held-out accuracy."""

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
    """Another process trains the run that a cell leads to; the lock is free when it has ended."""

    cell: str
    lock: Path


@dataclass(frozen=True)
class Died:
    """The process that ran a cell has died."""

    cell: str
    reason: str


@dataclass(frozen=True)
class DoneElsewhere:
    """Another process has run a cell in the meantime."""

    cell: str


@dataclass(frozen=True)
class Elsewhere:
    """The number of cells that another ``precrop study run`` on the same store is running."""

    cells: int


Event = Started | Began | Epoch | Ended | Busy | Died | DoneElsewhere | Elsewhere
Report = Callable[[Began | Epoch], None]
Work = Callable[["Cell", Path, Report], tuple[Ended | Busy, bool]]
"""Runs a cell, as `precrop.study.worker.work`; the flag says whether its process is still fit."""
