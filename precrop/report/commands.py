"""The command ``report``. Heavy imports wait inside it, as in `precrop.cli`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.errors import PrecropError

if TYPE_CHECKING:
    from precrop.report.writing import Report

StoreFolder = Annotated[
    Path, typer.Argument(metavar="STORE", help="A folder that `precrop study run` wrote to.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder that gets the report; made if need be.")
]
Margin = Annotated[
    float, typer.Option(help="Percentage points of accuracy that count as no difference.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")]


def report_command(
    store: StoreFolder,
    output: Output = Path("report"),
    margin: Margin = 0.5,
    as_json: AsJson = False,
) -> None:
    """Write what a study came to: report.md, index.html (needs no network) and figures."""
    try:
        from precrop.report.writing import write_report
        from precrop.study.store import Store
    except ImportError as error:
        raise PrecropError(
            f"a report needs {error.name}, which is not installed: pip install 'precrop[report]'"
        ) from error
    opened = Store.open(store)
    rows = opened.rows()
    for part, why in opened.dropped.items():
        print(f"precrop: warning: {store}: {part} cannot be read: {why}", file=sys.stderr)
    report = write_report(rows, output, margin)
    if as_json:
        found = {name: verdict.to_json() for name, verdict in report.verdicts.items()}
        typer.echo(json.dumps(found))
        return
    _print(report)


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
