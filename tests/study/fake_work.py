"""Cells that take no time, and what a process does with them, for tests of engines."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from precrop.model_spec import ModelSpec
from precrop.own import UNGUARDED
from precrop.study.cells import Cell
from precrop.study.events import Began, Busy, Ended, Epoch, Report
from precrop.study.locks import Lock
from precrop.study.rows import Row
from precrop.study.spec import Limits
from precrop.study.variants import Variant
from precrop.training.recipes import Recipe
from tests.study.made_rows import made_row


def cell(network: str = "fine", seed: int = 0, **args: Any) -> Cell:
    """A cell whose network says what happens to it."""
    return Cell(
        study="made",
        network=ModelSpec(network, args),
        how=Variant("dense"),
        limits=Limits(),
        seed=seed,
        recipe=Recipe(epochs=2),
        data="digits",
        data_name="digits",
    )


def row_of(of: Cell, status: str = "done", **changes: Any) -> Row:
    return made_row(
        cell=of.id,
        network=of.network.name,
        seed=of.seed,
        status=status,
        error="it broke" if status == "failed" else None,
        **changes,
    )


def work(cell: Cell, output: Path, report: Report) -> tuple[Ended | Busy, bool]:
    """Do as the cell's network says; every attempt is a line of the file ``tried``."""
    name = cell.network.name
    if name == "shares a run":
        claim = Lock.take(output / "claims" / "shared")
        if claim is None:
            return Busy(cell.id, output / "claims" / "shared"), True
    report(Began(cell.id, "0" * 12, 2))
    with (output / "tried").open("a") as file:
        file.write(f"{cell.id} {os.getpid()} {os.environ.get('PLACE', '')}\n")
    time.sleep(cell.network.args.get("seconds", 0))
    report(Epoch(cell.id, 1, 0.5))
    if cell.network.name == "dies" or (
        cell.network.name == "dies once" and tries(output, cell) < 2
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exits once" and tries(output, cell) < 2:
        os._exit(3)
    if name == "starts anew":
        os._exit(UNGUARDED)
    if name == "prints":
        os.write(2, b"a warning")
    fails = name in ("fails", "breaks")
    status = "failed" if fails else "done"
    return Ended(cell.id, row_of(cell, status)), name != "breaks"


def tries(output: Path, of: Cell) -> int:
    """How often a cell was begun."""
    return sum(line.split()[0] == of.id for line in tried(output))


def tried(output: Path) -> list[str]:
    path = output / "tried"
    return path.read_text().splitlines() if path.exists() else []
