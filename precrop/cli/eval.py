"""The command ``eval``, and the options that ``recalibrate`` shares with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import precrop
from precrop.cli.arguments import load_images
from precrop.cli.options import WEIGHT_FILES, LastJson, TrainedOptions, with_options
from precrop.cli.output import warn_of_loss
from precrop.errors import PrecropError, needs
from precrop.files import check_picture, json_text
from precrop.plans.text import plain
from precrop.progress import bar

if TYPE_CHECKING:
    from torch import nn

    from precrop.training.data import ImageData


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(TrainedOptions):
    """Options for a run's checkpoint, or for a plan file and weights of its network."""

    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's folder, one of its checkpoints, or a plan file."
        ),
    ]
    weights: Annotated[Path | None, f"Weights of the plan's network: {WEIGHT_FILES}.", "FILE"] = (
        None
    )
    data: Annotated[str | None, "Images, as for train; by default those of the run.", "DATA"] = None

    def planned(self) -> "tuple[precrop.Plan, nn.Module, ImageData] | None":
        """Return the plan, its network with the weights and images; None for a run's checkpoint."""
        if self.weights is None:
            if self.arg:
                raise PrecropError("--arg is for a plan: give its --weights too, or drop it")
            return None
        from precrop.plans.state_dicts import load_state

        if self.data is None:
            raise PrecropError("a plan has no images of its own: name some with --data")
        plan = precrop.Plan.load(self.checkpoint)
        network = plan.build(self.load(plan))
        load_state(network, self.weights)
        return plan, network, load_images(self.data, plan.input_shape)


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
