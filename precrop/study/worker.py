"""What a process does with a cell: load the images, plan, train, and tell of it."""

import csv
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from precrop.errors import PrecropError
from precrop.study.cells import Cell, failure, outcome, prepare
from precrop.study.events import Began, Busy, Ended, Epoch, Event
from precrop.study.locks import Claim
from precrop.training.data import ImageData, load_data
from precrop.training.loop import train

Report = Callable[[Event], None]
_LOOK = 0.5
"""Seconds between two looks at a run's table of figures."""


def work(cell: Cell, output: Path, report: Report) -> tuple[Ended | Busy, bool]:
    """Run one cell.

    Args:
        cell: what to run.
        output: the folder of the runs' folders.
        report: called with what happens in the meantime, from another thread, too.

    Returns:
        What came of it, and whether this process is fit for another cell. After an error that
        nobody foresaw it may be short of memory, or its device unusable.
    """
    clock, started = time.perf_counter(), datetime.now(UTC)
    device, digest = device_name(), ""
    try:
        data = images(cell.data, cell.image_size)
        digest = data.digest
        prepared = prepare(cell, data)
        run = prepared.run
        lock = run_lock(output, run.name)
        claim = Claim.take(lock)
        if claim is None:
            return Busy(cell.id, lock), True
        with claim:
            table = output / run.name / "metrics.csv"
            before = len(epochs(table))
            report(Began(cell.id, run.id, run.recipe.epochs, before))
            with following(cell.id, table, before, report):
                result = train(run, data=data, output=output, loggers=("csv",))
        trained = sum(row["seconds"] for row in result.history[before:])
        row = outcome(
            cell,
            prepared,
            result,
            overhead=time.perf_counter() - clock - trained,
            started=started,
            ended=datetime.now(UTC),
            device=device,
        )
        return Ended(cell.id, row), True
    except Exception as error:
        traceback.print_exc()
        row = failure(
            cell,
            error,
            data_digest=digest,
            overhead=time.perf_counter() - clock,
            started=started,
            ended=datetime.now(UTC),
            device=device,
        )
        return Ended(cell.id, row), isinstance(error, PrecropError)
    finally:
        gc.collect()  # a trainer and its module refer to each other


def run_lock(output: Path, name: str) -> Path:
    """What a process claims while it trains the run of that name.

    Two cells may come to the same run; the second then finds it finished.
    """
    return output / ".claims" / name


@lru_cache(maxsize=1)
def images(source: str, image_size: int | None = None) -> ImageData:
    """The data set, kept for the next cell."""
    return load_data(source, image_size=image_size)


def device_name() -> str:
    """What this process trains on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu, {torch.get_num_threads()} of {os.cpu_count()} threads"


def epochs(table: Path) -> list[dict[str, str]]:
    """The epochs that a run's table of figures has so far."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


@contextmanager
def following(cell: str, table: Path, before: int, report: Report) -> Iterator[None]:
    """Report the epochs that are added to a run's table.

    The table is replaced as a whole after every epoch, so that reading it now and then costs
    training nothing.
    """
    over = threading.Event()

    def follow() -> None:
        told, seen = before, 0.0
        while not over.wait(_LOOK):
            changed = table.stat().st_mtime if table.exists() else 0.0
            if changed == seen:
                continue
            seen = changed
            rows = epochs(table)
            for row in rows[told:]:
                report(Epoch(cell, int(row["epoch"]), float(row["accuracy"])))
            told = max(told, len(rows))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
