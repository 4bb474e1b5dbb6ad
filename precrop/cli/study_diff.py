"""The command ``study diff``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precrop.cli.options import LastJson, with_options
from precrop.cli.output import print_line
from precrop.cli.studies import opened
from precrop.files import json_text

if TYPE_CHECKING:
    from precrop.study.rows import Row

DIFFERENT = 1
"""Exit status where there is any difference."""
_RESULTS = ("status", "run", "accuracy", "best_accuracy", "loss", "params", "macs")
"""Fields that are the same where a cell is run again on the same machine."""


@with_options
def diff_command(
    one: Annotated[Path, typer.Argument(metavar="STORE", help="A store.")],
    other: Annotated[Path, typer.Argument(metavar="STORE", help="Another store.")],
    as_json: LastJson = False,
) -> None:
    """Runs that only one of two stores has, or whose results differ; exit status 1 if any."""
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
