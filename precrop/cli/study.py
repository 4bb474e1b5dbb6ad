"""The ``study`` commands. Heavy imports wait inside them, as in `precrop.cli.app`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from precrop.cli.options import LastJson, Trust, with_options
from precrop.cli.output import INTERRUPTED, needs, plain, say, warn, wide_console
from precrop.errors import PrecropError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from precrop.study.cells import Cell
    from precrop.study.engine import Engine
    from precrop.study.rows import Row
    from precrop.study.spec import Study
    from precrop.study.store import Store
    from precrop.training.data import ImageData

study_app = typer.Typer(name="study", help="Run studies: networks x variants x budgets x seeds.")

SOME_FAILED = DIFFERENT = 1
"""Exit status of ``study run`` where a cell has failed, now or before, and of ``study diff`` where
there is any difference."""

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study: a YAML file.")]
StoreFolder = Annotated[Path | None, "The folder of the results; results/NAME by default.", "DIR"]
Source = Annotated[str | None, "Where the study's images are, if not known by their name.", "DIR"]


@dataclass(frozen=True)
class EngineOptions:
    """Where runs take place, and how many at once."""

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
        """An engine that writes runs' folders to ``output``."""
        if self.engine == "local":
            from precrop.study.local_engine import LocalEngine, places

            if self.address is not None:
                raise PrecropError("--address is for --engine ray")
            found = places(self.processes, self.runs_per_device, self.threads)
            return LocalEngine(found, output, logs)
        with needs("ray", "studies need"):
            from precrop.study.ray_engine import RayEngine
        if self.processes is not None:
            raise PrecropError("--processes is for --engine local: on Ray, say --threads of a run")
        return RayEngine(
            output,
            address=self.address,
            threads=1 if self.threads is None else self.threads,
            runs_per_device=self.runs_per_device,
        )


@study_app.command("run")
@with_options
def run_command(
    file: StudyFile,
    engine: EngineOptions,
    store: StoreFolder = None,
    output: Annotated[Path, "The folder that gets a folder for every run."] = Path("runs"),
    data: Source = None,
    only: Annotated[
        list[str] | None, "Run what matches, as '*seed 0'; repeatable.", "PATTERN"
    ] = None,
    retry_failed: Annotated[bool, "Run what has failed once more."] = False,
    dry_run: Annotated[bool, "Show what would run, and how large it is."] = False,
    trust: Trust = False,
    as_json: LastJson = False,
) -> None:
    """Run what the store has no result of. The same command goes on after any interruption."""
    with needs("study", "studies need"):
        from precrop.study.cells import check
        from precrop.study.engine import run_study, to_run
        from precrop.study.progress import duration, shown
        from precrop.study.store import Store

    study, cells = _cells(file, data, only or (), trust=trust)
    folder = store or _usual_store(study)
    kept = None if dry_run and not folder.exists() else Store.open(folder, create=not dry_run)
    rows = kept.rows() if kept else []  # all of them: a cell is done whose row can be read
    todo = to_run(cells, kept.tally() if kept else {}, retry_failed=retry_failed)
    _warn_of_dropped(kept)
    for cell in todo:
        cell.how.load_own()  # before images are looked for: a wrong name is told at once
    if todo:
        images = _images(study, needed=not dry_run or data is not None)
        if images.loaded is not None:
            _check_images(cells, kept, rows, images.loaded)
        for alike in images.shared(todo):
            check(alike, images.of(alike[0]))
        if dry_run:
            _print_planned(cells, todo, images, as_json)
            return
    if dry_run or kept is None:
        _print_planned(cells, todo, None, as_json)
        return
    chosen = engine.start(output, folder / "logs")
    try:
        with shown(todo, lambda: chosen.places) as tell:
            summary = run_study(cells, kept, chosen, retry_failed=retry_failed, tell=tell)
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on, {folder} has the results so far")
        raise typer.Exit(INTERRUPTED) from None
    tally = kept.tally()
    failing = sum(1 for cell in cells if (seen := tally.get(cell.id)) and not seen.done)
    if as_json:
        content = {"study": study.name, "store": str(folder), **asdict(summary)}
        typer.echo(json.dumps({**content, "failing": failing}))
    else:
        typer.echo(
            f"{summary.done} done, {summary.failed} failed, {summary.skipped} were in the store, "
            f"{summary.elsewhere} run by other processes; {duration(summary.seconds)}; {folder}"
        )
    if failing:
        say(
            f"{failing} of {len(cells)} cells have failed: `precrop study status {file}` and "
            f"{folder / 'logs'} tell why, --retry-failed runs them again"
        )
        raise typer.Exit(SOME_FAILED)


@study_app.command("status")
@with_options
def status_command(file: StudyFile, store: StoreFolder = None, as_json: LastJson = False) -> None:
    """How far a study is: what is done, running, failed and left."""
    with needs("study", "studies need"):
        from precrop.study.cells import label
        from precrop.study.locks import is_claimed
        from precrop.study.progress import duration

    study, cells = _cells(file, None, (), trust=True)  # nothing of it is run
    folder = store or _usual_store(study)
    kept = _open(folder) if folder.exists() else None
    rows = {row.cell: row for row in kept.rows()} if kept else {}
    _warn_of_dropped(kept)
    states: dict[str, list[str]] = {"done": [], "failed": [], "running": [], "left": []}
    for cell in cells:
        row = rows.get(cell.id)
        state: str = "left" if row is None else row.status
        if state != "done" and is_claimed(folder / "claims" / cell.id):
            state = "running"
        states[state].append(cell.id)
    trained = sum(rows[cell].seconds for cell in states["done"])
    overhead = sum(rows[cell].overhead for cell in states["done"])
    failures = {label(c): rows[c.id].error for c in cells if c.id in states["failed"]}
    counts = {state: len(found) for state, found in states.items()}
    if as_json:
        content = {"study": study.name, "store": str(folder), **counts, "seconds": trained}
        content["overhead"] = overhead
        typer.echo(json.dumps({**content, "failures": failures}))
        return
    typer.echo(f"{study.name}: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    beside = f", {overhead / trained:.1%} more beside it" if trained else ""
    typer.echo(f"{duration(trained)} of training{beside}; {folder}")
    for cell in cells:
        if cell.id in states["running"]:
            typer.echo(printable(f"running: {label(cell)}"))
    for name, error in failures.items():
        typer.echo(printable(f"failed: {name}: {error}"))


@study_app.command("show")
@with_options
def show_command(
    where: Annotated[
        Path, typer.Argument(metavar="STORE", help="A store, or the file of a study.")
    ],
    store: StoreFolder = None,
    as_json: LastJson = False,
) -> None:
    """Show the runs in a store as a table, or with --json one line of JSON per run."""
    with needs("study", "studies need"):
        from precrop.study.rows import FIELDS

    kept = _open(_store_of(where, store))
    rows = kept.rows()
    _warn_of_dropped(kept)
    if as_json:
        for row in rows:
            fields = {name: getattr(row, name) for name in FIELDS}
            typer.echo(json.dumps({**fields, "history": list(row.history)}, default=str))
        return
    wide_console(200).print(_table(rows))


@study_app.command("diff")
@with_options
def diff_command(
    one: Annotated[Path, typer.Argument(metavar="STORE", help="A store.")],
    other: Annotated[Path, typer.Argument(metavar="STORE", help="Another store.")],
    as_json: LastJson = False,
) -> None:
    """What only one of two stores has, and what came out otherwise; exit status 1 if any."""
    with needs("study", "studies need"):
        stores = [_open(path) for path in (one, other)]
    first, second = ({row.cell: row for row in kept.rows()} for kept in stores)
    for kept in stores:
        _warn_of_dropped(kept)
    differences = [*_differences(first, second, str(one), str(other))]
    if as_json:
        typer.echo(json.dumps(differences))
    else:
        for found in differences:
            typer.echo(printable(f"{found['what']}: {found['how']}"))
        if not differences:
            typer.echo(f"{len(first)} runs, no difference")
    if differences:
        raise typer.Exit(DIFFERENT)


def _cells(
    file: Path, source: str | None, patterns: Sequence[str], *, trust: bool
) -> "tuple[Study, list[Cell]]":
    """A study and those of its cells that match any pattern."""
    from precrop.study.cells import expand, label
    from precrop.study.spec import read_study

    study = read_study(file, trust)
    if source is not None:
        study = study.at(source)
    cells = expand(study)
    if not patterns:
        return study, cells
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {cell.id for cell in cells if fnmatchcase(label(cell), f"*{pattern}*")}
        if not matching:
            raise PrecropError(
                f"--only {pattern!r} matches none of {len(cells)} cells, the first is "
                f"{label(cells[0])!r}"
            )
        chosen |= matching
    return study, [cell for cell in cells if cell.id in chosen]


@dataclass(frozen=True)
class _Images:
    """A study's images, or what stands for them in a dry run where they are not here."""

    loaded: "ImageData | None"

    def of(self, cell: "Cell") -> "ImageData":
        """Those that a cell is looked at with."""
        from precrop.study.unseen import unseen

        return unseen(cell) if self.loaded is None else self.loaded

    def shared(self, cells: "Sequence[Cell]") -> "list[list[Cell]]":
        """Cells with the same images: all of them, or those of each network."""
        found: dict[str, list[Cell]] = {}
        for cell in cells:
            key = "" if self.loaded is not None else f"{cell.network} {cell.recipe}"
            found.setdefault(key, []).append(cell)
        return list(found.values())


def _images(study: "Study", *, needed: bool) -> _Images:
    """The images of a study.

    Args:
        study: it says where they are.
        needed: else images that are not here are done without, and nothing is downloaded.
    """
    from precrop.training.data import load_data
    from precrop.training.sources import at_hand

    here = at_hand(study.data)
    if not here and not needed:
        say(
            f"no images of {study.data_name} here (--data DIR says where they are): sizes are "
            "for noise in their place"
        )
        return _Images(None)
    try:
        return _Images(load_data(study.data, image_size=study.image_size))
    except PrecropError as error:
        if here:
            raise
        raise PrecropError(f"{error}; --data DIR says where the study's images are") from error


def _usual_store(study: "Study") -> Path:
    return Path("results") / study.name


def _store_of(where: Path, store: Path | None) -> Path:
    """The store that is meant by a store, or by the file of a study."""
    from precrop.study.spec import read_study

    if not where.is_file():
        if store is not None:
            raise PrecropError(
                f"--store is for the file of a study, and {where} is not one: drop it"
            )
        return where
    return store or _usual_store(read_study(where, trust=True))  # nothing of it is run


def _open(path: Path) -> "Store":
    from precrop.study.store import Store

    return Store.open(path)


def _check_images(
    cells: "Sequence[Cell]", kept: "Store | None", rows: "Sequence[Row]", images: "ImageData"
) -> None:
    """A store has results on one set of images: names of data are no proof."""
    mine = {cell.id for cell in cells}
    for row in rows:
        if row.cell in mine and row.status == "done" and row.data_digest != images.digest:
            assert kept is not None
            raise PrecropError(
                f"{kept.path} has results on other images of {row.data} than "
                f"{cells[0].data}: name another --store, or those images with --data"
            )


def _print_planned(
    cells: "Sequence[Cell]", todo: "Sequence[Cell]", images: _Images | None, as_json: bool
) -> None:
    """What would run. Seeds differ by chance alone: the first of a variant's stands for all."""
    from precrop.study.cells import label

    alike: dict[str, list[Cell]] = {}
    for cell in todo:
        alike.setdefault(replace(cell, seed=0).id, []).append(cell)
    planned = [] if images is None else [_planned(same, images) for same in alike.values()]
    if as_json:
        typer.echo(json.dumps({"cells": len(cells), "left": len(todo), "planned": planned}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "seeds", "params", "MACs", "share", box=None)
    for entry, same in zip(planned, alike.values(), strict=False):
        what = label(same[0]).rpartition(", seed")[0]
        seeds = " ".join(map(str, entry["seeds"]))
        shares = " ".join(
            f"{entry[name] / entry[f'base_{name}']:.1%}" for name in ("params", "macs")
        )
        table.add_row(plain(what), seeds, f"{entry['params']:,}", f"{entry['macs']:,}", shares)
    if planned:
        Console(highlight=False).print(table)
    typer.echo(f"{len(todo)} of {len(cells)} cells would run")


def _planned(same: "Sequence[Cell]", images: _Images) -> dict[str, Any]:
    from precrop.study.cells import prepare
    from precrop.training.loop import sample
    from precrop.training.networks import build

    data = images.of(same[0])
    found = prepare(same[0], data)
    built = build(found.run, lambda: sample(found.run, data))
    return {
        "cells": [cell.id for cell in same],
        "variant": same[0].variant,
        "network": same[0].network.name,
        "seeds": [cell.seed for cell in same],
        "params": built.params,
        "macs": built.macs,
        "base_params": found.base_params,
        "base_macs": found.base_macs,
    }


def _table(rows: "Sequence[Row]") -> "Table":
    from rich.table import Table

    table = Table(box=None)
    for column in ("network", "variant", "asked", "seed", "run"):
        table.add_column(column)
    for column in ("params", "MACs", "right", "best", "loss", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("error")
    for row in rows:
        asked = [f"{n} {s:.4g}" for n in ("params", "macs") if (s := _asked(row, n)) is not None]
        figures = [f"{row.params:,}", f"{row.macs:,}"] if row.params and row.macs else ["", ""]
        shares = [_percent(row.accuracy), _percent(row.best_accuracy)]
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        cells = (
            row.network,
            row.variant,
            " ".join(asked),
            str(row.seed),
            row.run or "",
            *figures,
            *shares,
            loss,
            f"{row.seconds:.1f}",
            row.error or "",
        )
        table.add_row(*map(plain, cells))
    return table


def _asked(row: "Row", name: str) -> float | None:
    value: float | None = getattr(row, f"asked_{name}")
    return value


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


_RESULTS = ("status", "run", "accuracy", "best_accuracy", "loss", "params", "macs")
"""Fields that are the same where a cell is run again on the same machine."""


def _differences(
    first: "Mapping[str, Row]", second: "Mapping[str, Row]", one: str, other: str
) -> Iterator[dict[str, Any]]:
    for cell in [*first, *(cell for cell in second if cell not in first)]:
        rows = first.get(cell), second.get(cell)
        there = [row for row in rows if row is not None]
        what = f"{there[0].network}, {there[0].variant}, seed {there[0].seed} ({cell})"
        if rows[0] is None or rows[1] is None:
            yield {"cell": cell, "what": what, "how": f"only in {one if rows[0] else other}"}
            continue
        changed = {
            name: [getattr(row, name) for row in there]
            for name in _RESULTS
            if getattr(rows[0], name) != getattr(rows[1], name)
        }
        if changed:
            how = ", ".join(f"{name} {a} and {b}" for name, (a, b) in changed.items())
            yield {"cell": cell, "what": what, "how": how, "fields": changed}


def _warn_of_dropped(kept: "Store | None") -> None:
    """Say what of a store could not be read, after it was read."""
    for name, reason in (kept.dropped if kept else {}).items():
        warn(f"{name} of {kept.path if kept else ''} is left out: {reason}")
