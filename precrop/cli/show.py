"""The command ``show``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import precrop
from precrop.cli.options import AsJson, Summary, with_options
from precrop.cli.output import print_plan
from precrop.errors import PrecropError


@with_options
def show_command(
    plan_files: Annotated[
        list[Path], typer.Argument(metavar="PLAN.json...", help="A plan, or several to compare.")
    ],
    plot: Annotated[Path | None, "Draw the widths over depth.", "FILE.png"] = None,
    summary: Summary = False,
    as_json: AsJson = False,
) -> None:
    """Show a plan as a table, and as a picture with --plot; several plans side by side."""
    plan, *others = map(precrop.Plan.load, plan_files)
    if others:
        if plot is not None or summary:
            raise PrecropError("--plot and --summary show one plan: drop them, or name one file")
        compared = precrop.compare(plan, *others, names=_short_names(plan_files))
        typer.echo(compared.to_json() if as_json else str(compared))
        return
    if plot is not None:
        from precrop.plans.plot import plot as draw

        draw(plan, plot)
    print_plan(plan, as_json, summary)


def _short_names(files: Sequence[Path]) -> list[str]:
    """Return the files' stems if these all differ, or else the whole paths."""
    if len({*files}) < len(files):
        raise PrecropError("one plan file is named twice: name different files to compare")
    stems = [file.stem for file in files]
    return stems if len({*stems}) == len(stems) else list(map(str, files))
