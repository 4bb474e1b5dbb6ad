"""Running one cell in a process: load the images, plan, train, and report."""

import gc
import os
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precrop.errors import PrecropError
from precrop.own import OWN_ERRORS
from precrop.study.cells import Cell
from precrop.study.events import Began, Busy, Ended, Epoch, Report
from precrop.study.locks import Lock
from precrop.study.outcomes import failure, outcome
from precrop.study.preparing import prepare

if TYPE_CHECKING:
    from precrop.training.data import ImageData


def work(cell: Cell, output: Path, report: Report) -> tuple[Ended | Busy, bool]:
    """Run one cell.

    Returns:
        The cell's last event, and whether this process may run another cell: after an unexpected
        error it may be short of memory, or its device unusable.
    """
    from precrop.training.loop import train

    clock, started = time.perf_counter(), datetime.now(UTC)
    device, digest, trained = device_name(), "", 0.0

    def told(row: Mapping[str, float]) -> None:
        nonlocal trained
        trained += row["seconds"]
        report(Epoch(cell.id, int(row["epoch"]), row["accuracy"]))

    def measured(trained: float) -> dict[str, Any]:
        overhead, ended = time.perf_counter() - clock - trained, datetime.now(UTC)
        return {"overhead": overhead, "started": started, "ended": ended, "device": device}

    try:
        data = images(cell.data, cell.image_size)
        digest = data.digest
        prepared = prepare(cell, data)
        run = prepared.run
        # Two cells may lead to the same run; the second then finds it finished.
        lock = output / ".claims" / run.name
        claim = Lock.take(lock)
        if claim is None:
            return Busy(cell.id, lock), True
        with claim:
            report(Began(cell.id, run.id, run.recipe.epochs))
            result = train(run, data=data, output=output, loggers=("csv",), told=told)
        return Ended(cell.id, outcome(cell, prepared, result, **measured(trained))), True
    except OWN_ERRORS as error:
        traceback.print_exc()
        row = failure(cell, error, digest, **measured(0.0))
        return Ended(cell.id, row), isinstance(error, PrecropError)
    finally:
        gc.collect()  # a trainer and its module refer to each other


@lru_cache(maxsize=1)
def images(source: str, image_size: int | None = None) -> "ImageData":
    """Load the data set, and keep it for the next cell."""
    from precrop.training.data import load_data

    return load_data(source, image_size=image_size)


def device_name() -> str:
    """Return the name of the device that this process trains on."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu, {torch.get_num_threads()} of {os.cpu_count()} threads"
