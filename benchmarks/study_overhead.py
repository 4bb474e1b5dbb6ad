"""The overhead of studies beside training, and how long a large store takes to open.

The same runs are trained twice: by a process that calls `train` on one after the other, and by
`precrop study run` with one process. The share is the study's extra time, relative to the first:
its processes, planning, rows, progress. Its start-up happens once, however long the study is, and
is reported separately, since it says nothing about a longer study.

The store has rows with a history of 160 epochs, all different, as a study of 10,000 runs has them.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import Section, markdown, setting, show, timed
from precrop.files import write_text
from precrop.study.cells import Cell, expand
from precrop.study.engine import run_study
from precrop.study.local_engine import LocalEngine
from precrop.study.preparing import prepare
from precrop.study.rows import Row
from precrop.study.spec import read_study
from precrop.study.store import Store
from precrop.training.data import load_data
from precrop.training.loop import train

STUDY = """
study: overhead
description: The same networks as in the loop.
data: {data}
recipe: {{name: {recipe}, epochs: {epochs}}}
seeds: [0, 1]
networks: [resnet20]
budgets:
  - {{params: 0.3, macs: 0.3}}
variants:
  - {{name: dense}}
  - {{name: PreCrop, plan: {{}}}}
"""
FIGURES = ("lr", "train_loss", "train_accuracy", "loss", "accuracy", "seconds", "images_per_second")


def overhead(data: str, recipe: str, epochs: int) -> dict[str, Any]:
    """Train a study's cells in a loop, then as a study."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "study.yaml"
        file.write_text(STUDY.format(data=data, recipe=recipe, epochs=epochs), encoding="utf-8")
        cells = expand(read_study(file, trust=True))
        alone, _ = timed(lambda: in_a_loop(cells, folder / "alone"))
        engine = LocalEngine([{}], folder / "runs", folder / "logs")
        store = Store.open(folder / "store", create=True)
        studied, summary = timed(lambda: run_study(cells, store, engine))
        rows = store.rows()
        first = min(row.started for row in rows)
        last = max(row.ended for row in rows)
    assert summary.done == len(cells)
    busy = (last - first).total_seconds()
    return {
        "runs": len(cells),
        "alone": alone,
        "study": studied,
        "start": studied - busy,
        "trained": summary.trained,
        "share": f"{(busy - alone) / alone:+.2%}",
        "beside": f"{(busy - summary.trained) / summary.trained:.2%}",
    }


def in_a_loop(cells: Sequence[Cell], output: Path) -> None:
    """Plan and train one cell after the other, as without a study."""
    data = load_data(cells[0].data, image_size=cells[0].image_size)
    for cell in cells:
        train(prepare(cell, data).run, data=data, output=output, loggers=("csv",))


def opening(runs: int, epochs: int) -> dict[str, Any]:
    """Time the opening of a store of this many runs."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store"
        store = Store.open(path, create=True)
        chance = random.Random(0)
        for start in range(0, runs, 100):
            store.append([made(n, epochs, chance) for n in range(start, min(runs, start + 100))])
        size = sum(file.stat().st_size for file in path.glob("*.jsonl"))
        done, _ = timed(lambda: Store.open(path).tally())
        rows, found = timed(lambda: Store.open(path).rows())
        frame, _ = timed(lambda: Store.open(path).frame())
        history, _ = timed(lambda: len(found[0].history))
    assert len(found) == runs
    return {
        "runs": runs,
        "epochs": epochs,
        "megabytes": size / 1e6,
        "done": done,
        "rows": rows,
        "frame": frame,
        "history": history,
    }


def made(number: int, epochs: int, chance: random.Random) -> Row:
    """Make a row as large as a ResNet-20's, with figures that no other row has."""
    layers = [f"layer{n // 6}.{n % 6}.conv" for n in range(22)]
    history = tuple(
        {"epoch": n, **{name: chance.random() for name in FIGURES}} for n in range(epochs)
    )
    return replace(
        _ROW,
        cell=f"{number:012x}",
        run=f"{number:012x}",
        densities={layer: chance.random() for layer in layers},
        widths={layer: (chance.randrange(1, 64), chance.randrange(1, 64)) for layer in layers},
        history=history,
    )


_NOW = datetime.now(UTC)
_ROW = Row(
    study="made",
    cell="",
    run=None,
    network="resnet20",
    args={},
    variant="PreCrop",
    kind="cropped",
    method="synexp",
    granularity="channel",
    asked_params=0.3,
    asked_macs=0.3,
    seed=0,
    data="cifar10",
    data_digest="",
    recipe={"epochs": 160},
    status="done",
    error=None,
    accuracy=0.9,
    best_accuracy=0.9,
    loss=0.3,
    params=1,
    macs=1,
    base_params=2,
    base_macs=2,
    densities={},
    widths={},
    history=(),
    seconds=1.0,
    overhead=0.1,
    started=_NOW,
    ended=_NOW,
    device="",
    versions={},
)


def _overhead_section(data: str, recipe: str, epochs: int) -> Section:
    return Section(
        f"A study of {data}, {epochs} epochs a run, against a loop",
        {
            "runs": "runs",
            "alone": "loop, s",
            "study": "study, s",
            "start": "of it once, s",
            "trained": "epochs, s",
            "share": "more than the loop",
            "beside": "beside epochs",
        },
        [overhead(data, recipe, epochs)],
    )


def _opening_section(rows: int) -> Section:
    return Section(
        "Opening a store",
        {
            "runs": "runs",
            "epochs": "epochs each",
            "megabytes": "MB",
            "done": "done(), s",
            "rows": "rows(), s",
            "frame": "frame(), s",
            "history": "and a history, s",
        },
        [opening(rows, epochs) for epochs in (30, 160)],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write them to the file of ``--markdown``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", help="as for precrop train")
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", choices=("overhead", "opening"), help="measure one of the two")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    where = setting("torch", "lightning", "pyarrow")
    began = time.strftime("%Y-%m-%d")
    sections = []
    if options.only != "opening":
        sections.append(_overhead_section(options.data, options.recipe, options.epochs))
    if options.only != "overhead":
        sections.append(_opening_section(options.rows))
    show(sections)
    if options.markdown is not None:
        words = [f"{began}: {', '.join(f'{name} {value}' for name, value in where.items())}."]
        write_text(options.markdown, markdown("Studies: overhead", words, sections))


if __name__ == "__main__":
    main()
