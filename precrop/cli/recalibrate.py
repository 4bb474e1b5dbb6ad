"""The command ``recalibrate``. Heavy imports wait inside it, as in `precrop.cli`."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.cli.checkpoint import CheckpointOptions
from precrop.cli.options import LastJson, with_options
from precrop.errors import PrecropError, needs
from precrop.files import check_writable
from precrop.progress import bar

if TYPE_CHECKING:
    from torch import nn

    from precrop.plans.plan import Plan

USUAL_BATCHES, USUAL_SIZE = 16, 128


@with_options
def recalibrate_command(
    given: CheckpointOptions,
    output: Annotated[Path, "First part of the written files' names, or a folder."],
    batches: Annotated[int, "Batches of training images.", "N"] = USUAL_BATCHES,
    batch_size: Annotated[int, "Images of a batch.", "N"] = USUAL_SIZE,
    as_json: LastJson = False,
) -> None:
    """Estimate batch norms' statistics anew on a few batches, as after cropping trained weights."""
    if batches < 1 or batch_size < 2:
        raise PrecropError(
            f"--batches {batches} and --batch-size {batch_size} make no sense: write at least 1 "
            "and 2"
        )
    own = given.checkpoint.stem if given.checkpoint.is_file() else given.checkpoint.name
    prefix = output / own if output.is_dir() else output
    prefix = prefix / own if prefix.is_dir() else prefix  # as `save_built` takes a folder
    check_writable(prefix.with_name(f"{prefix.name}.safetensors"))
    with needs("training needs", "precrop[train]"):
        from precrop.trained.statistics import recalibrate
        from precrop.training.batches import train_batches
        from precrop.training.evaluate import images_of, load_trained

    plan: Plan | None
    planned = given.planned()
    if planned is None:
        _, run, network = load_trained(given.checkpoint, given.trusted)
        plan, images = run.plan, images_of(run, given.data)
    else:
        plan, network, images = planned
    shuffled = train_batches(images, batch_size, seed=0, epoch=0)
    batches = min(batches, len(shuffled))
    recalibrate(network, bar(islice(shuffled, batches), "recalibrating", batches))
    path = _written(network, plan, prefix)
    text = f"statistics of {batches} batches of {batch_size} images: {path}"
    typer.echo(json.dumps({"weights": str(path), "batches": batches}) if as_json else text)


def _written(network: "nn.Module", plan: "Plan | None", prefix: Path) -> Path:
    """Write the weights, and beside them the plan if there is one."""
    from precrop.files import replacing
    from precrop.plans.weights import save_built, save_tensors

    if plan is not None:
        return save_built(network, plan, prefix, prefix.name)[0]
    path = prefix.with_name(f"{prefix.name}.safetensors")
    with replacing(path) as temporary:
        save_tensors(network.state_dict(), temporary, {"format": "pt"})
    return path
