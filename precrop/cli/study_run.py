"""The command ``study run``."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from precrop.cli.options import LastJson, Trust, with_options
from precrop.cli.output import goes_on, print_line, warn
from precrop.cli.study import StudyOptions, opened
from precrop.errors import PrecropError, needs
from precrop.files import json_text
from precrop.plans.text import plain, wide_console
from precrop.progress import say
from precrop.sources import changed

if TYPE_CHECKING:
    from precrop.study.cells import Cell
    from precrop.study.engine import Engine
    from precrop.study.rows import Row
    from precrop.study.spec import Study
    from precrop.training.data import ImageData

SOME_FAILED = 1
"""Exit status if a cell has failed, now or earlier."""


@dataclass(frozen=True)
class EngineOptions:
    """Options for where runs take place, and how many at once."""

    engine: Annotated[
        Literal["local", "ray"], "Run in processes here, or as tasks on a Ray cluster."
    ] = "local"
    processes: Annotated[int | None, "Runs that share this machine's CPU; 1 by default."] = None
    runs_per_device: Annotated[int, "Runs that share a GPU."] = 1
    address: Annotated[
        str | None, "Address of the Ray cluster; by default one is started here."
    ] = None
    threads: Annotated[
        int | None, "CPU threads of each run; by default its share of them here, 1 on Ray."
    ] = None

    def start(self, output: Path, logs: Path) -> "Engine":
        """Start an engine that writes the runs' folders to ``output``."""
        if self.engine == "local":
            from precrop.study.local_engine import LocalEngine, places

            if self.address is not None:
                raise PrecropError("--address is for --engine ray")
            found = places(self.processes, self.runs_per_device, self.threads)
            return LocalEngine(found, output, logs)
        with needs("studies need", "precrop[ray]"):
            from precrop.study.ray_engine import RayEngine
        if self.processes is not None:
            raise PrecropError("--processes is for --engine local: on Ray, say --threads of a run")
        return RayEngine(
            output,
            address=self.address,
            threads=1 if self.threads is None else self.threads,
            runs_per_device=self.runs_per_device,
        )


@with_options
def run_command(
    options: StudyOptions,
    engine: EngineOptions,
    output: Annotated[Path, "The folder in which every run gets its own folder."] = Path("runs"),
    data: Annotated[
        str | None, "Where the study's images are, if not known by their name.", "DIR"
    ] = None,
    only: Annotated[
        list[str] | None, "Run only what matches, such as '*seed 0'; repeatable.", "PATTERN"
    ] = None,
    retry_failed: Annotated[bool, "Run failed cells again."] = False,
    dry_run: Annotated[bool, "Show what would run, and how large it is."] = False,
    trust: Trust = False,
    as_json: LastJson = False,
) -> None:
    """Run what the store has no result for. The same command resumes after any interruption."""
    study = options.read(trust)
    from precrop.study.cells import expand
    from precrop.study.engine import run_study, to_run
    from precrop.study.preparing import check
    from precrop.study.progress import duration, shown

    study = study if data is None else study.at(data)
    whole, folder = expand(study), options.folder(study)
    cells = _chosen(whole, only or ())
    absent = dry_run and not folder.exists()
    store, rows = (None, []) if absent else opened(folder, create=not dry_run)
    todo = to_run(cells, store.tally() if store else {}, retry_failed=retry_failed)
    _warn_of_code(cells, rows)
    for cell in todo:
        cell.how.load_own()  # before looking for images, to report a wrong name at once
    planned: list[dict[str, Any]] = []
    for images, alike in _with_images(study, todo, needed=not dry_run or data is not None):
        _check_same_images(whole, rows, images, folder)
        check(alike, images)
        planned += _planned(alike, images) if dry_run else []
    if dry_run or store is None:
        _print_planned(len(cells), len(todo), planned, as_json)
        return
    chosen = engine.start(output, folder / "logs")
    with goes_on(f", {folder} has the results so far"), shown(todo, lambda: chosen.places) as tell:
        summary = run_study(cells, store, chosen, retry_failed=retry_failed, tell=tell)
    tally = store.tally()
    failing = sum(1 for cell in cells if (seen := tally.get(cell.id)) and not seen["done"])
    if as_json:
        content = {"study": study.name, "store": str(folder), **asdict(summary)}
        typer.echo(json_text({**content, "failing": failing}))
    else:
        print_line(
            f"{summary.done} done, {summary.failed} failed, {summary.skipped} were in the store, "
            f"{summary.elsewhere} run by other processes; {duration(summary.seconds)}; {folder}"
        )
    if failing:
        say(
            f"{failing} of {len(cells)} cells have failed: `precrop study status {options.file}` "
            f"and {folder / 'logs'} tell why, --retry-failed runs them again"
        )
        raise typer.Exit(SOME_FAILED)


def _chosen(cells: "list[Cell]", patterns: Sequence[str]) -> "list[Cell]":
    """Return the cells that match any pattern; all cells if there is no pattern."""
    from precrop.study.cells import label

    chosen: set[str] = set()
    for pattern in patterns:
        found = {cell.id for cell in cells if fnmatchcase(label(cell), f"*{pattern}*")}
        if not found:
            raise PrecropError(
                f"--only {pattern!r} matches none of {len(cells)} cells, the first is "
                f"{label(cells[0])!r}"
            )
        chosen |= found
    return [cell for cell in cells if cell.id in chosen or not patterns]


def _with_images(
    study: "Study", cells: "list[Cell]", *, needed: bool
) -> "Iterator[tuple[ImageData, list[Cell]]]":
    """Yield images of a study, each time with the cells to check or to plan with them.

    Unless images are needed, nothing is downloaded: noise stands in for images that are not here.
    """
    from precrop.study.unseen import unseen
    from precrop.training.data import load_data
    from precrop.training.sources.finding import at_hand

    if not cells:
        return
    here = at_hand(study.data)
    if here or needed:
        try:
            images = load_data(study.data, image_size=study.image_size)
        except PrecropError as error:
            if here:
                raise
            where = "--data DIR says where the study's images are"
            raise PrecropError(f"{error}; {where}") from error
        yield images, cells
        return
    say(
        f"no images of {study.data_name} here (--data DIR says where they are): sizes are "
        "for noise in their place"
    )
    for _, alike in groupby(cells, lambda cell: (cell.network, cell.recipe)):
        yield unseen((same := list(alike))[0]), same


def _check_same_images(
    cells: "Sequence[Cell]", rows: "Sequence[Row]", images: "ImageData", folder: Path
) -> None:
    """Refuse images other than those of the stored results; noise has no digest and passes."""
    mine = {cell.id for cell in cells}
    for row in rows if images.digest else ():
        if row.cell in mine and row.status == "done" and row.data_digest != images.digest:
            raise PrecropError(
                f"{folder} has results on other images of {row.data} than {cells[0].data}: name "
                "another --store, or those images with --data"
            )


def _warn_of_code(cells: "Sequence[Cell]", rows: "Sequence[Row]") -> None:
    """Warn of results that ran with code of the user's that has changed since."""
    done = {row.cell: row.code for row in rows if row.status == "done" and row.code}
    found = [changed(done[cell.id], cell.own_code()) for cell in cells if cell.id in done]
    files = list(dict.fromkeys(filter(None, found)))
    if files:
        warn(
            f"{sum(map(bool, found))} of {len(cells)} cells ran with other code and are not run "
            f"again: {', '.join(files)} changed since; undo that, or name another --store and "
            "--output"
        )


def _planned(cells: "Sequence[Cell]", images: "ImageData") -> Iterator[dict[str, Any]]:
    """Yield what would run; one entry for all seeds of a variant, which differ only by chance."""
    from precrop.study.cells import label
    from precrop.study.preparing import prepare
    from precrop.training.batches import sample
    from precrop.training.networks import build

    for _, alike in groupby(cells, lambda cell: replace(cell, seed=0).id):
        same = list(alike)
        found = prepare(same[0], images)
        batch_size = found.run.recipe.batch_size
        built = build(found.run, partial(sample, images, batch_size, found.run.seed))
        yield {
            "what": label(same[0]).rpartition(", seed")[0],
            "cells": [cell.id for cell in same],
            "variant": same[0].variant,
            "network": same[0].network.name,
            "seeds": [cell.seed for cell in same],
            "params": built.params,
            "macs": built.macs,
            "base_params": found.original.params,
            "base_macs": found.original.macs,
        }


def _print_planned(cells: int, left: int, planned: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json_text({"cells": cells, "left": left, "planned": planned}))
        return
    from rich.table import Table

    table = Table("what", "seeds", "params", "MACs", "share", box=None)
    for entry in planned:
        seeds = " ".join(map(str, entry["seeds"]))
        share = " ".join(f"{entry[n] / entry[f'base_{n}']:.1%}" for n in ("params", "macs"))
        sizes = (f"{entry[n]:,}" for n in ("params", "macs"))
        table.add_row(plain(entry["what"]), seeds, *sizes, share)
    if planned:
        wide_console(80).print(table)
    typer.echo(f"{left} of {cells} cells would run")
