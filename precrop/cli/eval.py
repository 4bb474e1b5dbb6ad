"""The command ``eval``."""

from pathlib import Path
from typing import Annotated

import typer

from precrop.cli.checkpoint import CheckpointOptions
from precrop.cli.options import LastJson, with_options
from precrop.cli.output import plain, warn_of_loss
from precrop.errors import needs
from precrop.files import check_picture, json_text
from precrop.progress import bar


@with_options
def eval_command(
    given: CheckpointOptions,
    confusion: Annotated[
        Path | None, "Draw the confusion matrix: which classes are taken for which.", "FILE.png"
    ] = None,
    as_json: LastJson = False,
) -> None:
    """Evaluate a checkpoint, or a plan and weights, on the held-out images."""
    with needs("training needs", "precrop[train]"):
        from precrop.training.evaluate import draw_confusion, evaluate, evaluate_checkpoint

    if confusion is not None:
        check_picture(confusion)
    planned = given.planned()
    if planned is None:
        found = evaluate_checkpoint(given.checkpoint, given.data, trust=given.trusted, progress=bar)
    else:
        plan, network, images = planned
        name = given.model or (None if plan.source is None else plan.source.name)
        found = evaluate(network, images, name, progress=bar)
    warn_of_loss(found.loss)
    if as_json:
        typer.echo(json_text(found.to_json()))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("class", "images", "accuracy", box=None)
        for (label, share), total in zip(found.per_class.items(), found.images, strict=True):
            table.add_row(plain(label), f"{total:,}", f"{share:.2%}" if total else "none")
        Console().print(table)
        typer.echo(
            f"accuracy {found.accuracy:.2%}, loss {found.loss:.4f}; "
            f"{found.params:,} parameters, {found.macs:,} MACs; {found.seconds:.1f} s"
        )
    if confusion is not None:
        draw_confusion(found, confusion)
