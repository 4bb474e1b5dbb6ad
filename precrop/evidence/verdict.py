"""All that the size search space says, as frames that are kept in one file."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from precrop.evidence import judging
from precrop.evidence.judging import Strategy
from precrop.evidence.nats import FreeWidths, Table
from precrop.evidence.published import Configuration, compare
from precrop.files import write_text
from precrop.pai.problem import Progress, silent
from precrop.program import OBJECTIVES

Rows = Iterable[dict[str, Any]]
FRAMES = ("order", "regret", "gains", "published")
DECIMALS = 5
COMPARED = (*OBJECTIVES, judging.UNIFORM)
"""Strategies that are set beside published widths."""


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        order: rank correlations within bands, by data set and objective.
        regret: one row for every data set, strategy and pair of budgets.
        gains: one row for every data set, strategy and case.
        published: one row for every published network and objective.
        noise: standard deviation of single runs around the surface, by data set.
    """

    order: pd.DataFrame
    regret: pd.DataFrame
    gains: pd.DataFrame
    published: pd.DataFrame
    noise: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        frames = {name: getattr(self, name) for name in FRAMES}
        found = {
            name: json.loads(frame.round(DECIMALS).to_json(orient="split", index=False))
            for name, frame in frames.items()
        }
        return {**found, "noise": self.noise}

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        write_text(path, json.dumps(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """What `save` wrote."""
        found = json.loads(path.read_text())
        frames = {
            name: pd.DataFrame(found[name]["data"], columns=found[name]["columns"])
            for name in FRAMES
        }
        return cls(**frames, noise=found["noise"])


@dataclass(frozen=True)
class Task:
    """One piece of work for one process, and the frame that its rows belong to."""

    frame: str
    work: Callable[..., Rows]
    args: tuple[Any, ...]

    def __call__(self) -> tuple[str, list[dict[str, Any]]]:
        """The frame and its rows."""
        return self.frame, list(self.work(*self.args))


def tasks(
    tables: Iterable[Table], published: Sequence[Configuration], budgets: int
) -> Iterator[Task]:
    """All of the work in pieces of seconds."""
    chosen = list(judging.cases())
    few = min(budgets, judging.FEW_BUDGETS)
    for table in tables:
        yield Task("order", judging.order, (table,))
        yield Task("regret", judging.baselines, (table, budgets))
        yield Task("regret", judging.regret, (table, Strategy("synexp"), budgets, FreeWidths))
        for strategy in judging.strategies():
            yield Task("regret", judging.regret, (table, strategy, budgets))
            yield Task("gains", judging.gains, (table, strategy, chosen))
        for strategy in judging.slow_strategies():
            yield Task("regret", judging.regret, (table, strategy, few))
    options = {s.name: s.options for s in judging.strategies() if s.name in COMPARED}
    for configuration in published:
        yield Task("published", compare, (configuration, options))


def _run(task: Task) -> tuple[str, list[dict[str, Any]]]:
    import torch

    torch.set_num_threads(1)
    return task()


def judge(
    tables: Sequence[Table],
    published: Sequence[Configuration] = (),
    *,
    budgets: int = judging.BUDGETS,
    processes: int = 1,
    progress: Progress = silent,
) -> Evidence:
    """Judge every strategy and method on every data set.

    Args:
        tables: of `precrop.evidence.nats.load_tables`.
        published: of `precrop.evidence.published.load_published`.
        budgets: pairs of budgets for the regret of every strategy.
        processes: that work side by side.
        progress: shows how far it is.
    """
    work = list(tasks(tables, published, budgets))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FRAMES}
    for frame, found in progress(_results(work, processes), "judging", len(work)):
        rows[frame] += found
    frames = {name: pd.DataFrame(found) for name, found in rows.items()}
    return Evidence(**frames, noise={table.data_set.name: table.noise for table in tables})


def _results(work: list[Task], processes: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    if processes == 1:
        yield from map(_run, work)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_run, work)
