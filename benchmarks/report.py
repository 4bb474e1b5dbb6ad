"""What the benchmarks share: clocks, and tables for a terminal and for Markdown."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

T = TypeVar("T")
Row = dict[str, Any]
progress = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Section:
    """One table of results: ``columns`` maps a row's key to its heading."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time, and the CPU time that the process used meanwhile."""

    wall: float
    cpu: float


def clocked(work: Callable[[], T]) -> tuple[Seconds, T]:
    """Return the seconds that ``work`` takes, and its result, after collecting earlier garbage."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the wall-clock seconds that ``work`` takes, and its result."""
    seconds, result = clocked(work)
    return seconds.wall, result


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
    }


def steps(title: str, count: int) -> Iterator[int]:
    """Count runs, after printing what they are runs of."""
    progress.print(f"{title}: {count} runs")
    yield from range(count)


def setting(*packages: str) -> dict[str, str]:
    """Return what figures depend on (machine, threads, versions); print it on standard error."""
    found = {
        "machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
    progress.print(described(found))
    return found


def described(where: Mapping[str, str]) -> str:
    """Return a setting in one line."""
    return ", ".join(f"{name} {value}" for name, value in where.items())


def show(sections: Sequence[Section]) -> None:
    """Print tables."""
    console = Console(highlight=False)
    console.width = max(console.width, 150)
    for section in sections:
        console.print(_table(section))


def markdown(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a page of tables."""
    lines = [f"# {title}", "", *introduction]
    for section in sections:
        lines += ["", f"## {section.title}", "", *rows_of(section)]
    return "\n".join(lines) + "\n"


def write_between(path: Path, lines: Sequence[str]) -> None:
    """Replace the text between a page's two markers by the figures of this run."""
    before, start, rest = path.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    if not end:
        raise SystemExit(f"{path} has no markers for the figures")
    path.write_text(before + start + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def rows_of(section: Section) -> list[str]:
    """Return a section's table in Markdown."""
    headings = list(section.columns.values())
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    for row in section.rows:
        cells = [_cell(row[key], key) for key in section.columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any, key: str) -> str:
    if not isinstance(value, float):
        return str(value)
    if key in ("params", "macs"):
        return f"{value:.1%}"
    if key.endswith("_ratio"):
        return f"{value:.1f}x"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=None, header_style="bold")
    for index, heading in enumerate(section.columns.values()):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in section.rows:
        table.add_row(*(_cell(row[key], key) for key in section.columns))
    return table
