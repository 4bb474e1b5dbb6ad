"""The command ``study show``."""

from pathlib import Path
from typing import Annotated

import typer

from precrop.cli.options import LastJson, with_options
from precrop.cli.studies import StoreFolder, StudyOptions, opened
from precrop.errors import PrecropError
from precrop.files import json_text
from precrop.plans.text import plain, wide_console


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
        where = study.folder(study.read())  # nothing of it is run
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
