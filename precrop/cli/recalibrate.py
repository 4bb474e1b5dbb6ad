"""The command ``recalibrate``."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import precrop
from precrop.cli.eval import CheckpointOptions
from precrop.cli.options import LastJson, with_options
from precrop.cli.output import print_line
from precrop.errors import PrecropError, needs
from precrop.files import check_writable, json_text, replacing
from precrop.progress import bar

USUAL_BATCHES, USUAL_SIZE = 16, 128


@with_options
def recalibrate_command(
    given: CheckpointOptions,
    output: Annotated[Path, "First part of the written files' names, or a folder."],
    batches: Annotated[int, "Batches of training images.", "N"] = USUAL_BATCHES,
    batch_size: Annotated[int, "Images of a batch.", "N"] = USUAL_SIZE,
    as_json: LastJson = False,
) -> None:
    """Re-estimate batch norm statistics on a few batches, as after cropping a trained network."""
    if batches < 1 or batch_size < 2:
        raise PrecropError(
            f"--batches {batches} and --batch-size {batch_size} make no sense: write at least 1 "
            "and 2"
        )
    source = given.checkpoint
    own = source.stem if source.is_file() else source.resolve().name
    prefix = output / own if output.is_dir() else output
    prefix = prefix / own if prefix.is_dir() else prefix  # like `save_built`
    path = prefix.with_name(f"{prefix.name}.safetensors")
    check_writable(path)
    with needs("training needs", "precrop[train]"):
        from precrop.trained.statistics import recalibrate
        from precrop.training.batches import train_batches
        from precrop.training.evaluate import images_of, load_trained

    plan: precrop.Plan | None
    planned = given.planned()
    if planned is None:
        _, run, network = load_trained(given.checkpoint, given.trusted)
        plan, images = run.plan, images_of(run, given.data)
    else:
        plan, network, images = planned
    shuffled = train_batches(images, batch_size, seed=0, epoch=0)
    batches = min(batches, len(shuffled))
    recalibrate(network, bar(islice(shuffled, batches), "recalibrating", batches))
    from precrop.plans.weights import save_built, save_tensors

    if plan is not None:
        save_built(network, plan, prefix, prefix.name)
    else:
        with replacing(path) as temporary:
            save_tensors(network.state_dict(), temporary, {"format": "pt"})
    text = f"statistics of {batches} batches of {batch_size} images: {path}"
    print_line(json_text({"weights": str(path), "batches": batches}) if as_json else text)
