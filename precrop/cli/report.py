"""The command ``report``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.cli.options import with_options
from precrop.cli.output import print_line
from precrop.cli.study import opened
from precrop.errors import needs
from precrop.files import json_text
from precrop.plans.text import plain
from precrop.progress import step

if TYPE_CHECKING:
    from precrop.study.rows import Row

STUDIES = Path("studies")


@with_options
def report_command(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE...", help="Folders that `precrop study run` wrote to."),
    ],
    output: Annotated[Path, "The folder that gets the report; made if need be."] = Path("report"),
    margin: Annotated[float, "Percentage points of accuracy that count as no difference."] = 0.5,
    study: Annotated[
        list[Path] | None,
        "A study's file, or a folder of them, whose claims are judged (the folder studies, where "
        "there is one, unless said); repeatable.",
        "FILE.yaml",
    ] = None,
    as_json: Annotated[bool, "Print the verdicts as JSON."] = False,
) -> None:
    """Write a report on studies: report.md, index.html (works offline) and figures."""
    with needs("a report needs", "precrop[report]"):
        from precrop.report.words import summary, untouched
        from precrop.report.writing import PAGE, TEXT, write_report
    with step("reading the stores"):
        rows = stored_rows(stores)
    with step(f"writing the report to {output}"):
        usual = [STUDIES] if STUDIES.is_dir() else []
        report = write_report(rows, output, margin, study or usual)
    if as_json:
        found = {name: verdict.to_json() for name, verdict in report.verdicts.items()}
        typer.echo(json_text(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("verdict", "claim", box=None)
    for verdict in report.verdicts.values():
        if verdict.judged:
            table.add_row(verdict.answer, plain(verdict.claim))
    if table.rows:
        Console().print(table)
    if (line := untouched(report.verdicts)) is not None:
        typer.echo(line)
    print_line(f"{summary(report.frame)} {report.folder / TEXT}, {report.folder / PAGE}")


def stored_rows(stores: Iterable[Path]) -> list["Row"]:
    """Return the stores' rows, one per cell and images: the first that is done, else the first."""
    rows = [row for store in stores for row in opened(store)[1]]
    done = {row.cell for row in rows if row.status == "done"}
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.cell not in done:
            found.setdefault((row.cell, ""), row)
        elif row.status == "done":
            found.setdefault((row.cell, row.data_digest), row)
    return list(found.values())
