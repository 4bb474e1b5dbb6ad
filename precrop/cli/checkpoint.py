"""The options of ``eval`` and ``recalibrate``: trained weights, of a run or of a plan's network."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from precrop.cli.arguments import load_images
from precrop.cli.options import WEIGHT_FILES, TrainedOptions
from precrop.errors import PrecropError

if TYPE_CHECKING:
    from torch import nn

    from precrop.plans.plan import Plan
    from precrop.training.data import ImageData


class Planned(NamedTuple):
    """A plan, its network with trained weights, and images for it."""

    plan: "Plan"
    network: "nn.Module"
    images: "ImageData"


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

    def planned(self) -> Planned | None:
        """What a plan and weights come to; None where a run's checkpoint is meant."""
        if self.weights is None:
            if self.arg:
                raise PrecropError("--arg is for a plan: give its --weights too, or drop it")
            return None
        from precrop.plans.plan import Plan
        from precrop.plans.state_dicts import load_state

        if self.data is None:
            raise PrecropError("a plan has no images of its own: name some with --data")
        plan = Plan.load(self.checkpoint)
        network = plan.build(self.load(plan))
        load_state(network, self.weights)
        return Planned(plan, network, load_images(self.data, plan.input_shape))
