"""The command ``recalibrate``. Heavy imports wait inside it, as in `precrop.cli`."""

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precrop.cli.arguments import Args, Trusted, plan_source
from precrop.cli.train import lightning, load_images
from precrop.errors import PrecropError
from precrop.files import check_writable

if TYPE_CHECKING:
    from torch import nn

    from precrop.plans.plan import Plan
    from precrop.training.data import ImageData

USUAL_BATCHES, USUAL_SIZE = 16, 128


def recalibrate_command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's folder, one of its checkpoints, or a plan file."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="First part of the written files' names, or a folder."),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="The plan's network's weights."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="As for train; by default the run's own."),
    ] = None,
    batches: Annotated[
        int, typer.Option(metavar="N", help="Batches of training images.")
    ] = USUAL_BATCHES,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images of a batch.")] = USUAL_SIZE,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The plan's original, if not its own; of a run, its network."
        ),
    ] = None,
    arg: Args = None,
    trust: Trusted = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Estimate batch norms' statistics anew on a few batches, as after cropping trained weights."""
    if batches < 1 or batch_size < 2:
        raise PrecropError(
            f"--batches {batches} and --batch-size {batch_size} make no sense: write at least 1 "
            "and 2"
        )
    prefix = output / checkpoint.stem if output.is_dir() else output
    check_writable(prefix.with_name(f"{prefix.name}.safetensors"))
    with lightning():
        from precrop.trained.statistics import recalibrate

    if weights is not None:
        network, plan, images = _planned(checkpoint, weights, data, model, arg, trust)
    elif arg:
        raise PrecropError("--arg is for a plan: give its --weights too, or drop it")
    else:
        network, plan, images = _of_run(checkpoint, data, model or trust)
    recalibrate(network, islice(_batches(images, batch_size), batches))
    path = _written(network, plan, prefix)
    if as_json:
        typer.echo(json.dumps({"weights": str(path), "batches": batches}))
        return
    typer.echo(f"statistics of {batches} batches of {batch_size} images: {path}")


def _planned(
    plan_file: Path, weights: Path, data: str | None, model: str | None, arg: Any, trust: bool
) -> "tuple[nn.Module, Plan | None, ImageData]":
    from precrop.plans.plan import Plan
    from precrop.plans.weights import load_weights
    from precrop.zoo import load_model

    if data is None:
        raise PrecropError("a plan has no images of its own: name some with --data")
    plan = Plan.load(plan_file)
    name, args = plan_source(plan, model, arg, trust)
    network = plan.build(load_model(name, args))
    load_weights(network, weights)
    return network, plan, load_images(data, ",".join(map(str, plan.input_shape)))


def _of_run(
    checkpoint: Path, data: str | None, trust: Any
) -> "tuple[nn.Module, Plan | None, ImageData]":
    from precrop.training.data import load_again
    from precrop.training.evaluate import load_trained

    _, run, network = load_trained(checkpoint, trust)
    shape = ",".join(map(str, run.input_shape))
    images = (
        load_again(run.data, run.input_shape, run.data_digest)
        if data is None
        else load_images(data, shape)
    )
    return network, run.plan, images


def _batches(images: "ImageData", batch_size: int) -> Any:
    """Training images in random order, as they are."""
    import torch

    from precrop.training.data import train_batches
    from precrop.training.module import augmentation
    from precrop.training.recipes import find_recipe

    recipe = dataclasses.replace(find_recipe(None, images.name), crop=0, flip=False, cutout=0)
    return train_batches(
        images,
        batch_size,
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
        epoch=0,
        augment=augmentation(recipe),
    )


def _written(network: "nn.Module", plan: "Plan | None", prefix: Path) -> Path:
    """Write the weights, and beside them the plan if there is one."""
    from precrop.files import replacing
    from precrop.plans.weights import save_built, save_tensors

    if plan is not None:
        return save_built(network, plan, prefix, prefix.name)[0]
    path = prefix.with_name(f"{prefix.name}.safetensors")
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        save_tensors(tensors, temporary, {"format": "pt"})
    return path
