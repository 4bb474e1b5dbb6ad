"""The options of ``eval`` and ``recalibrate``: trained weights, of a run or of a plan's network."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import precrop
from precrop.cli.arguments import load_images
from precrop.cli.options import WEIGHT_FILES, TrainedOptions
from precrop.errors import PrecropError

if TYPE_CHECKING:
    from torch import nn

    from precrop.training.data import ImageData


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(TrainedOptions):
    """A run's checkpoint, or a plan file and weights of its network."""

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
        """A plan, its network with the weights, and images; None for a run's checkpoint."""
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
