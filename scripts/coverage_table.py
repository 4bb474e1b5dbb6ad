"""Measures every network of the coverage matrix and writes docs/coverage.md.

Run from the repository's root: ``python -m scripts.coverage_table --cache coverage.jsonl``. What is
in the cache isn't measured again, so an interrupted run resumes; delete the file after a change of
precrop. ``--groups`` also rewrites the recorded numbers of independent widths: use it only after
checking them one by one, since the tests compare with them.
"""

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.matrix.measure import BINDING, SHARE, Measurement, measure
from tests.matrix.networks import GROUPS_FILE, Entry, entries

M = TypeVar("M", bound=Measurement)

TARGET = Path(__file__).parent.parent / "docs" / "coverage.md"


def main() -> None:
    """Measure what the cache lacks, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="JSON-lines file of results")
    parser.add_argument("--groups", action="store_true", help=f"rewrite {GROUPS_FILE.name}")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = measure_all(entries(), options.cache)
    if options.groups:
        groups = {entry.name: known[entry.name].groups for entry in entries()}
        GROUPS_FILE.write_text(json.dumps(groups, indent=1) + "\n")
    TARGET.write_text(page([(entry, known[entry.name]) for entry in entries()]))
    print(f"wrote {TARGET}")


def measure_all(networks: Sequence[Entry], cache: Path) -> dict[str, Measurement]:
    """Return results by name, from the cache if it has them; new ones are appended to it."""
    known = read_cache(cache, Measurement)
    columns = (TextColumn("{task.description:45}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn()) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks' own
        task = progress.add_task("", total=len(networks))
        for entry in networks:
            progress.update(task, description=entry.name)
            if entry.name not in known:
                known[entry.name] = measure(entry)
                keep(known[entry.name], cache)
            progress.advance(task)
    return known


def keep(found: Measurement, cache: Path) -> None:
    """Append a result to the cache."""
    with cache.open("a") as file:
        file.write(found.to_json() + "\n")


def read_cache(cache: Path, kind: type[M]) -> dict[str, M]:
    """Return the results of earlier runs; a last line that was cut off is measured again."""
    known = {}
    for line in cache.read_text().splitlines() if cache.exists() else []:
        try:
            found = kind(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        known[found.name] = found
    return known


def page(rows: Sequence[tuple[Entry, Measurement]]) -> str:
    """Return the whole page."""
    import timm
    import torchvision

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    lines = [
        "# Coverage",
        "",
        f"Every network below was planned at `params={SHARE}, macs={SHARE}, divisor=1`, built,",
        "and run forward and backward. Measured on one thread of a CPU, with",
        f"{versions}, timm {timm.__version__}, by",
        "`python -m scripts.coverage_table --cache coverage.jsonl`. The same measurements are a",
        "test, `tests/matrix`, which lists every shortfall.",
        "",
        "- *groups*: widths that are chosen independently of each other;",
        "- *params*, *MACs*: share of the original that remains;",
        "- *frozen*: share of the parameters in layers that unexpectedly keep their width",
        "  (the network's own outputs aren't counted);",
        "- *seconds*: to plan.",
        "",
        *summary(rows),
        "",
        "| network | kind | groups | params % | MACs % | frozen % | seconds | note |",
        "|---|---|---:|---:|---:|---:|---:|---|",
        *(_row(entry, found) for entry, found in rows),
        "",
    ]
    return "\n".join(lines)


def summary(rows: Iterable[tuple[Entry, Measurement]]) -> list[str]:
    """Return how many networks of each kind there are, and how many use their binding budget."""
    total: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for entry, found in rows:
        total[entry.kind] += 1
        sound = not (found.plan_error or found.build_error or found.run_error)
        used[entry.kind] += sound and BINDING * SHARE <= max(found.params, found.macs) <= SHARE
    return [
        f"- Of {total[kind]} {kind} networks, {used[kind]} run, meet both budgets and use at least "
        f"{BINDING:.0%} of the binding one."
        for kind in sorted(total, reverse=True)
    ]


def _row(entry: Entry, found: Measurement) -> str:
    notes = "; ".join(f"{check}: {why}" for check, why in entry.shortfalls.items())
    if found.plan_error:
        return f"| {entry.name} | {entry.kind} | – | – | – | – | – | {notes} |"
    cells = [entry.name, entry.kind, str(found.groups)]
    cells += [f"{100 * share:.1f}" for share in (found.params, found.macs, found.frozen)]
    return "| " + " | ".join([*cells, f"{found.seconds:.2f}", notes]) + " |"


if __name__ == "__main__":
    main()
