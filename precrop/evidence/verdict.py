"""All results of the evidence, as data frames that are kept in one file."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import torch

from precrop import __version__
from precrop.errors import MALFORMED, errors_as
from precrop.evidence.candidates import CONTROLS, UNIFORM, Candidate, slow_strategies, strategies
from precrop.evidence.gain import cases, gains
from precrop.evidence.nats import FreeWidths, Table
from precrop.evidence.order import exact_order, order
from precrop.evidence.published import Configuration, compare
from precrop.evidence.regret import BUDGETS, FEW_BUDGETS, baselines, regret
from precrop.files import figures, json_text, read_json, write_text
from precrop.modules.threads import threads_restored
from precrop.processes import end_with_parent, uninterrupted
from precrop.progress import Progress, silent
from precrop.pruning.problem import LayerCollapseWarning
from precrop.strategies.objectives import OBJECTIVES

Rows = Iterable[dict[str, Any]]
FRAMES = ("order", "regret", "gains", "published")
DECIMALS = 4
"""Decimals that are kept of every number."""
COMPARED = (*OBJECTIVES, *CONTROLS, UNIFORM)
"""Strategies that are compared with published widths."""


@dataclass(frozen=True)
class Evidence:
    """All measurements."""

    order: pd.DataFrame  # rank correlations within bands, by data set and objective
    regret: pd.DataFrame  # one row per data set, strategy and pair of budgets
    gains: pd.DataFrame  # one row per data set, strategy and case
    published: pd.DataFrame  # one row per published network and strategy
    noise: dict[str, float]  # standard deviation of single runs around the surface, by data set

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {**{name: _packed(getattr(self, name)) for name in FRAMES}, "noise": self.noise}

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        write_text(path, json_text(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """Read what `save` wrote."""
        found = read_json(path)
        return cls(
            **{name: _unpacked(found[name]) for name in FRAMES}, noise=figures(found["noise"])
        )


def _packed(frame: pd.DataFrame) -> dict[str, Any]:
    """Return columns of numbers as lists, and columns of texts as distinct texts and indices."""
    columns: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if column.map(lambda value: isinstance(value, str)).all():
            codes, words = pd.factorize(column)
            columns[name] = {"words": list(words), "places": codes.tolist()}
        else:
            columns[name] = json.loads(column.to_json(orient="values", double_precision=DECIMALS))
    return columns


def _unpacked(columns: dict[str, Any]) -> pd.DataFrame:
    """Return the frame that `_packed` packed."""
    return pd.DataFrame(
        {
            name: [found["words"][place] for place in found["places"]]
            if isinstance(found, dict)
            else found
            for name, found in columns.items()
        }
    )


@dataclass(frozen=True)
class Task:
    """One piece of work for one process, which yields rows of a frame; its label is unique."""

    label: str
    frame: str
    work: Callable[..., Rows]
    args: tuple[Any, ...]


def tasks(
    tables: Iterable[Table], published: Sequence[Configuration], budgets: int
) -> Iterator[Task]:
    """Split all of the work into tasks that take seconds."""
    chosen = list(cases())
    few = min(budgets, FEW_BUDGETS)
    for table in tables:
        name = table.data_set.name
        yield Task(f"{name}, order", "order", order, (table,))
        yield Task(f"{name}, exact order", "order", exact_order, (table,))
        yield Task(f"{name}, no plan", "regret", baselines, (table, budgets))
        free = (table, Candidate("synexp"), budgets, FreeWidths)
        yield Task(f"{name}, free widths", "regret", regret, free)
        for strategy in strategies():
            label = f"{name}, {strategy.name}"
            yield Task(f"{label}, regret", "regret", regret, (table, strategy, budgets))
            yield Task(f"{label}, gains", "gains", gains, (table, strategy, chosen))
        for strategy in slow_strategies():
            label = f"{name}, {strategy.name}, regret"
            yield Task(label, "regret", regret, (table, strategy, few))
    compared = [strategy for strategy in strategies() if strategy.name in COMPARED]
    for index, configuration in enumerate(published):
        label = f"published {index}, {configuration.name}"
        yield Task(label, "published", compare, (configuration, compared))


def _run(task: Task) -> tuple[str, list[dict[str, Any]]]:
    with threads_restored(), warnings.catch_warnings():
        torch.set_num_threads(1)
        # Layer collapse under SynFlow does not matter here: only its densities are judged.
        warnings.simplefilter("ignore", LayerCollapseWarning)
        return task.label, list(task.work(*task.args))


def finished(path: Path, of: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of finished tasks by label, from a file with one line per task, or create it.

    The first line says what the rows depend on; if that is not ``of``, all are dropped. So are
    incomplete lines, as a killed process leaves.
    """
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    found = {}
    if lines and _line(lines[0]) == {"of": of}:
        for line in map(_line, lines[1:]):
            match line:
                case {"part": str(label), "rows": [*rows]}:
                    if all(isinstance(row, dict) for row in rows):
                        found[label] = [figures(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{"of": of}, *({"part": label, "rows": rows} for label, rows in found.items())]
    write_text(path, "".join(json_text(line) + "\n" for line in kept))
    return found


def _line(text: str) -> Any:
    """Parse one line of such a file; return None if the line is broken."""
    with suppress(*MALFORMED):
        return json.loads(text)
    return None


def judge(
    tables: Sequence[Table],
    published: Sequence[Configuration] = (),
    *,
    budgets: int = BUDGETS,
    processes: int = 1,
    progress: Progress = silent,
    parts: Path | None = None,
) -> Evidence:
    """Judge every strategy and method on every data set.

    Args:
        tables: from `precrop.evidence.nats.load_tables`.
        published: from `precrop.evidence.published.load_published`.
        budgets: number of pairs of budgets for the regret of every strategy.
        processes: number of processes that work in parallel.
        progress: shows the progress.
        parts: a file that keeps finished tasks; a call with the same arguments resumes from it.
    """
    work = list(tasks(tables, published, budgets))
    of = _digest(tables, published, budgets, [task.label for task in work])
    kept = {} if parts is None else finished(parts, of)
    left = [task for task in work if task.label not in kept]
    for label, rows in progress(_results(left, processes), "judging", len(left)):
        kept[label] = rows
        if parts is not None:
            with parts.open("a") as file:
                file.write(json_text({"part": label, "rows": rows}) + "\n")
    frames = {
        name: pd.DataFrame([row for t in work if t.frame == name for row in kept[t.label]])
        for name in FRAMES
    }
    return Evidence(**frames, noise={table.data_set.name: table.noise for table in tables})


def _digest(
    tables: Sequence[Table], published: Sequence[Configuration], budgets: int, labels: Sequence[str]
) -> str:
    """Return a digest of all that the rows depend on; of the code, only the version counts."""
    known = hashlib.sha256(repr((__version__, budgets, labels)).encode())
    for table in tables:
        for column in (table.widths, table.params, table.macs, table.raw):
            known.update(column.tobytes())
    for one in published:
        known.update(repr((one.family, one.name, dict(one.widths), dict(one.budgets))).encode())
    return known.hexdigest()


def _results(work: list[Task], processes: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield labels and rows in the order in which tasks finish."""
    if processes == 1 or not work:
        yield from map(_run, work)
        return
    others = active_children()
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=end_with_parent)
    with errors_as("a process that judges was ended", BrokenProcessPool), pool:
        try:
            with uninterrupted():
                futures = [pool.submit(_run, task) for task in work]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for process in active_children():
                if process not in others:
                    process.terminate()  # its task may take minutes
            raise
