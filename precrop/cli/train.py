"""The command ``train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import precrop
from precrop.cli.arguments import arguments, load_images
from precrop.cli.arguments import input_shape as shape_of
from precrop.cli.options import WEIGHT_FILES, Args, LastJson, ModelName, check_init, with_options
from precrop.cli.output import goes_on, print_line, warn_of_loss
from precrop.errors import PrecropError, needs
from precrop.files import json_text
from precrop.model_spec import ModelSpec
from precrop.plans.kinds import Init
from precrop.progress import note, speaks
from precrop.training.recipes import RECIPES, Recipe, find_recipe, settings, settings_help
from precrop.trust import runs_user_code

if TYPE_CHECKING:
    from precrop.training.data import ImageData
    from precrop.training.folder import Result
    from precrop.training.runs import MaskSpec, Run


@dataclass(frozen=True)
class RecipeOptions:
    """Options for a recipe by name, and for changes to it."""

    recipe: Annotated[
        str | None, f"{', '.join(RECIPES)}; by default the usual one for the data."
    ] = None
    epochs: Annotated[int | None, "Passes over the training images."] = None
    batch_size: Annotated[int | None, "Images per step, on all devices together."] = None
    lr: Annotated[float | None, "The highest learning rate."] = None
    precision: Annotated[
        Literal["auto", "bf16", "fp32"] | None,
        "Arithmetic; auto is bf16 where the device gains from it.",
    ] = None
    changes: Annotated[
        list[str] | None, f"Change the recipe; repeatable. {settings_help()}.", "NAME=VALUE"
    ] = None

    def changed(self) -> dict[str, Any]:
        """Return the changes to the recipe, by options of their own and by ``--set``."""
        own = ("epochs", "batch_size", "lr", "precision")
        direct = {name: value for name in own if (value := getattr(self, name)) is not None}
        pairs = settings(self.changes or ())
        for name in direct:
            if name in pairs:
                option = "--" + name.replace("_", "-")
                raise PrecropError(f"{option} and --set {name}= are one setting: drop one of them")
        return {**direct, **pairs}


@dataclass(frozen=True)
class MaskOptions:
    """Options for a mask of the network, and for its budgets."""

    mask: Annotated[
        str | None,
        "Mask the network instead: synflow:weight or ./mine.py:score:weight, of weight, kernel, "
        "filter or channel; with --params or --macs.",
        "METHOD:GRANULARITY",
    ] = None
    mask_option: Annotated[
        list[str] | None,
        "An option of the mask's method (batch_norm=stored); repeatable.",
        "NAME=VALUE",
    ] = None
    params: Annotated[
        str | None, "The mask's budget of weights: a share (0.1) or a number (1M)."
    ] = None
    macs: Annotated[str | None, "The mask's budget of multiply-accumulates."] = None

    def spec(self) -> "MaskSpec | None":
        """Return the mask, or None if none is asked for."""
        if self.mask is None:
            if self.mask_option:
                raise PrecropError(
                    "--mask-option is for a mask: add --mask snip:weight, or drop it"
                )
            if self.params is not None or self.macs is not None:
                raise PrecropError(
                    "--params and --macs are a mask's budgets: add --mask synflow:weight, or make "
                    "a plan with `precrop plan` and give it with --plan"
                )
            return None
        from precrop.pruning.methods import take_own_method
        from precrop.training.runs import MaskSpec, split_mask

        method, _ = split_mask(self.mask)
        if runs_user_code(method):
            take_own_method(method)
        return MaskSpec.parse(self.mask, self.params, self.macs, arguments(self.mask_option))


@dataclass(frozen=True)
class RunOptions:
    """Options for the network to train, its images and its initial weights."""

    model: ModelName
    plan: Annotated[Path | None, "Crop the network by this plan.", "FILE.json"] = None
    data: Annotated[str, "digits (built in), cifar10, cifar100, or a folder.", "DATA"] = "digits"
    seed: Annotated[int, "Seed of the weights, the images' order and augmentation."] = 0
    init: Annotated[
        Init,
        "A cropped network's weights: sliced from the original's, drawn anew, or the original's "
        "channels with the largest filters (l1, l2) or batch norm scales (bn).",
    ] = "slice"
    weights: Annotated[
        Path | None,
        f"Start from these: {WEIGHT_FILES}, of the network, or of the cropped one.",
        "FILE",
    ] = None
    arg: Args = None

    def check(self) -> None:
        """Refuse options that make no sense together."""
        if self.init != "slice" and self.plan is None:
            raise PrecropError("--init is for a cropped network: add --plan, or drop it")
        check_init(self.init, self.weights)

    def run(
        self,
        images: "ImageData",
        recipe: Recipe,
        plan: "precrop.Plan | None",
        mask: "MaskSpec | None",
    ) -> "Run":
        """Return the run: everything that the result of the training depends on."""
        from precrop.training.networks import for_classes
        from precrop.training.runs import Run, Start

        return Run(
            model=for_classes(ModelSpec(self.model, arguments(self.arg)), len(images.classes)),
            data=self.data,
            **images.of_run,
            recipe=recipe,
            seed=self.seed,
            plan=plan,
            init=self.init,
            mask=mask,
            weights=None if self.weights is None else Start.of(self.weights),
        )


@with_options
def train_command(
    wanted: RunOptions,
    masked: MaskOptions,
    recipe: RecipeOptions,
    devices: Annotated[int, "GPUs, or processes on a CPU."] = 1,
    compiled: Annotated[bool, "Compile the network (torch.compile)."] = False,
    logger: Annotated[
        list[str] | None,
        "csv, tensorboard, wandb, mlflow or none; repeatable. csv and tensorboard by default.",
    ] = None,
    output: Annotated[Path, "The folder in which the run gets its own folder."] = Path("runs"),
    input_shape: Annotated[
        str | None,
        "Images are scaled to it: 3,224,224. By default the plan's, or they stay as they are.",
        "SHAPE",
    ] = None,
    workers: Annotated[
        int | None,
        "Processes that read images which do not fit in memory; one per core by default.",
    ] = None,
    as_json: LastJson = False,
) -> None:
    """Train a network: dense, cropped by a plan, or masked. Run it again to resume it."""
    changed = recipe.changed()
    wanted.check()
    if workers is not None and workers < 0:
        raise PrecropError(f"--workers {workers} is not a number of processes: write 0 or more")
    with needs("training needs", "precrop[train]"):
        from precrop.training.devices import is_first_process
        from precrop.training.logs import USUAL
        from precrop.training.loop import train

    plan = None if wanted.plan is None else precrop.Plan.load(wanted.plan)
    asked = None if input_shape is None else shape_of(input_shape)
    images = load_images(wanted.data, asked or _planned_shape(plan))
    usual = find_recipe(recipe.recipe, images.name)
    chosen = usual.fitted(images.count, changed)
    run = wanted.run(images, chosen, plan, masked.spec())
    is_first = is_first_process()
    if is_first:
        if chosen.batch_size != usual.batch_size and "batch_size" not in changed:
            one = images.count == 1
            few = "1 training image is" if one else f"{images.count} training images are"
            note(
                f"{few} fewer than the batch size {usual.batch_size}: trained in batches of "
                f"{chosen.batch_size}, at learning rate {chosen.lr:.4g}"
            )
        _announce(run, output / run.name)
    with goes_on(f" from {output / run.name}", say_so=is_first):
        result = train(
            run,
            data=images,
            output=output,
            devices=devices,
            compiled=compiled,
            loggers=tuple(logger or USUAL),
            progress=speaks(),
            workers=workers,
        )
    if is_first:
        _print_result(result, as_json)


def _announce(run: "Run", folder: Path) -> None:
    how = "dense"
    if run.plan is not None:
        how = f"cropped by a plan of {run.plan.params:,} parameters"
    elif run.mask is not None:
        how = f"masked by {run.mask.method} at granularity {run.mask.granularity}"
    data = f"{run.data_name}{_at(run)}"
    note(f"{run.model.name} ({how}) on {data}, {run.recipe.epochs} epochs, in {folder}")


def _at(run: "Run") -> str:
    """Describe the images' size next to the plan's, if there is a plan."""
    if run.plan is None:
        return ""
    size, planned = (_by(shape) for shape in (run.input_shape, run.plan.input_shape))
    if planned in (size, None):
        return f" at {size}, the plan's input size"
    return f" at {size} (the plan is for {planned}, and so are its MACs)"


def _by(shape: Any) -> str | None:
    """Return the shape of an image like 3x224x224; None for other inputs."""
    is_image = isinstance(shape, tuple) and len(shape) == 3 and all(type(n) is int for n in shape)
    return "x".join(map(str, shape)) if is_image else None


def _planned_shape(plan: "precrop.Plan | None") -> tuple[int, ...] | None:
    """Return the image shape that a plan was made for; None if it takes other inputs."""
    if plan is None or _by(plan.input_shape) is None or plan.input_shape[0] != 3:
        return None
    return tuple(plan.input_shape)


def _print_result(result: "Result", as_json: bool) -> None:
    if result.finished:
        note(f"run {result.run} is finished already: this is its result")
    warn_of_loss(result.loss)
    if as_json:
        typer.echo(json_text(result.to_json()))
        return
    print_line(
        f"accuracy {result.accuracy:.2%} on held-out images, loss {result.loss:.4f}; "
        f"{result.params:,} parameters, {result.macs:,} MACs; {result.seconds:.1f} s; "
        f"{result.folder}"
    )
