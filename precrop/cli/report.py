"""The command ``report``. Heavy imports wait inside it, as in `precrop.cli.app`."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.errors import PrecropError, one_line

if TYPE_CHECKING:
    from precrop.report.writing import Report
    from precrop.study.rows import Row

StoreFolders = Annotated[
    list[Path],
    typer.Argument(metavar="STORE...", help="Folders that `precrop study run` wrote to."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder that gets the report; made if need be.")
]
Margin = Annotated[
    float, typer.Option(help="Percentage points of accuracy that count as no difference.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")]


def report_command(
    stores: StoreFolders,
    output: Output = Path("report"),
    margin: Margin = 0.5,
    as_json: AsJson = False,
) -> None:
    """Write what studies came to: report.md, index.html (needs no network) and figures."""
    try:
        from precrop.report.writing import write_report
    except ImportError as error:
        raise PrecropError(
            f"a report needs {error.name}, which is not installed: pip install 'precrop[report]'"
        ) from error
    report = write_report(stored_rows(stores), output, margin)
    if as_json:
        found = {name: verdict.to_json() for name, verdict in report.verdicts.items()}
        typer.echo(json.dumps(found))
        return
    _print(report)


def stored_rows(stores: Iterable[Path]) -> list["Row"]:
    """The rows of all stores; of a cell that several have finished, those of the first."""
    from precrop.study.store import Store

    found: list[Row] = []
    for store in stores:
        opened = Store.open(store)
        rows = opened.rows()
        finished = {row.cell for row in rows if row.status == "done"}
        known = {row.cell for row in found if row.status == "done" or row.cell not in finished}
        found = [row for row in found if row.cell in known]
        found += [row for row in rows if row.cell not in known]
        for part, why in opened.dropped.items():
            said = one_line(f"{store}: {part} cannot be read: {why}")
            print(f"precrop: warning: {said}", file=sys.stderr)
    return found


def _print(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    from precrop.report.words import summary
    from precrop.report.writing import PAGE, TEXT

    table = Table("verdict", "claim", box=None)
    for verdict in report.verdicts.values():
        table.add_row(verdict.answer, verdict.claim)
    Console().print(table)
    typer.echo(f"{summary(report.frame)} {report.folder / TEXT}, {report.folder / PAGE}")
