"""The commands ``train`` and ``eval``. Heavy imports wait inside them, as in `precrop.cli.app`."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from precrop.cli.arguments import Args, ModelName, Trusted, arguments, plain, plan_source
from precrop.cli.arguments import input_shape as read_shape
from precrop.errors import PrecropError, one_line
from precrop.training.recipes import RECIPES, find_recipe, settings, settings_help

if TYPE_CHECKING:
    from precrop.plans.kinds import Init as PlanInit
    from precrop.training.data import ImageData
    from precrop.training.evaluate import Evaluation
    from precrop.training.loop import Result
    from precrop.training.runs import Run

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE.json", help="Crop the network by this plan.")
]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD:GRANULARITY",
        help="Mask the network instead, as synflow:weight; with --params or --macs.",
    ),
]
MaskOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--mask-option",
        metavar="NAME=VALUE",
        help="An option of the mask's method (batch_norm=stored); repeatable.",
    ),
]
Params = Annotated[
    str | None, typer.Option(help="The mask's budget of weights: a share (0.1) or a number (1M).")
]
Macs = Annotated[str | None, typer.Option(help="The mask's budget of multiply-accumulates.")]
Data = Annotated[
    str, typer.Option(metavar="DATA", help="digits (built in), cifar10, cifar100, or a folder.")
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help=f"{', '.join(RECIPES)}; by default the usual one for the data."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step, on all devices together.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="The highest learning rate.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help=f"Change the recipe; repeatable. {settings_help()}."
    ),
]
Seed = Annotated[int, typer.Option(help="Of the weights, the images' order and augmentation.")]
Devices = Annotated[int, typer.Option(help="GPUs, or processes on a CPU.")]
Precision = Annotated[
    Literal["auto", "bf16", "fp32"] | None,
    typer.Option(help="auto is bf16 where the device gains from it."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network (torch.compile).")]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--logger",
        help="csv, tensorboard, wandb, mlflow or none; repeatable. csv and tensorboard by default.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder that gets a folder for the run.")
]
Init = Annotated[
    Literal["slice", "reset", "l1", "l2", "bn"],
    typer.Option(
        help="A cropped network's weights: sliced from the original's, drawn anew, or the "
        "original's channels with the largest filters (l1, l2) or batch norm scales (bn)."
    ),
]
InputShape = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Images are scaled to it: 3,224,224.")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes that read images which do not fit in memory; one a core."),
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


def train_command(
    model: ModelName,
    plan: PlanFile = None,
    mask: Mask = None,
    mask_option: MaskOptions = None,
    params: Params = None,
    macs: Macs = None,
    data: Data = "digits",
    recipe: RecipeName = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    changes: Settings = None,
    seed: Seed = 0,
    devices: Devices = 1,
    precision: Precision = None,
    compiled: Compile = False,
    logger: Loggers = None,
    output: Output = Path("runs"),
    init: Init = "slice",
    arg: Args = None,
    input_shape: InputShape = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Train a network: dense, cropped by a plan, or masked. The same command goes on with it."""
    direct = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
    wanted = _wanted(direct, settings(changes or ()))
    if init == "reset" and plan is None:
        raise PrecropError("--init is for a cropped network: add --plan, or drop it")
    if workers is not None and workers < 0:
        raise PrecropError(f"--workers {workers} is no number of processes: write 0 or more")
    with lightning():
        from precrop.training.logs import USUAL
        from precrop.training.loop import train

    images = load_images(data, input_shape)
    chosen = find_recipe(recipe, images.name).changed(wanted)
    masking = _mask(mask, mask_option, params, macs)
    run = _run(model, arg, images, data, chosen, seed, plan, init, masking)
    speaks = _speaks()
    if speaks:
        _announce(run, output / run.name)
    try:
        result = train(
            run,
            data=images,
            output=output,
            devices=devices,
            compiled=compiled,
            loggers=tuple(logger or USUAL),
            progress=True,
            workers=workers,
        )
    except KeyboardInterrupt:
        if speaks:
            _say(f"stopped; the same command goes on from {output / run.name}")
        raise typer.Exit(INTERRUPTED) from None
    if speaks:
        _print_result(result, as_json)


def eval_command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's folder, one of its checkpoints, or a plan file."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="The plan's network's weights."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The plan's original, if not its own; of a run, its network."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="As for train; by default the run's own."),
    ] = None,
    arg: Args = None,
    trust: Trusted = False,
    confusion: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw which classes are taken for which."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a checkpoint, or a plan and weights, on the held-out images."""
    with lightning():
        from precrop.training.evaluate import draw_confusion, evaluate_checkpoint

    if weights is None:
        if arg:
            raise PrecropError("--arg is for a plan: give its --weights too, or drop it")
        found = evaluate_checkpoint(checkpoint, data, trust=model or trust)
    else:
        found = _evaluate_plan(checkpoint, weights, model, data, arg, trust)
    if confusion is not None:
        draw_confusion(found, confusion)
    _print_evaluation(found, as_json)


def _wanted(direct: Mapping[str, Any], pairs: Mapping[str, str]) -> dict[str, Any]:
    """Changes to the recipe, those with options of their own and those of ``--set``."""
    for name, value in direct.items():
        if value is not None and name in pairs:
            option = "--" + name.replace("_", "-")
            raise PrecropError(f"{option} and --set {name}= are one setting: drop one of them")
    return {**{name: value for name, value in direct.items() if value is not None}, **pairs}


@contextmanager
def lightning() -> Iterator[None]:
    """Say in one line what is missing where training's own libraries are not installed."""
    try:
        yield
    except ImportError as error:
        raise PrecropError(
            f"training needs {error.name}, which is not installed: pip install 'precrop[train]'"
        ) from error


def load_images(data: str, input_shape: str | None) -> "ImageData":
    """The images, in the size that is asked for."""
    from precrop.training.data import load_data

    shape = None if input_shape is None else read_shape(input_shape)
    if shape is not None and (len(shape) != 3 or shape[1] != shape[2]):
        raise PrecropError(f"images are scaled to squares, as 3,224,224, not to {input_shape}")
    images = load_data(data, image_size=None if shape is None else shape[-1])
    if shape is not None and tuple(images.shape) != shape:
        given = "x".join(map(str, images.shape))
        raise PrecropError(f"the images of {data} are {given}, not {input_shape}")
    return images


def _run(
    model: str,
    arg: Sequence[str] | None,
    images: "ImageData",
    data: str,
    recipe: Any,
    seed: int,
    plan: Path | None,
    init: "PlanInit",
    mask: Any,
) -> "Run":
    from precrop.plans.plan import Plan
    from precrop.training.networks import builder_args
    from precrop.training.runs import Run

    return Run(
        model=model,
        args=builder_args(model, arguments(arg), len(images.classes)),
        data=data,
        data_name=images.name,
        data_digest=images.digest,
        classes=tuple(images.classes),
        input_shape=tuple(images.shape),
        recipe=recipe,
        seed=seed,
        plan=None if plan is None else Plan.load(plan),
        init=init,
        mask=mask,
    )


def _mask(
    mask: str | None, options: Sequence[str] | None, params: str | None, macs: str | None
) -> Any:
    if mask is None:
        if options:
            raise PrecropError("--mask-option is for a mask: add --mask snip:weight, or drop it")
        if params is not None or macs is not None:
            raise PrecropError(
                "--params and --macs are a mask's budgets: add --mask synflow:weight, or make a "
                "plan with `precrop plan` and give it with --plan"
            )
        return None
    from precrop.training.runs import MaskSpec

    return MaskSpec.parse(mask, params, macs, arguments(options))


def _evaluate_plan(
    plan_file: Path,
    weights: Path,
    model: str | None,
    data: str | None,
    arg: Sequence[str] | None,
    trust: bool,
) -> "Evaluation":
    from precrop.plans.plan import Plan
    from precrop.plans.weights import load_weights
    from precrop.training.evaluate import evaluate
    from precrop.zoo import load_model

    if data is None:
        raise PrecropError("a plan has no images of its own: name some with --data")
    plan = Plan.load(plan_file)
    name, args = plan_source(plan, model, arg, trust)
    network = plan.build(load_model(name, args))
    load_weights(network, weights)
    images = load_images(data, ",".join(map(str, plan.input_shape)))
    return evaluate(network, images)


def _speaks() -> bool:
    from precrop.training.devices import is_first_process

    return is_first_process()


def _say(text: str) -> None:
    print(f"precrop: {one_line(text)}", file=sys.stderr)


def _announce(run: "Run", folder: Path) -> None:
    how = "dense"
    if run.plan is not None:
        how = f"cropped by a plan of {run.plan.params:,} parameters"
    elif run.mask is not None:
        how = f"masked by {run.mask.method} at granularity {run.mask.granularity}"
    _say(f"{run.model} ({how}) on {run.data_name}, {run.recipe.epochs} epochs, in {folder}")


def _print_result(result: "Result", as_json: bool) -> None:
    if result.finished:
        _say(f"run {result.run} is finished already: this is its result")
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"{result.accuracy:.2%} of the held-out images right, loss {result.loss:.4f}; "
        f"{result.params:,} parameters, {result.macs:,} MACs; {result.seconds:.1f} s; "
        f"{result.folder}"
    )


def _print_evaluation(found: "Evaluation", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "images", "right", box=None)
    totals = found.confusion.sum(1).tolist()
    for (name, share), total in zip(found.per_class.items(), totals, strict=True):
        table.add_row(plain(name), f"{total:,}", f"{share:.2%}" if total else "none")
    Console().print(table)
    typer.echo(
        f"{found.accuracy:.2%} right, loss {found.loss:.4f}; "
        f"{found.params:,} parameters, {found.macs:,} MACs; {found.seconds:.1f} s"
    )
