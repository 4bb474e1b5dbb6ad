"""The commands ``study status``, ``show`` and ``diff``, and what ``study run`` shares with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precrop.cli.options import LastJson, with_options
from precrop.cli.output import print_line, warn
from precrop.errors import PrecropError, needs
from precrop.files import json_text
from precrop.plans.text import plain, wide_console

if TYPE_CHECKING:
    from precrop.study.rows import Row
    from precrop.study.spec import Study
    from precrop.study.store import Store

DIFFERENT = 1
"""Exit status if there is any difference."""
_RESULTS = ("status", "run", "accuracy", "best_accuracy", "loss", "params", "macs")
"""Fields that stay the same when a cell is run again on the same machine."""
StoreFolder = Annotated[Path | None, "The folder of the results; results/NAME by default.", "DIR"]


@dataclass(frozen=True)
class StudyOptions:
    """Options for a study, and for the folder of its results."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study: a YAML file.")]
    store: StoreFolder = None

    def read(self, trust: bool = True) -> "Study":
        """Read the study; without ``trust``, refuse one that names code to be run."""
        with needs("studies need", "precrop[study]"):
            from precrop.study.spec import read_study
        return read_study(self.file, trust)

    def folder(self, study: "Study") -> Path:
        """Return the folder of the study's results."""
        return self.store or Path("results") / study.name


def opened(path: Path, *, create: bool = False) -> "tuple[Store, list[Row]]":
    """Open a store and read its rows; warn of each part of it that cannot be read."""
    with needs("studies need", "precrop[study]"):
        from precrop.study.store import Store
    store = Store.open(path, create=create)
    rows = store.rows()
    for part, why in store.dropped.items():
        warn(f"{part} of {path} is left out: {why}")
    return store, rows


@with_options
def status_command(options: StudyOptions, as_json: LastJson = False) -> None:
    """Show how far a study is: the runs that are done, running, failed and left."""
    study = options.read()  # trusted, as none of its code is run here
    from precrop.study.cells import Cell, expand, label
    from precrop.study.locks import is_claimed
    from precrop.study.progress import duration

    cells, folder = expand(study), options.folder(study)
    rows = {row.cell: row for row in opened(folder)[1]} if folder.exists() else {}
    states: dict[str, list[Cell]] = {"done": [], "failed": [], "running": [], "left": []}
    for cell in cells:
        state: str = rows[cell.id].status if cell.id in rows else "left"
        if state != "done" and is_claimed(folder / "claims" / cell.id):
            state = "running"
        states[state].append(cell)
    trained = sum(rows[cell.id].seconds for cell in states["done"])
    overhead = sum(rows[cell.id].overhead for cell in states["done"])
    failures = {label(cell): rows[cell.id].error for cell in states["failed"]}
    counts = {state: len(found) for state, found in states.items()}
    if as_json:
        content = {"study": study.name, "store": str(folder), **counts, "seconds": trained}
        typer.echo(json_text({**content, "overhead": overhead, "failures": failures}))
        return
    print_line(f"{study.name}: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    beside = f", {overhead / trained:.1%} overhead" if trained else ""
    print_line(f"{duration(trained)} of training{beside}; {folder}")
    for cell in states["running"]:
        print_line(f"running: {label(cell)}")
    for name, error in failures.items():
        print_line(f"failed: {name}: {error}")


@with_options
def show_command(
    where: Annotated[
        Path, typer.Argument(metavar="STORE", help="A store, or the file of a study.")
    ],
    store: StoreFolder = None,
    as_json: LastJson = False,
) -> None:
    """Show the runs in a store as a table, or with --json one line of JSON per run."""
    if where.is_file():
        study = StudyOptions(where, store)
        where = study.folder(study.read())  # trusted, as none of its code is run here
    elif store is not None:
        raise PrecropError(f"--store is for the file of a study, and {where} is not one: drop it")
    _, rows = opened(where)
    if as_json:
        from precrop.study.rows import FIELDS

        for row in rows:
            fields = {name: getattr(row, name) for name in FIELDS}
            typer.echo(json_text({**fields, "history": list(row.history)}, default=str))
        return
    from rich.table import Table

    table = Table("network", "variant", "asked", "seed", "run", box=None)
    for column in ("params", "MACs", "accuracy", "best", "loss", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("error")
    for row in rows:
        asked = {"params": row.asked_params, "macs": row.asked_macs}
        cells = (
            row.network,
            row.variant,
            " ".join(f"{name} {share:.4g}" for name, share in asked.items() if share is not None),
            str(row.seed),
            row.run or "",
            _figure(row.params, ","),
            _figure(row.macs, ","),
            _figure(row.accuracy, ".2%"),
            _figure(row.best_accuracy, ".2%"),
            _figure(row.loss, ".4f"),
            _figure(row.seconds, ".1f"),
            row.error or "",
        )
        table.add_row(*map(plain, cells))
    wide_console(200).print(table)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


@with_options
def diff_command(
    one: Annotated[Path, typer.Argument(metavar="STORE", help="A store.")],
    other: Annotated[Path, typer.Argument(metavar="STORE", help="Another store.")],
    as_json: LastJson = False,
) -> None:
    """List runs that only one of two stores has, or whose results differ; exit status 1 if any."""
    first, second = ({row.cell: row for row in opened(path)[1]} for path in (one, other))
    differences = [*_differences(first, second, str(one), str(other))]
    if as_json:
        typer.echo(json_text(differences))
    else:
        for found in differences:
            print_line(f"{found['what']}: {found['how']}")
        if not differences:
            typer.echo(f"{len(first)} runs, no difference")
    if differences:
        raise typer.Exit(DIFFERENT)


def _differences(
    first: "Mapping[str, Row]", second: "Mapping[str, Row]", one: str, other: str
) -> Iterator[dict[str, Any]]:
    for cell in {**first, **second}:
        there = [rows[cell] for rows in (first, second) if cell in rows]
        what = f"{there[0].network}, {there[0].variant}, seed {there[0].seed} ({cell})"
        if len(there) == 1:
            yield {"cell": cell, "what": what, "how": f"only in {one if cell in first else other}"}
            continue
        both = {name: [getattr(row, name) for row in there] for name in _RESULTS}
        changed = {name: [a, b] for name, (a, b) in both.items() if a != b}
        if changed:
            how = ", ".join(f"{name} {a} and {b}" for name, (a, b) in changed.items())
            yield {"cell": cell, "what": what, "how": how, "fields": changed}
